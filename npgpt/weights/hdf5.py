"""An HDF5 file written whole and read with distrust.

After the last byte of HDF5, which HDF5 itself ignores, stands a seal: SEAL and the CRC-32 of all
bytes before it. It is checked first, because the HDF5 library crashes or hangs on some damaged
files. It finds accidents: whoever forges a file can seal it, and has HDF5's own bugs to play with.

Nothing is unpickled, no filter is run, no other file is followed, and no array is taken for read
that is larger than the file.
"""

import errno
import io
import json
import math
import os
import re
import shutil
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np

from npgpt.arrays import Array
from npgpt.errors import InputError, RunError
from npgpt.files import replacing

MAGIC = b"\x89HDF\r\n\x1a\n"
SEAL = b"npgpt-crc32:"


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
        with replacing(path) as temporary:
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
    with open(path, "r+b") as file:
        check = checksum(file, os.path.getsize(path))
        file.seek(0, os.SEEK_END)
        file.write(SEAL + check)


def checksum(file, size: int) -> bytes:
    """The CRC-32 of the next `size` bytes, 4 bytes."""
    value, left = 0, size
    while left and (piece := file.read(min(left, 1 << 20))):
        value, left = zlib.crc32(piece, value), left - len(piece)
    return value.to_bytes(4, "little")


@contextmanager
def opened(path: str | Path) -> Iterator[h5py.File]:
    """An HDF5 file to read; whatever is wrong with it becomes an InputError."""
    check_seal(path)
    try:
        with h5py.File(path, "r") as file:
            yield file
    except (InputError, RunError):
        raise
    except Exception as error:  # what HDF5 and h5py raise for strange files has no end
        raise InputError(f"{path} is damaged: {reason(error)}") from None


def check_seal(path: str | Path) -> None:
    """Raises InputError unless the file is there, HDF5, and as it was written."""
    tail = len(SEAL) + 4
    try:
        with open(path, "rb") as file:
            magic, size = file.read(len(MAGIC)), os.fstat(file.fileno()).st_size
            if magic != MAGIC:
                raise InputError(f"{path} is not an HDF5 file: it begins with {magic!r}")
            file.seek(0)
            check = checksum(file, max(0, size - tail))
            found = file.read(tail)
    except FileNotFoundError:
        raise InputError(f"there is no checkpoint {path}") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    if not found.startswith(SEAL):
        raise InputError(f"{path} is cut, or not a checkpoint of npgpt: its {size:,} bytes do not "
                         f"end with {SEAL.decode()}")  # fmt: skip
    if found != SEAL + check:
        raise InputError(f"{path} is damaged: its checksum is {check.hex()}, not "
                         f"{found[len(SEAL):].hex()} as when it was written")  # fmt: skip


def same(found, expected) -> bool:
    """Is an attribute, which may be of any type and shape, this scalar?"""
    return np.ndim(found) == 0 and bool(found == expected)


def parse(text, what: str, path):
    """What the JSON says."""
    try:
        return json.loads(text)
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: its {what} is not JSON ({error})") from None


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
