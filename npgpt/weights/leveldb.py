"""Read a LevelDB table, a file of (key, value) pairs sorted by key, without trusting it.

    block, trailer        pairs                                            (repeated)
    block, trailer        the metaindex: of optional filters, ignored here
    block, trailer        the index: for every block of pairs, a key -> its handle
    footer                48 bytes: the handles of metaindex and index, zeros, MAGIC (8 bytes)

    handle     offset, size                            of the block, without its trailer
    trailer    kind (1 byte), checksum (4 bytes)       kind 0: uncompressed, 1: Snappy
    block      pair, pair, ..., restarts (4 bytes each), number of restarts (4 bytes)
    pair       shared, added, length, the rest of the key (added bytes), the value (length bytes)

A key begins with the first `shared` bytes of the preceding key: neighbours in sorted order begin
alike. At least every 16th pair shares nothing, so that a search for a single key can start there:
`restarts` lists these pairs. Reading all pairs in order needs neither them nor the keys of the
index.

offset, size, shared, added and length are varints: 7 bits in a byte, the lowest first, the top bit
of each byte set if another one follows. All other numbers are little endian. The checksum covers
block and kind, and is masked: crc32c.py.

https://github.com/google/leveldb/blob/main/doc/table_format.md
"""

from collections.abc import Iterator
from pathlib import Path

from npgpt.errors import InputError, WeightFileError
from npgpt.weights.crc32c import crc32c, mask
from npgpt.weights.mapped import MappedFile

MAGIC = bytes.fromhex("57fb808b247547db")
FOOTER, TRAILER = 48, 5  # bytes
MAX_BYTES = 1 << 20  # of a table: the largest GPT-2's has about 20,000
INTERVAL = 16  # pairs from one complete key to the next: the default of LevelDB and TensorFlow


def read_table(path: str | Path) -> Iterator[tuple[bytes, bytes]]:
    """Yield (key, value) in the order of the keys. Each block is verified before its pairs.

    Raises WeightFileError if the file is not a complete table, or has more than MAX_BYTES.
    """
    mapped = MappedFile(path).data
    if mapped.size > MAX_BYTES:
        raise WeightFileError(f"{path} has {mapped.size:,} bytes; at most {MAX_BYTES:,} are read")
    try:
        yield from read_pairs(mapped.tobytes())
    except InputError as error:
        raise WeightFileError(
            f"{path} is truncated, damaged or not a LevelDB table: {error}"
        ) from None


def read_pairs(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the pairs of the table `data`."""
    footer, magic = data[-FOOTER : -len(MAGIC)], data[-len(MAGIC) :]
    if len(data) < FOOTER or magic != MAGIC:
        raise WeightFileError(f"its {len(data):,} bytes end with {magic.hex()}, not {MAGIC.hex()}")
    _, metaindex = parse_handle(footer)
    index, _ = read_block(data, footer[metaindex:])
    end, last = 0, None
    for _, handle in parse_pairs(index):
        (start, _), _ = parse_handle(handle)
        if start < end:  # an index that names one block many times would take forever
            raise WeightFileError(f"a block begins at {start}, the previous one ends at {end}")
        content, end = read_block(data, handle)
        for key, value in parse_pairs(content, after=last):
            yield key, value
            last = key


def parse_handle(data: bytes) -> tuple[tuple[int, int], int]:
    """Return ((offset, size) of a block, the length of the handle in bytes)."""
    offset, at = parse_varint(data, 0)
    size, at = parse_varint(data, at)
    return (offset, size), at


def read_block(data: bytes, handle: bytes) -> tuple[bytes, int]:
    """Return a verified block, without its trailer, and the offset where its trailer ends."""
    (start, size), _ = parse_handle(handle)
    stop = start + size
    end = stop + TRAILER
    if end > len(data) - FOOTER:
        raise WeightFileError(f"a block of {size} bytes at {start} does not fit into {len(data):,}")
    found = mask(crc32c(data[start : stop + 1]))
    expected = int.from_bytes(data[stop + 1 : end], "little")
    if found != expected:
        raise WeightFileError(
            f"the block at {start} has the checksum {found:08x}, expected {expected:08x}"
        )
    if data[stop] != 0:
        raise WeightFileError(
            f"the block at {start} is compressed (kind {data[stop]}), which is not supported: "
            "TensorFlow 1.2 and later write uncompressed blocks"
        )
    return data[start:stop], end


def parse_pairs(block: bytes, after: bytes | None = None) -> Iterator[tuple[bytes, bytes]]:
    """Yield the pairs of a block. `after`: the preceding key, if there is one."""
    restarts = int.from_bytes(block[-4:], "little")
    end = len(block) - 4 - 4 * restarts
    if end < 0:
        raise WeightFileError(f"a block of {len(block)} bytes cannot have {restarts} restarts")
    content, at, key, total = block[:end], 0, b"", 0
    while at < end:
        shared, at = parse_varint(content, at)
        added, at = parse_varint(content, at)
        length, at = parse_varint(content, at)
        start = at + added  # of the value
        if shared > len(key) or start + length > end:
            raise WeightFileError(
                f"a pair shares {shared} of {len(key)} bytes and has {added} + {length} of its "
                f"own, of {end - at} that are left"
            )
        total += shared + added
        if total > INTERVAL * len(block):  # impossible if every 16th key is complete
            raise WeightFileError(f"keys of more than {INTERVAL} times their block of {len(block)}")
        key = key[:shared] + content[at:start]
        if after is not None and key <= after:
            raise WeightFileError(f"its keys are not in order: {key[:99]!r} after {after[:99]!r}")
        at, after = start + length, key
        yield key, content[start:at]


def parse_varint(data: bytes, at: int) -> tuple[int, int]:
    """Return the number, below 2**64, that begins at offset `at`, and the offset where it ends."""
    if at < len(data) and data[at] < 128:  # the most frequent case
        return data[at], at + 1
    value = 0
    for i, byte in enumerate(data[at : at + 10]):
        value |= (byte & 127) << 7 * i
        if byte < 128 and value < 1 << 64:
            return value, at + i + 1
    raise WeightFileError(f"no varint ends within the bytes {data[at : at + 10].hex() or '(none)'}")
