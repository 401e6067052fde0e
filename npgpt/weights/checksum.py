"""The seal behind an HDF5 file: checksums of every byte in it.

Behind the last byte of HDF5, which HDF5 itself ignores, stands, little endian:

    start, size, CRC-32     8 + 8 + 4 bytes, for each block of numbers (the bytes of a dataset of
                            floats), in the order of the file
    SEAL                    12 bytes
    how many blocks         8 bytes
    CRC-32                  4 bytes: that of every byte before it that lies in no block

The last is always compared, because the HDF5 library crashes or hangs on some damaged files. That
takes no time; the numbers of a model cannot harm it, and their checksums are compared where all of
them are read anyway (`verify`). It finds accidents: whoever forges a file can seal it, and has
HDF5's own bugs to play with.
"""

import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from npgpt.arrays import Array
from npgpt.errors import InputError
from npgpt.weights.mapped import MappedFile

MAGIC = b"\x89HDF\r\n\x1a\n"
SEAL = b"npgpt-crc32:"
TAIL = len(SEAL) + 8 + 4  # bytes, of the seal without its blocks
BLOCK = np.dtype([("start", "<u8"), ("size", "<u8"), ("crc", "<u4")])
MOST_BLOCKS = 1 << 16  # a run of the largest GPT-2 has 1,740


def seal_of(data: Array, places: Iterable[tuple[int, int]]) -> bytes:
    """What is to stand behind the bytes (n,) of an HDF5 file.

    `places`: start and size of each block.
    """
    places = sorted(places)[:MOST_BLOCKS]  # further ones are as all else
    blocks = [(start, size, zlib.crc32(data[start : start + size])) for start, size in places]
    end = np.array(blocks, BLOCK).tobytes() + SEAL + len(blocks).to_bytes(8, "little")
    check = zlib.crc32(end, rest(data, blocks))
    return end + check.to_bytes(4, "little")


def rest(data: Array, blocks: Iterable[tuple[int, int, int]]) -> int:
    """The CRC-32 of the bytes (n,) that lie in no block."""
    check, at = 0, 0
    for start, size, _ in [*blocks, (data.size, 0, 0)]:
        check, at = zlib.crc32(data[at:start], check), start + size
    return check


def check_seal(file: MappedFile) -> list[tuple[int, int, int]]:
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


def check_numbers(file: MappedFile, blocks: Iterable[tuple[int, int, int]]) -> None:
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
