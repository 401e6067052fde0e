"""Write an HDF5 file atomically, and read one without trusting it.

checksum.py verifies that the file is unchanged. HDF5 reads from a mapping of the file, so that a
file that is replaced meanwhile, as a run replaces its checkpoint, is still read consistently.
Nothing is unpickled, no filter is run, no other file is followed, and no array larger than the file
is accepted.
"""

import errno
import io
import math
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from npgpt.arrays import Array
from npgpt.errors import InputError, RunError, WeightFileError
from npgpt.system.files import atomic_write
from npgpt.weights.checksum import check_blocks, check_footer, make_footer
from npgpt.weights.mapped import MappedFile


def write(path: str | Path, fill: Callable[[h5py.File], None], *, size: int) -> None:
    """Write an HDF5 file atomically: `fill` writes its contents into an empty file beside `path`.

    A kill leaves either the old file or the new one. `size`: its approximate size in bytes. Raises
    RunError if the disk is full or the file cannot be written; an existing file is then unchanged.
    """
    path = Path(path)
    try:
        free = shutil.disk_usage(path.parent).free
        if free < size:
            text = f"the disk has {free:,} bytes left, {size:,} are needed"
            raise OSError(errno.ENOSPC, text)
        with atomic_write(path) as temporary:
            with DeferredErrorFile(temporary, "w+") as raw:
                with h5py.File(raw, "w") as file:
                    fill(file)
                raw.raise_error()
            append_footer(temporary)
    except (OSError, RuntimeError) as error:
        left = "the previous checkpoint is unchanged" if path.exists() else "nothing was written"
        raise RunError(f"{path} could not be written: {describe(error)}; {left}") from None


class DeferredErrorFile(io.FileIO):
    """A writable file that stores its first error until `raise_error` is called.

    After a failed write, the HDF5 library cannot close a file and crashes when the process exits.
    """

    error: OSError | None = None

    def write(self, data: Any) -> int:
        """Write `data` and return its size, also after an error."""
        left = memoryview(data).cast("B")
        while left and self.error is None:
            try:
                left = left[super().write(left) :]
            except OSError as error:
                self.error = error
        return memoryview(data).nbytes

    def truncate(self, size: int | None = None) -> int:
        """Truncate the file to `size` bytes and return `size`, also after an error."""
        try:
            return super().truncate(size)
        except OSError as error:
            self.error = self.error or error
            return size or 0

    def raise_error(self) -> None:
        """Raise the first error, if there was one."""
        if self.error is not None:
            raise self.error


def append_footer(path: str | Path) -> None:
    """Append the checksum footer to a finished HDF5 file."""
    with h5py.File(path, "r") as file:
        extents = float_extents(file)
    footer = make_footer(MappedFile(path).data, extents)
    with open(path, "ab") as file:
        file.write(footer)


def float_extents(file: h5py.File) -> list[tuple[int, int]]:
    """Return start and size of the bytes of every nonempty dataset of floats."""
    found = []

    def add(_: str, node: Any) -> None:
        if isinstance(node, h5py.Dataset) and node.dtype.kind == "f":
            start, size = node.id.get_offset(), node.id.get_storage_size()
            if start is not None and size:
                found.append((start, size))

    file.visititems(add)
    return found


@contextmanager
def open_hdf5(path: str | Path, *, verify: bool = False) -> Iterator[tuple[h5py.File, MappedFile]]:
    """Open an HDF5 file for reading; yield it and the mapping that it is read from.

    `verify`: also verify the checksums of the numbers. Raises WeightFileError if the file is
    damaged, also for every error raised by HDF5 in the body of the `with` statement.
    """
    mapped = MappedFile(path)
    blocks = check_footer(mapped)
    if verify:
        check_blocks(mapped, blocks)
    try:
        with h5py.File(mapped.pages, "r") as file:
            yield file, mapped
    except (InputError, RunError):
        raise
    except Exception as error:  # HDF5 and h5py raise many types for invalid files
        raise WeightFileError(f"{path} is damaged: {describe(error)}") from None


def is_scalar(value: Any, expected: Any) -> bool:
    """Return True if an attribute, of any type and shape, is the scalar `expected`."""
    return np.ndim(value) == 0 and bool(value == expected)


def read_vector(group: h5py.Group, name: str, dtype: Any, max_size: int, path: str | Path) -> Array:
    """Return a one-dimensional dataset. Raises WeightFileError for another dtype or shape."""
    found = get_dataset(group, name, path)
    if found.ndim != 1 or found.dtype != dtype or found.size > max_size:
        raise WeightFileError(
            f"{path}: {name} is {found.dtype} of shape {found.shape}, "
            f"expected a vector of {np.dtype(dtype)} of at most {max_size} entries"
        )
    return found[:]


def get_dataset(group: h5py.Group, name: str, path: str | Path) -> h5py.Dataset:
    """Return a dataset that is stored contiguously, uncompressed and completely in this file."""
    found = get_child(group, name, h5py.Dataset, path)
    plain = found.chunks is None and not found.is_virtual and not found.external
    stored = found.id.get_storage_size()
    expected = math.prod(found.shape) * found.dtype.itemsize if found.shape is not None else -1
    if not plain or stored != expected or stored > group.file.id.get_filesize():
        raise WeightFileError(
            f"{path}: {name} is not contiguous: {stored} bytes for shape {found.shape}"
        )
    return found


def get_child(group: h5py.Group, name: str, kind: type, path: str | Path) -> Any:
    """Return `group[name]` if it is of this kind and not a link to another file or path."""
    link = group.get(name, getlink=True)
    if link is None:
        raise WeightFileError(f"{path}: {group.name.strip('/') or 'it'} has no {name!r}")
    if not isinstance(link, h5py.HardLink) or not isinstance(group[name], kind):
        raise WeightFileError(f"{path}: {name!r} is not a plain {kind.__name__.lower()}")
    return group[name]


def describe(error: Exception) -> str:
    """Return one line for an error of HDF5: the text of its errno, if it has one."""
    text = str(error)
    if number := re.search(r"errno = (\d+)", text):
        return os.strerror(int(number[1]))
    if isinstance(error, OSError) and error.strerror:
        text = error.strerror
    return text.splitlines()[0] if text else type(error).__name__
