"""Memory-mapped weight files and the tensors in them. Nothing is read before it is used.

A mapping is private and copy-on-write. While a tensor is only read, its pages are the file's own:
they are shared with every other process that maps the file, and dropped when memory is short. A
write, as in training, creates a private copy of the page. The file never changes.
"""

import math
import mmap
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from npgpt.arrays import Array
from npgpt.errors import InputError, WeightFileError
from npgpt.quantized_matrix import from_bfloat16, to_bfloat16
from npgpt.system.files import open_regular, os_error

BFLOAT16 = "bfloat16"  # not a NumPy dtype: the upper half of a float32
LFS = b"version https://git-lfs.github.com/spec/"
ZIP, NPY = b"PK\x03\x04", b"\x93NUMPY"
PICKLES = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
CHUNK = 1 << 22  # numbers converted at once
LARGEST = {"float16": 65504.0, BFLOAT16: 3.39e38, "float32": 3.403e38}


class MappedFile:
    """The bytes of a file, memory-mapped.

    Attributes
    ----------
    path : Path
    pages : mmap or bytes
        The mapping; b"" for an empty file.
    data : (size,) uint8
        The same bytes as an array.

    Raises
    ------
    WeightFileError
        If the file does not exist, or is a Git LFS pointer.
    InputError
        If the path may not be read or is no regular file.
    RunError
        If reading fails.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        try:
            with open_regular(path) as file:
                pages = map_copy_on_write(file.fileno())
        except FileNotFoundError:
            raise WeightFileError(f"there is no file {path}") from None
        except OSError as error:
            raise os_error(f"{path} cannot be read", error) from None
        self.pages = pages
        self.data = np.frombuffer(pages, np.uint8)
        if self.data[: len(LFS)].tobytes() == LFS:
            raise WeightFileError(
                f"{path} is a Git LFS pointer of {self.data.size} bytes, not the weights: fetch "
                "them with git lfs pull, or with npgpt download"
            )

    def require_size(self, size: int) -> None:
        """Raise WeightFileError if a mapped file has been truncated below `size` bytes.

        Reading its pages would be a bus error, which no handler could survive.
        """
        if self.data.size >= size and size > (now := self.pages.size() if self.data.size else 0):
            raise WeightFileError(
                f"{self.path} has been truncated to {now:,} bytes while it was in use"
            )

    def drop_pages(self, start: int, stop: int) -> None:
        """Release the memory of the pages within these bytes. They are read again if used again.

        Changes to them are lost.
        """
        page = mmap.PAGESIZE
        start, stop = -(-start // page) * page, stop // page * page
        if stop > start and hasattr(mmap, "MADV_DONTNEED"):
            self.pages.madvise(mmap.MADV_DONTNEED, start, stop - start)


def map_copy_on_write(handle: int) -> Any:
    """Map an open file, b"" if it is empty. Memory is needed for the pages that are written to.

    Without MAP_NORESERVE, Linux refuses to map a file that is larger than the memory.
    """
    if not os.fstat(handle).st_size:
        return b""
    if sys.platform == "win32":
        return mmap.mmap(handle, 0, access=mmap.ACCESS_COPY)
    common = sys.platform == "linux" and os.uname().machine in ("x86_64", "aarch64", "riscv64")
    no_reserve = getattr(mmap, "MAP_NORESERVE", 0x4000 if common else 0)  # named since Python 3.13
    flags = mmap.MAP_PRIVATE | no_reserve
    return mmap.mmap(handle, 0, flags=flags, prot=mmap.PROT_READ | mmap.PROT_WRITE)


def refuse_pickle(file: MappedFile) -> None:
    """Raise WeightFileError if the file is a pickle, as written by torch.save, or NumPy's."""
    head = file.data[:64].tobytes()
    header = head[7:8] == b"\0" and head[8:].lstrip()[:1] == b"{"  # safetensors: 640 bytes of it
    if head.startswith(NPY) or is_npz(file.data[:1024].tobytes()):
        raise WeightFileError(
            f"{file.path} holds NumPy's arrays, which have no config. Save them by GPT-2's names "
            "with safetensors.numpy.save_file, as model.safetensors beside a config.json"
        )
    if head.startswith((ZIP, *PICKLES)) and not header:
        raise WeightFileError(
            f"{file.path} is a pickle, as torch.save writes it, and is refused: loading it runs "
            "any code in it. Where you trust it: import torch, safetensors.torch; "
            "safetensors.torch.save_file({n: t.clone().contiguous() for n, t in "
            "torch.load(FILE, 'cpu', weights_only=True).items()}, 'model.safetensors')"
        )


