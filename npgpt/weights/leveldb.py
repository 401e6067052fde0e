"""LevelDB's table, a file of pairs sorted by key, read with distrust.

    block, trailer        pairs                                            (as often as needed)
    block, trailer        the metaindex: of filters, that may be missing, and nobody needs here
    block, trailer        the index: for every block of pairs, a key -> its handle
    footer                48 bytes: the handles of metaindex and index, zeros, MAGIC (8 bytes)

    handle     offset, size                            the block's, without its trailer
    trailer    kind (1 byte), checksum (4 bytes)       kind 0: as it is, 1: compressed with Snappy
    block      pair, pair, ..., restarts (4 bytes each), number of restarts (4 bytes)
    pair       shared, added, length, the rest of the key (added bytes), the value (length bytes)

A key begins with the first `shared` bytes of the key before it: sorted keys begin alike. Every 16th
pair at least shares nothing, so that one may start there: `restarts` says where, for those who
look for a single key. Whoever reads all of them in order has no use for it, nor for the index's
keys.

offset, size, shared, added and length are varints: 7 bits in a byte, the lowest first, the top bit
of each byte saying that another one follows. All else is little endian. A checksum is that of block
and kind, masked: crc32c.py.

https://github.com/google/leveldb/blob/main/doc/table_format.md
"""

from collections.abc import Iterator
from pathlib import Path

from npgpt.errors import InputError
from npgpt.weights.crc32c import crc32c, masked
from npgpt.weights.mapped import MappedFile

MAGIC = bytes.fromhex("57fb808b247547db")
FOOTER, TRAILER = 48, 5  # bytes
MOST_BYTES = 1 << 20  # of a table: that of the largest GPT-2 has some 20,000
INTERVAL = 16  # pairs from one whole key to the next: LevelDB's default, and TensorFlow's


def read_table(path: str | Path) -> Iterator[tuple[bytes, bytes]]:
    """Yields (key, value) in the order of the keys, each block checked before its pairs.

    Raises InputError for what is no whole table, or one of more than MOST_BYTES.
    """
    data = MappedFile(path).data
    if data.size > MOST_BYTES:
        raise InputError(f"{path} has {data.size:,} bytes; at most {MOST_BYTES:,} are read")
    data = data.tobytes()
    try:
        yield from pairs_of(data)
    except InputError as error:
        raise InputError(f"{path} is cut, damaged or no LevelDB table: {error}") from None


def pairs_of(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The pairs of the table `data`."""
    footer, magic = data[-FOOTER : -len(MAGIC)], data[-len(MAGIC) :]
    if len(data) < FOOTER or magic != MAGIC:
        raise InputError(f"its {len(data):,} bytes end with {magic.hex()}, not {MAGIC.hex()}")
    _, metaindex = handle(footer)
    index, _ = block(data, footer[metaindex:])
    end, last = 0, None
    for _, where in pairs(index):
        (start, _), _ = handle(where)
        if start < end:  # reading one block many times would have no end
            raise InputError(f"a block begins at {start}, the one before it ends at {end}")
        content, end = block(data, where)
        for key, value in pairs(content, after=last):
            yield key, value
            last = key


def handle(data: bytes) -> tuple[tuple[int, int], int]:
    """Offset and size of a block, and how many bytes of `data` said so."""
    offset, at = varint(data, 0)
    size, at = varint(data, at)
    return (offset, size), at


def block(data: bytes, where: bytes) -> tuple[bytes, int]:
    """The block that a handle stands for, checked, and where its trailer ends."""
    (start, size), _ = handle(where)
    stop = start + size
    end = stop + TRAILER
    if end > len(data) - FOOTER:
        raise InputError(f"a block of {size} bytes at {start} does not fit into {len(data):,}")
    found = masked(crc32c(data[start : stop + 1]))
    expected = int.from_bytes(data[stop + 1 : end], "little")
    if found != expected:
        raise InputError(f"the block at {start} has the checksum {found:08x}, not "
                         f"{expected:08x} as when it was written")  # fmt: skip
    if data[stop] != 0:
        raise InputError(f"the block at {start} is compressed (kind {data[stop]}), which is not "
                         "read here: TensorFlow since 1.2 writes it as it is")  # fmt: skip
    return data[start:stop], end


def pairs(block: bytes, after: bytes | None = None) -> Iterator[tuple[bytes, bytes]]:
    """The pairs of a block. after: the key before them, if there is one."""
    restarts = int.from_bytes(block[-4:], "little")
    end = len(block) - 4 - 4 * restarts
    if end < 0:
        raise InputError(f"a block of {len(block)} bytes cannot have {restarts} restarts")
    content, at, key, total = block[:end], 0, b"", 0
    while at < end:
        shared, at = varint(content, at)
        added, at = varint(content, at)
        length, at = varint(content, at)
        value = at + added
        if shared > len(key) or value + length > end:
            raise InputError(f"a pair shares {shared} of {len(key)} bytes and has {added} + "
                             f"{length} of its own, of {end - at} that are left")  # fmt: skip
        total += shared + added
        if total > INTERVAL * len(block):  # no block whose keys are whole so often gets there
            raise InputError(f"keys of more than {INTERVAL} times their block of {len(block)}")
        key = key[:shared] + content[at:value]
        if after is not None and key <= after:
            raise InputError(f"its keys are not in order: {key[:99]!r} after {after[:99]!r}")
        at, after = value + length, key
        yield key, content[value:at]


def varint(data: bytes, at: int) -> tuple[int, int]:
    """The number below 2**64 that begins at `at`, and where it ends."""
    if at < len(data) and data[at] < 128:  # nearly always
        return data[at], at + 1
    value = 0
    for place, byte in enumerate(data[at : at + 10]):
        value |= (byte & 127) << 7 * place
        if byte < 128 and value < 1 << 64:
            return value, at + place + 1
    raise InputError(f"no number ends within the bytes {data[at : at + 10].hex() or '(none)'}")
