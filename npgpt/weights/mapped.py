"""Tensors as they lie in a file: mapped into memory, not read.

A mapping is private and copied on write: as long as nobody writes into a tensor, its pages are the
file's own, shared with every other process that maps it and given back when memory is short;
whoever trains gets pages of their own, and the file never changes.
"""

import errno
import math
import mmap
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from npgpt.arrays import Array
from npgpt.errors import InputError
from npgpt.quantized_matrix import from_bfloat16, to_bfloat16

BFLOAT16 = "bfloat16"  # NumPy has no such dtype: the upper half of a float32
LFS = b"version https://git-lfs.github.com/spec/"
PICKLES = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
CHUNK = 1 << 22  # numbers widened, or rounded, at once
LARGEST = {"float16": 65504.0, BFLOAT16: 3.39e38, "float32": 3.403e38}


class MappedFile:
    """A file's bytes, mapped. Raises InputError for what is not a file that can be read, and for
    what stands where Git LFS has not put the file yet.

    `data`: (size,) uint8.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        try:
            if not stat.S_ISREG(os.stat(path).st_mode):  # a pipe would keep us waiting
                raise OSError(errno.EINVAL, "it is not a file")
            with open(path, "rb") as file:
                size = os.fstat(file.fileno()).st_size
                pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) if size else b""
        except FileNotFoundError:
            raise InputError(f"there is no file {path}") from None
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror}") from None
        self.pages = pages
        self.data = np.frombuffer(pages, np.uint8)
        if self.data[: len(LFS)].tobytes() == LFS:
            raise InputError(
                f"{path} is a Git LFS pointer of {self.data.size} bytes, not the weights: fetch "
                "them with git lfs pull, or with npgpt download"
            )

    def forget(self, start: int, stop: int) -> None:
        """Gives the pages within these bytes back, for whoever has read them and will not again.

        They must not have been written into: they come back as the file has them.
        """
        page = mmap.PAGESIZE
        start, stop = -(-start // page) * page, stop // page * page
        if stop > start and hasattr(mmap, "MADV_DONTNEED"):
            self.pages.madvise(mmap.MADV_DONTNEED, start, stop - start)


def refuse_pickle(file: MappedFile) -> None:
    """Raises InputError for what torch.save writes, the most usual file of weights."""
    head = file.data[:9].tobytes()
    if head.startswith(PICKLES) and head[8:] != b"{":  # safetensors whose header has 640 bytes
        raise InputError(
            f"{file.path} is a pickle, as torch.save writes it, and reading one runs whatever it "
            "says: refused. Convert it where you trust it: safetensors.torch.save_file("
            "{n: t.clone() for n, t in torch.load(FILE, weights_only=True).items()}, "
            "'model.safetensors')"
        )


class MappedTensor(NamedTuple):
    """One tensor in a mapped file."""

    file: MappedFile
    start: int  # the first of its bytes
    shape: tuple[int, ...]
    dtype: str  # NumPy's name, or "bfloat16"

    @property
    def nbytes(self) -> int:
        """How many bytes it takes in the file."""
        return math.prod(self.shape) * itemsize(self.dtype)

    def raw(self) -> Array:
        """The stored numbers as a view of the file, in its own dtype; bfloat16 as uint16."""
        return self.part(0, math.prod(self.shape)).reshape(self.shape)

    def part(self, first: int, last: int) -> Array:
        """Those of the numbers, taken as one row. A copy only where the file has them at an odd
        address."""
        kind = np.dtype(np.uint16 if self.dtype == BFLOAT16 else self.dtype)
        start, stop = (self.start + n * kind.itemsize for n in (first, last))
        found = self.file.data[start:stop]
        if found.size < stop - start:
            raise InputError(
                f"{self.file.path} is cut: numbers end at {stop:,}, it at {self.file.data.size:,}"
            )
        if start % kind.alignment:
            found = found.copy()  # kernels want their numbers at addresses that divide by the size
        return found.view(kind.newbyteorder("<"))

    def chunks(self, size: int = CHUNK) -> Iterator[Array]:
        """Yields pieces of at most `size` numbers, in order: float32 for float16 and bfloat16, else
        as they are.

        Each is gone from memory when the next is asked for; so nobody may have written into them.
        """
        count, width = math.prod(self.shape), itemsize(self.dtype)
        for first in range(0, count, size):
            last = min(first + size, count)
            yield widen(self.part(first, last), self.dtype)
            self.file.forget(self.start + first * width, self.start + last * width)

    def array(self) -> Array:
        """float32 or float64: a view of the file where it holds these, else a widened copy."""
        if self.dtype in ("float32", "float64"):
            return self.raw()
        out, first = np.empty(math.prod(self.shape), np.float32), 0
        for piece in self.chunks():
            out[first : first + piece.size] = piece
            first += piece.size
        return out.reshape(self.shape)


def short(value: Any) -> str:
    """What a file says, in at most 80 characters for a message."""
    try:
        text = repr(value)
    except RecursionError:
        text = "a nest of lists"
    return text if len(text) <= 80 else text[:77] + "..."


def itemsize(dtype: str) -> int:
    """Bytes of one number."""
    return 2 if dtype == BFLOAT16 else np.dtype(dtype).itemsize


def widen(numbers: Array, dtype: str) -> Array:
    """float32 for float16 and bfloat16 (as uint16), exact; all else as it is."""
    if dtype == BFLOAT16:
        return from_bfloat16(numbers)
    return numbers.astype(np.float32) if dtype == "float16" else numbers


def round_chunks(array: Array, dtype: str, name: str) -> Iterator[Array]:
    """The numbers of an array, taken as one row, in pieces of `dtype`: "float32", "float16", or
    "bfloat16", which comes as uint16. Rounded to nearest even.

    Raises InputError, with `name`, for what is too large for `dtype`.
    """
    flat = array.reshape(-1)
    for first in range(0, flat.size, CHUNK):
        piece = flat[first : first + CHUNK]
        with np.errstate(over="ignore", invalid="ignore"):  # NaNs stay what they are
            found = to_bfloat16(piece) if dtype == BFLOAT16 else piece.astype(dtype, copy=False)
        if (np.isinf(widen(found, dtype)) & np.isfinite(piece)).any():
            hint = ": try bfloat16" if dtype == "float16" else ""
            raise InputError(
                f"{name} has numbers beyond {LARGEST[dtype]:g}, the largest in {dtype}{hint}"
            )
        yield found
