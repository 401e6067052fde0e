"""Write an HDF5 file atomically, with a checksum footer (checksum.py).

The HDF5 library only writes. Its earliest format is written: every version of the library writes it
bit for bit the same, and hdf5.py reads it.
"""

import errno
import io
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import h5py

from npgpt.errors import RunError
from npgpt.system.atomic import atomic_write
from npgpt.system.files import require_space
from npgpt.weights.checksum import make_footer
from npgpt.weights.hdf5 import read_structure
from npgpt.weights.mapped import MappedFile


def write(
    path: str | Path, fill: Callable[[h5py.File], None], *, size: int,
    check: Callable[[Path], None] | None = None,
) -> None:  # fmt: skip
    """Write an HDF5 file atomically: `fill` writes its contents into an empty file beside `path`.

    A kill leaves either the old file or the new one. `size`: its approximate size in bytes. `check`
    reads the file before it gets its name. Raises RunError if the disk is full, if the file cannot
    be written, or if it would be too large to read again; an existing file is then unchanged.
    """
    with atomic_write(path) as file, library_errors():
        require_space(Path(path).parent, size)
        with DeferredErrorFile(file.fileno(), "r+", closefd=False) as raw:
            with h5py.File(raw, "w", libver="earliest") as contents:
                fill(contents)
            raw.raise_error()
        append_footer(file)
        if check is not None:
            file.flush()
            check(Path(file.name))


@contextmanager
def library_errors() -> Iterator[None]:
    """Raise the errors of the HDF5 library as OSError with a text of one line."""
    try:
        yield
    except RunError:
        raise
    except (OSError, RuntimeError, ValueError) as error:
        raise OSError(getattr(error, "errno", None) or errno.EIO, describe(error)) from None


class DeferredErrorFile(io.FileIO):
    """A writable file that stores its first error until `raise_error` is called.

    After a failed write, the HDF5 library cannot close a file and crashes when the process exits.
    """

    error: BaseException | None = None

    def write(self, data: Any) -> int:
        """Write `data` and return its size, also after an error."""
        left = memoryview(data).cast("B")
        size = left.nbytes
        with self.deferred():
            while left and self.error is None:
                left = left[os.write(self.fileno(), left) :]
        return size

    def truncate(self, size: int | None = None) -> int:
        """Truncate the file to `size` bytes and return `size`, also after an error."""
        with self.deferred():
            os.ftruncate(self.fileno(), size or 0)
        return size or 0

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Store the error of the block: also that there is no memory, and Ctrl-C."""
        try:
            yield
        except BaseException as error:
            self.error = self.error or error

    def raise_error(self) -> None:
        """Raise the first error, if there was one."""
        if self.error is not None:
            raise self.error


def append_footer(file: BinaryIO) -> None:
    """Append the checksum footer to a finished HDF5 file that is open for writing."""
    mapped = MappedFile(file.name)
    tensors = read_structure(mapped).tensors.values()
    floats = [(t.start, t.nbytes) for t in tensors if t.nbytes and t.dtype.startswith("float")]
    footer = make_footer(mapped.data, floats)
    file.seek(0, os.SEEK_END)
    file.write(footer)


def describe(error: Exception) -> str:
    """Return one line for an error of HDF5: the text of its errno, if it has one."""
    text = str(error)
    if number := re.search(r"errno = (\d+)", text):
        return os.strerror(int(number[1]))
    if isinstance(error, OSError) and error.strerror:
        text = error.strerror
    return text.splitlines()[0] if text else type(error).__name__
