"""Tensors as they lie in a file: mapped into memory, not read.

A mapping is private and copied on write: as long as nobody writes into a tensor, its pages are the
file's own, shared with every other process that maps it and given back when memory is short;
whoever trains gets pages of their own, and the file never changes.
"""

import math
import mmap
import os
import stat
from pathlib import Path
from typing import NamedTuple

import numpy as np

from npgpt.arrays import Array
from npgpt.errors import InputError

BFLOAT16 = "bfloat16"  # NumPy has no such dtype: the upper half of a float32
LFS = b"version https://git-lfs.github.com/spec/"
PICKLES = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
CHUNK = 1 << 22  # numbers widened at once


class Mapped:
    """A file's bytes, mapped. Raises InputError for what is not a file that can be read.

    `data`: (size,) uint8.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        try:
            if not stat.S_ISREG(os.stat(path).st_mode):  # a pipe would keep us waiting
                raise InputError(f"{path} is not a file")
            with open(path, "rb") as file:
                size = os.fstat(file.fileno()).st_size
                pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) if size else b""
        except FileNotFoundError:
            raise InputError(f"there is no file {path}") from None
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror}") from None
        self.pages = pages
        self.data = np.frombuffer(pages, np.uint8)
        refuse(bytes(self.data[: len(LFS)]), self.data.size, path)

    def forget(self, start: int, stop: int) -> None:
        """Gives the pages within these bytes back, for whoever has read them and will not again.

        They must not have been written into: they come back as the file has them.
        """
        page = mmap.PAGESIZE
        start, stop = -(-start // page) * page, stop // page * page
        if stop > start and hasattr(mmap, "MADV_DONTNEED"):
            self.pages.madvise(mmap.MADV_DONTNEED, start, stop - start)


def refuse(head: bytes, size: int, path) -> None:
    """Raises InputError for what is often taken for weights: `head` is how the file begins."""
    if head.startswith(LFS):
        raise InputError(
            f"{path} is a Git LFS pointer of {size} bytes, not the weights: fetch them with "
            "git lfs pull, or with npgpt download"
        )
    if head.startswith(PICKLES):
        raise InputError(
            f"{path} is a pickle, as torch.save writes it, and reading one runs whatever it says: "
            "refused. Convert it where you trust it: safetensors.torch.save_file(torch.load(FILE, "
            "weights_only=True), 'model.safetensors')"
        )


class Stored(NamedTuple):
    """One tensor in a mapped file."""

    file: Mapped
    start: int  # the first of its bytes
    shape: tuple[int, ...]
    dtype: str  # NumPy's name, or "bfloat16"

    @property
    def nbytes(self) -> int:
        """How many bytes it takes in the file."""
        return math.prod(self.shape) * itemsize(self.dtype)

    def raw(self) -> Array:
        """The stored numbers as a view of the file, in its own dtype; bfloat16 as uint16."""
        kind = np.dtype(np.uint16 if self.dtype == BFLOAT16 else self.dtype)
        found = self.file.data[self.start : self.start + self.nbytes]
        if self.start % kind.alignment:
            found = found.copy()  # kernels want their numbers at addresses that divide by the size
        return found.view(kind.newbyteorder("<")).reshape(self.shape)

    def chunks(self, size: int = CHUNK):
        """Yields float32 (or float64) pieces of at most `size` numbers, in order; each is gone from
        memory when the next is asked for."""
        flat, width = self.raw().reshape(-1), itemsize(self.dtype)
        for first in range(0, flat.size, size):
            piece = flat[first : first + size]
            yield widened(piece, self.dtype)
            self.file.forget(self.start + first * width, self.start + (first + piece.size) * width)

    def array(self) -> Array:
        """float32 or float64: a view of the file where it holds these, else a widened copy."""
        if self.dtype in ("float32", "float64"):
            return self.raw()
        out, first = np.empty(math.prod(self.shape), np.float32), 0
        for piece in self.chunks():
            out[first : first + piece.size] = piece
            first += piece.size
        return out.reshape(self.shape)


def itemsize(dtype: str) -> int:
    """Bytes of one number."""
    return 2 if dtype == BFLOAT16 else np.dtype(dtype).itemsize


def widened(numbers: Array, dtype: str) -> Array:
    """float32 for float16 and bfloat16 (as uint16); exact. float32 and float64 stay."""
    if dtype == BFLOAT16:
        return (numbers.astype(np.uint32) << 16).view(np.float32)
    return numbers.astype(np.float32) if dtype == "float16" else numbers


def narrowed(numbers: Array, dtype: str, name: str) -> Array:
    """float32 as `dtype`, rounded to nearest even; bfloat16 as uint16, NaN kept.

    Raises InputError, with `name`, for what float16 cannot hold.
    """
    if dtype == BFLOAT16:
        bits = numbers.view(np.uint32)
        half = np.uint32(0x7FFF) + (
            bits >> 16 & 1
        )  # to even: a tie goes up where the last bit is 1
        rounded = (bits + half) >> 16
        return np.where(np.isnan(numbers), bits >> 16 | 0x40, rounded).astype(np.uint16)
    with np.errstate(over="ignore"):
        found = numbers.astype(dtype, copy=False)
    if (np.isinf(found) & np.isfinite(numbers)).any():
        raise InputError(f"{name} has numbers beyond 65504, the largest in float16: try bfloat16")
    return found
