"""An HDF5 file written whole and read with distrust.

What makes sure that it is still as it was written is in seal.py. HDF5 reads out of a mapping of the
file, so that one that is replaced meanwhile, as a run does with its checkpoint, is still one file.
Nothing is unpickled, no filter is run, no other file is followed, and no array is taken for read
that is larger than the file.
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

import h5py
import numpy as np

from npgpt.arrays import Array
from npgpt.errors import InputError, RunError
from npgpt.system.files import atomic_write
from npgpt.weights.checksum import check_numbers, check_seal, seal_of
from npgpt.weights.mapped import MappedFile


def write(path: str | Path, fill: Callable[[h5py.File], None], *, size: int) -> None:
    """Writes what `fill` puts into an empty file beside `path`, syncs, then renames over `path`.

    A kill leaves the old file or the new one. `size`: about how many bytes it will be. Raises
    RunError when the disk has no room or the file cannot be written; what was there stays.
    """
    path = Path(path)
    try:
        free = shutil.disk_usage(path.parent).free
        if free < size:
            raise OSError(errno.ENOSPC, f"the disk has {free:,} bytes left of {size:,}")
        with atomic_write(path) as temporary:
            with PatientFile(temporary, "w+") as raw:
                with h5py.File(raw, "w") as file:
                    fill(file)
                raw.complain()
            seal(temporary)
    except (OSError, RuntimeError) as error:
        before = "the checkpoint before it is whole" if path.exists() else "nothing was written"
        raise RunError(f"{path} could not be written: {reason(error)}; {before}") from None


class PatientFile(io.FileIO):
    """A file to write that keeps its first error to itself until it is asked.

    The HDF5 library cannot let go of a file that it could not write to its end, and crashes when
    the process exits.
    """

    error: OSError | None = None

    def write(self, data) -> int:
        """All of `data`, or what looks like it."""
        left = memoryview(data).cast("B")
        while left and self.error is None:
            try:
                left = left[super().write(left) :]
            except OSError as error:
                self.error = error
        return memoryview(data).nbytes

    def truncate(self, size=None) -> int:
        """To `size`, or what looks like it."""
        try:
            return super().truncate(size)
        except OSError as error:
            self.error = self.error or error
            return size or 0

    def complain(self) -> None:
        """Raises the error, if there was one."""
        if self.error is not None:
            raise self.error


def seal(path: str | Path) -> None:
    """Adds the seal to a finished HDF5 file."""
    with h5py.File(path, "r") as file:
        places = blocks_of(file)
    end = seal_of(MappedFile(path).data, places)
    with open(path, "ab") as file:
        file.write(end)


def blocks_of(file: h5py.File) -> list[tuple[int, int]]:
    """Start and size of the bytes of every dataset of floats that has some of its own."""
    found = []

    def add(_, node):
        if isinstance(node, h5py.Dataset) and node.dtype.kind == "f":
            start, size = node.id.get_offset(), node.id.get_storage_size()
            if start is not None and size:
                found.append((start, size))

    file.visititems(add)
    return found


@contextmanager
def opened(path: str | Path, *, verify: bool = False) -> Iterator[tuple[h5py.File, MappedFile]]:
    """An HDF5 file to read, and the mapping that it is read from; whatever is wrong with it becomes
    an InputError. `verify`: compare the checksums of the numbers too."""
    mapped = MappedFile(path)
    blocks = check_seal(mapped)
    if verify:
        check_numbers(mapped, blocks)
    try:
        with h5py.File(mapped.pages, "r") as file:
            yield file, mapped
    except (InputError, RunError):
        raise
    except Exception as error:  # what HDF5 and h5py raise for strange files has no end
        raise InputError(f"{path} is damaged: {reason(error)}") from None


def same(found, expected) -> bool:
    """Is an attribute, which may be of any type and shape, this scalar?"""
    return np.ndim(found) == 0 and bool(found == expected)


def vector(group: h5py.Group, name: str, dtype, most: int, path) -> Array:
    """A dataset of one dimension."""
    found = dataset(group, name, path)
    if found.ndim != 1 or found.dtype != dtype or found.size > most:
        raise InputError(
            f"{path}: {name} is {found.dtype} of shape {found.shape}, "
            f"expected a vector of {np.dtype(dtype)} of at most {most} entries"
        )
    return found[:]


def dataset(group: h5py.Group, name: str, path) -> h5py.Dataset:
    """A dataset whose bytes lie in this very file, plain and whole."""
    found = child(group, name, h5py.Dataset, path)
    plain = found.chunks is None and not found.is_virtual and not found.external
    stored = found.id.get_storage_size()
    expected = math.prod(found.shape) * found.dtype.itemsize if found.shape is not None else -1
    if not plain or stored != expected or stored > group.file.id.get_filesize():
        raise InputError(
            f"{path}: {name} is not stored plainly: {stored} bytes for shape {found.shape}"
        )
    return found


def child(group: h5py.Group, name: str, kind: type, path):
    """`group[name]`, never through a link to somewhere else."""
    link = group.get(name, getlink=True)
    if link is None:
        raise InputError(f"{path}: {group.name.strip('/') or 'it'} has no {name!r}")
    if not isinstance(link, h5py.HardLink) or not isinstance(group[name], kind):
        raise InputError(f"{path}: {name!r} is not a plain {kind.__name__.lower()}")
    return group[name]


def reason(error: Exception) -> str:
    """HDF5's one useful word out of the sentence that it says."""
    text = str(error)
    if number := re.search(r"errno = (\d+)", text):
        return os.strerror(int(number[1]))
    if isinstance(error, OSError) and error.strerror:
        text = error.strerror
    return text.splitlines()[0] if text else type(error).__name__
