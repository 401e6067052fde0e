"""Write an HDF5 file atomically, with a checksum footer (checksum.py).

The HDF5 library only writes. Its earliest format is written: every version of the library writes it
bit for bit the same, and hdf5.py reads it.
"""

import errno
import io
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py

from npgpt.errors import RunError
from npgpt.system.files import atomic_write
from npgpt.weights.checksum import make_footer
from npgpt.weights.hdf5 import read_structure
from npgpt.weights.mapped import MappedFile


def write(path: str | Path, fill: Callable[[h5py.File], None], *, size: int) -> None:
    """Write an HDF5 file atomically: `fill` writes its contents into an empty file beside `path`.

    A kill leaves either the old file or the new one. `size`: its approximate size in bytes. Raises
    RunError if the disk is full, if the file cannot be written, or if it would be too large to read
    again; an existing file is then unchanged.
    """
    path = Path(path)
    try:
        free = shutil.disk_usage(path.parent).free
        if free < size:
            text = f"the disk has {free:,} bytes left, {size:,} are needed"
            raise OSError(errno.ENOSPC, text)
        with atomic_write(path) as temporary:
            with DeferredErrorFile(temporary, "w+") as raw:
                with h5py.File(raw, "w", libver="earliest") as file:
                    fill(file)
                raw.raise_error()
            append_footer(temporary)
    except (OSError, RuntimeError, ValueError) as error:
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
    mapped = MappedFile(path)
    tensors = read_structure(mapped).tensors.values()
    floats = [(t.start, t.nbytes) for t in tensors if t.nbytes and t.dtype.startswith("float")]
    footer = make_footer(mapped.data, floats)
    with open(path, "ab") as file:
        file.write(footer)


def describe(error: Exception) -> str:
    """Return one line for an error of HDF5: the text of its errno, if it has one."""
    text = str(error)
    if number := re.search(r"errno = (\d+)", text):
        return os.strerror(int(number[1]))
    if isinstance(error, OSError) and error.strerror:
        text = error.strerror
    return text.splitlines()[0] if text else type(error).__name__