def is_npz(head: bytes) -> bool:
    """Return True if the first bytes are those of a ZIP archive whose first file is an .npy."""
    length = int.from_bytes(head[26:28], "little")  # of the file's name
    return head.startswith(ZIP) and head[30 : 30 + length].endswith(b".npy")


@dataclass(frozen=True)
class MappedTensor:
    """One tensor in a mapped file."""

    file: MappedFile
    start: int  # the offset of its first byte
    shape: tuple[int, ...]
    dtype: str  # NumPy's name, or "bfloat16"

    @property
    def nbytes(self) -> int:
        """Return its size in the file, in bytes."""
        return math.prod(self.shape) * itemsize(self.dtype)

    def raw(self) -> Array:
        """Return the stored numbers in their own dtype, bfloat16 as uint16: a view of the file."""
        return self.elements(0, math.prod(self.shape)).reshape(self.shape)

    def elements(self, first: int, last: int) -> Array:
        """Return the elements `first` to `last` of the flattened tensor: a view of the file.

        An unaligned tensor is copied. Raises WeightFileError if the file ends before them.
        """
        dtype = np.dtype(np.uint16 if self.dtype == BFLOAT16 else self.dtype)
        start, stop = (self.start + n * dtype.itemsize for n in (first, last))
        self.file.require_size(stop)
        found = self.file.data[start:stop]
        if found.size < stop - start:
            raise WeightFileError(
                f"{self.file.path} is truncated: its numbers end at {stop:,}, "
                f"the file at {self.file.data.size:,} bytes"
            )
        if start % dtype.alignment:
            found = found.copy()  # kernels require aligned numbers
        return found.view(dtype.newbyteorder("<"))

    def chunks(self, size: int = CHUNK) -> Iterator[Array]:
        """Yield the flattened tensor in chunks of at most `size` elements, in order.

        float16 and bfloat16 are converted to float32. The pages of a chunk are dropped before the
        next one is read, so the tensor must not have been written to.
        """
        count, width = math.prod(self.shape), itemsize(self.dtype)
        for first in range(0, count, size):
            last = min(first + size, count)
            yield widen(self.elements(first, last), self.dtype)
            self.file.drop_pages(self.start + first * width, self.start + last * width)

    def array(self) -> Array:
        """Return the tensor as a view of the file if it is float32 or float64, else as float32."""
        if self.dtype in ("float32", "float64"):
            return self.raw()
        out, first = np.empty(math.prod(self.shape), np.float32), 0
        for chunk in self.chunks():
            out[first : first + chunk.size] = chunk
            first += chunk.size
        return out.reshape(self.shape)


def itemsize(dtype: str) -> int:
    """Return the size of one element in bytes."""
    return 2 if dtype == BFLOAT16 else np.dtype(dtype).itemsize


def widen(numbers: Array, dtype: str) -> Array:
    """Convert float16 and bfloat16 (as uint16) to float32, exactly; return others unchanged."""
    if dtype == BFLOAT16:
        return from_bfloat16(numbers)
    return numbers.astype(np.float32) if dtype == "float16" else numbers


def round_chunks(array: Array, dtype: str, name: str) -> Iterator[Array]:
    """Yield the flattened array in chunks of `dtype`, rounded to nearest, ties to even.

    `dtype`: "float32", "float16" or "bfloat16", which is yielded as uint16. Raises InputError, with
    the tensor's `name`, for numbers that are too large for `dtype`.
    """
    flat = array.reshape(-1)
    for first in range(0, flat.size, CHUNK):
        chunk = flat[first : first + CHUNK]
        with np.errstate(over="ignore", invalid="ignore"):  # nan remains nan
            found = to_bfloat16(chunk) if dtype == BFLOAT16 else chunk.astype(dtype, copy=False)
        if (np.isinf(widen(found, dtype)) & np.isfinite(chunk)).any():
            hint = ": try bfloat16" if dtype == "float16" else ""
            raise InputError(
                f"{name} has numbers beyond {LARGEST[dtype]:g}, the largest in {dtype}{hint}"
            )
        yield found
