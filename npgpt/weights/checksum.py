"""A checksum footer appended to an HDF5 file. It covers every byte.

HDF5 ignores bytes after its own last byte. There the footer is appended, little endian:

    start, size, CRC-32     8 + 8 + 4 bytes for each block of numbers (the bytes of a dataset of
                            floats), in the order of the file
    FOOTER_MAGIC            12 bytes
    number of blocks        8 bytes
    CRC-32                  4 bytes: of every preceding byte outside the blocks

The last checksum is always verified: it covers all that says where the numbers are, and takes no
time. The blocks are verified where all numbers are read anyway (`verify`). The footer detects
corruption, not tampering.
"""

import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from npgpt.arrays import Array
from npgpt.errors import WeightFileError
from npgpt.weights.mapped import MappedFile

MAGIC = b"\x89HDF\r\n\x1a\n"
FOOTER_MAGIC = b"npgpt-crc32:"
FOOTER_END = len(FOOTER_MAGIC) + 8 + 4  # bytes of the footer after its blocks
BLOCK = np.dtype([("start", "<u8"), ("size", "<u8"), ("crc", "<u4")])
MAX_BLOCKS = 1 << 16  # a run of the largest GPT-2 has 1,740


def make_footer(data: Array, extents: Iterable[tuple[int, int]]) -> bytes:
    """Return the footer of an HDF5 file with the bytes `data` (n,).

    `extents`: start and size of each block.
    """
    extents = sorted(extents)[:MAX_BLOCKS]  # the last checksum covers the bytes of further ones
    blocks = [(start, size, crc32(data[start : start + size])) for start, size in extents]
    end = np.array(blocks, BLOCK).tobytes() + FOOTER_MAGIC + len(blocks).to_bytes(8, "little")
    check = zlib.crc32(end, crc32_outside(data, blocks))
    return end + check.to_bytes(4, "little")


def crc32(data: Array, start: int = 0) -> int:
    """Return the CRC-32 of bytes (n,), continued from `start`."""
    return zlib.crc32(data.data, start)


def crc32_outside(data: Array, blocks: Iterable[tuple[int, int, int]]) -> int:
    """Return the CRC-32 of the bytes (n,) that are in no block."""
    check, at = 0, 0
    for start, size, _ in [*blocks, (data.size, 0, 0)]:
        check, at = crc32(data[at:start], check), start + size
    return check


def check_footer(file: MappedFile) -> list[tuple[int, int, int]]:
    """Verify all bytes of an HDF5 file outside its blocks and return the blocks.

    Raises WeightFileError if the file is not HDF5, has no footer, or is damaged outside its blocks.
    """
    path, data = file.path, file.data
    magic, end = data[: len(MAGIC)].tobytes(), data[-FOOTER_END:].tobytes()
    if magic != MAGIC:
        raise WeightFileError(f"{path} is not an HDF5 file: it begins with {magic!r}")
    if not end.startswith(FOOTER_MAGIC):
        raise WeightFileError(
            f"{path} is truncated, or not a checkpoint of npgpt: its {data.size:,} bytes do not "
            f"end with {FOOTER_MAGIC.decode()}..."
        )
    count = int.from_bytes(end[len(FOOTER_MAGIC) : -4], "little")
    begin = data.size - FOOTER_END - count * BLOCK.itemsize
    if count > MAX_BLOCKS or begin < 0:
        raise WeightFileError(
            f"{path} is damaged: its checksum footer cannot have {count:,} blocks"
        )
    blocks = data[begin:-FOOTER_END].view(BLOCK).tolist()
    at = 0
    for start, size, _ in blocks:
        if not at <= start <= start + size <= begin:
            raise WeightFileError(
                f"{path} is damaged: its checksum footer has an invalid block of {size:,} bytes "
                f"at {start:,}"
            )
        at = start + size
    compare(path, "it has", crc32_outside(data[:-4], blocks), int.from_bytes(end[-4:], "little"))
    return blocks


def check_blocks(file: MappedFile, blocks: Iterable[tuple[int, int, int]]) -> None:
    """Verify the numbers. Raises WeightFileError if the bytes of a block are damaged."""
    for start, size, expected in blocks:
        found = crc32(file.data[start : start + size])
        file.drop_pages(start, start + size)
        compare(file.path, f"its bytes {start:,} to {start + size:,} have", found, expected)


def compare(path: Path, subject: str, found: int, expected: int) -> None:
    """Raise WeightFileError if two checksums differ."""
    if found != expected:
        raise WeightFileError(
            f"{path} is damaged: {subject} the checksum {found:08x}, expected {expected:08x}"
        )
