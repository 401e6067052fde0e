"""An HDF5 file written whole and read with distrust.

Behind the last byte of HDF5, which HDF5 itself ignores, stands a seal, little endian:

    start, size, CRC-32     8 + 8 + 4 bytes, for each block of numbers (the bytes of a dataset of
                            floats), in the order of the file
    SEAL                    12 bytes
    how many blocks         8 bytes
    CRC-32                  4 bytes: that of every byte before it that lies in no block

The last is always compared, because the HDF5 library crashes or hangs on some damaged files. That
takes no time; the numbers of a model cannot harm it, and their checksums are compared where all of
them are read anyway (`verify`). It finds accidents: whoever forges a file can seal it, and has
HDF5's own bugs to play with.

HDF5 reads out of a mapping of the file, so that one that is replaced meanwhile, as a run does with
its checkpoint, is still one file. Nothing is unpickled, no filter is run, no other file is
followed, and no array is taken for read that is larger than the file.
"""

import errno
import io
import json
import math
import os
import re
import shutil
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np

from npgpt.arrays import Array
from npgpt.errors import InputError, RunError
from npgpt.files import replacing
from npgpt.weights.stored import Mapped

MAGIC = b"\x89HDF\r\n\x1a\n"
SEAL = b"npgpt-crc32:"
TAIL = len(SEAL) + 8 + 4  # bytes, of the seal without its blocks
BLOCK = np.dtype([("start", "<u8"), ("size", "<u8"), ("crc", "<u4")])
MOST_BLOCKS = 1 << 16  # a run of the largest GPT-2 has 1,740


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
    data = Mapped(path).data
    with h5py.File(path, "r") as file:
        places = sorted(blocks_of(file))[:MOST_BLOCKS]  # further ones are as all else
    blocks = [(start, size, zlib.crc32(data[start : start + size])) for start, size in places]
    end = np.array(blocks, BLOCK).tobytes() + SEAL + len(blocks).to_bytes(8, "little")
    check = zlib.crc32(end, rest(data, blocks))
    with open(path, "ab") as file:
        file.write(end + check.to_bytes(4, "little"))


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


def rest(data: Array, blocks: Iterable[tuple[int, int, int]]) -> int:
    """The CRC-32 of the bytes (n,) that lie in no block."""
    check, at = 0, 0
    for start, size, _ in [*blocks, (data.size, 0, 0)]:
        check, at = zlib.crc32(data[at:start], check), start + size
    return check


@contextmanager
def opened(path: str | Path, *, verify: bool = False) -> Iterator[tuple[h5py.File, Mapped]]:
    """An HDF5 file to read, and the mapping that it is read from; whatever is wrong with it becomes
    an InputError. `verify`: compare the checksums of the numbers too."""
    mapped = Mapped(path)
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


def check_seal(file: Mapped) -> list[tuple[int, int, int]]:
    """The blocks in the seal. Raises InputError unless the file is HDF5, and as it was written but
    for what is in the blocks."""
    path, data = file.path, file.data
    magic, end = data[: len(MAGIC)].tobytes(), data[-TAIL:].tobytes()
    if magic != MAGIC:
        raise InputError(f"{path} is not an HDF5 file: it begins with {magic!r}")
    if not end.startswith(SEAL):
        raise InputError(f"{path} is cut, or not a checkpoint of npgpt: its {data.size:,} bytes do "
                         f"not end with {SEAL.decode()}...")  # fmt: skip
    count = int.from_bytes(end[len(SEAL) : -4], "little")
    begin = data.size - TAIL - count * BLOCK.itemsize
    if count > MOST_BLOCKS or begin < 0:
        raise InputError(f"{path} is damaged: its seal cannot be of {count:,} arrays")
    blocks = data[begin:-TAIL].view(BLOCK).tolist()
    at = 0
    for start, size, _ in blocks:
        if not at <= start <= start + size <= begin:
            raise InputError(f"{path} is damaged: no array has the {size:,} bytes from {start:,}")
        at = start + size
    compare(path, "it", rest(data[:-4], blocks), int.from_bytes(end[-4:], "little"))
    return blocks


def check_numbers(file: Mapped, blocks: Iterable[tuple[int, int, int]]) -> None:
    """Raises InputError unless every block is as it was written."""
    for start, size, expected in blocks:
        found = zlib.crc32(file.data[start : start + size])
        file.forget(start, start + size)
        compare(file.path, f"what is in its bytes {start:,} to {start + size:,}", found, expected)


def compare(path: Path, what: str, found: int, expected: int) -> None:
    """Raises InputError where a checksum is another one."""
    if found != expected:
        raise InputError(f"{path} is damaged: {what} has the checksum {found:08x}, not "
                         f"{expected:08x} as when it was written")  # fmt: skip


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
