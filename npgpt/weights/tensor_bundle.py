"""TensorFlow's checkpoint, its "V2 bundle", read without TensorFlow.

    model.ckpt.index                  what lies where: a LevelDB table (leveldb.py) of the pairs
                                          ""                       -> BundleHeaderProto
                                          "model/h0/attn/c_attn/b" -> BundleEntryProto
                                          "model/h0/attn/c_attn/w" -> BundleEntryProto  ...
    model.ckpt.data-00000-of-00001    the numbers, row-major, one tensor after another

With more than one data file, 00001 is how many there are; the header knows too. (model.ckpt.meta
is the graph that computed with them, and `checkpoint` the name of the newest: nobody needs these.)

Both messages are protobuf: a sequence of tag and value, where a tag is the varint
`number of the field << 3 | how the value is written`:

    0  a varint, as in leveldb.py; a negative number as itself + 2**64, in ten bytes
    1  8 bytes, little endian
    2  a varint n, then n bytes: another message, or a string
    5  4 bytes, little endian

A field that is 0 or empty is left out; one that may be repeated just stands there again; one that
is not known is skipped. These are the fields:

    BundleHeaderProto           BundleEntryProto
      1  number of data files     1  dtype: 1 is float32, see DTYPES
      2  1: big endian            2  shape, a message of
      3  version, a message of         2  repeated, a message per axis: 1  its length
           2  least reader             3  1: not even the number of axes is known
                                  3  number of the data file, from 0
                                  4  offset in it
                                  5  size, in bytes
                                  6  checksum of these bytes (4 bytes, masked: crc32c.py)
                                  7  repeated: the pieces of a variable that is stored in pieces

So twelve zeros of float32 in the shape (1, 2, 6), at offset 64 of the first data file, are

    08 01   12 0c 12 02 08 01 12 02 08 02 12 02 08 06   20 40    28 30   35 f0 3b f5 17
    dtype   shape          1           2           6    offset   size    checksum

The file is not trusted: that every tensor lies in its data file, has as many bytes as its shape
asks for, and shares none of them with another, is known before a number is touched.

tensorflow/core/protobuf/tensor_bundle.proto, framework/tensor_shape.proto, framework/types.proto
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from npgpt.errors import InputError
from npgpt.weights.crc32c import crc32c, masked
from npgpt.weights.leveldb import read_table, varint
from npgpt.weights.mapped import BFLOAT16, MappedFile, MappedTensor, itemsize

VERSION = 1  # of the format: the only one so far
DTYPES = {
    1: "float32", 2: "float64", 3: "int32", 4: "uint8", 5: "int16", 6: "int8", 9: "int64",
    14: BFLOAT16, 17: "uint16", 19: "float16", 22: "uint32", 23: "uint64",
}  # fmt: skip
OTHERS = {7: "strings", 8: "complex numbers", 10: "booleans", 18: "complex numbers"}
MOST_NAME = 1000  # bytes
MOST_AXES = 64  # NumPy's most
PIECES = "a variable stored in pieces (partitioned), which is not read here: save it whole"


class Entry(NamedTuple):
    """What the index says of a tensor."""

    dtype: str
    shape: tuple[int, ...]
    shard: int  # the number of its data file
    start: int
    stop: int
    crc: int  # masked


def read_bundle(prefix: str | Path, *, verify: bool = False) -> dict[str, MappedTensor]:
    """Every tensor by its name, sorted: "model/h0/attn/c_attn/w" (1, C, 3C), and so on.

    prefix: what the paths of the files have in common, ".../model.ckpt". The checksums of the index
    are always compared, those of the data only if `verify`, because then all of it is read. Raises
    InputError for what is not whole, or of a kind that is not read here.
    """
    path = Path(f"{prefix}.index")
    shards, entries = read_index(path)
    files = {
        shard: MappedFile(f"{prefix}.data-{shard:05}-of-{shards:05}")
        for shard in sorted({entry.shard for entry in entries.values()})
    }
    check_places(entries, files, path)
    tensors = {
        n: MappedTensor(files[e.shard], e.start, e.shape, e.dtype) for n, e in entries.items()
    }
    if verify:
        for name, tensor in tensors.items():
            check_numbers(name, tensor, entries[name].crc)
    return tensors


def read_index(path: Path) -> tuple[int, dict[str, Entry]]:
    """The number of data files, and every entry by its name."""
    pairs = read_table(path)
    key, value = next(pairs, (None, b""))
    if key != b"":
        raise InputError(f"{path} does not begin with the header of a checkpoint")
    with about(f"{path}: its header"):
        shards = parse_header(value)
    entries = {}
    for key, value in pairs:
        with about(f"{path}: {key[:99]!r}"):
            name = parse_name(key)
        with about(f"{path}: {name!r}"):
            entries[name] = parse_entry(value, shards)
    return shards, entries


@contextmanager
def about(what: str) -> Iterator[None]:
    """Says what an InputError is about."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{what}: {error}") from None


def parse_header(message: bytes) -> int:
    """BundleHeaderProto -> the number of data files."""
    found = fields(message)
    shards, big_endian = number(found, 0x08), number(found, 0x10)
    if shards < 1:
        raise InputError(f"there are {shards} data files, expected at least one")
    if big_endian:
        raise InputError("the numbers are big endian, which is not read here")
    least = number(fields(b"".join(found.get(0x1A, []))), 0x10)
    if least > VERSION:
        raise InputError(f"it asks for a reader of version {least}; this one is of {VERSION}")
    return shards


def parse_name(key: bytes) -> str:
    """A tensor's name."""
    if key.startswith(b"\0"):  # so begin the keys of pieces
        raise InputError(f"this is part of {PIECES}")
    if len(key) > MOST_NAME:
        raise InputError(f"a name of {len(key):,} bytes; at most {MOST_NAME:,} are read")
    try:
        return key.decode()
    except UnicodeDecodeError:
        raise InputError("this name is not UTF-8") from None


def parse_entry(message: bytes, shards: int) -> Entry:
    """BundleEntryProto -> Entry, as far as it can be judged without the data file."""
    found = fields(message)
    if 0x3A in found:
        raise InputError(f"this is {PIECES}")
    kind, shard = number(found, 0x08), number(found, 0x18)
    if kind not in DTYPES:
        raise InputError(f"it is of TensorFlow's dtype {kind} ({OTHERS.get(kind, 'unknown')}), "
                         "which is not read here: save the model's variables only")  # fmt: skip
    dtype, shape = DTYPES[kind], parse_shape(b"".join(found.get(0x12, [])))
    if not 0 <= shard < shards:
        raise InputError(f"its data file is number {shard} of {shards}")
    start, size = number(found, 0x20), number(found, 0x28)
    if start < 0 or size != math.prod(shape) * itemsize(dtype):
        raise InputError(f"{size} bytes at {start} cannot be {shape} numbers of {dtype}")
    return Entry(dtype, shape, shard, start, start + size, number(found, 0x35))


def parse_shape(message: bytes) -> tuple[int, ...]:
    """TensorShapeProto -> a shape whose size can be computed with."""
    found = fields(message)
    axes = found.get(0x12, [])
    if number(found, 0x18) or len(axes) > MOST_AXES:
        raise InputError(f"its shape is unknown or has more than {MOST_AXES} axes")
    shape = tuple(number(fields(axis), 0x08) for axis in axes)
    if min(shape, default=0) < 0:
        raise InputError(f"its shape {shape} has a negative axis")
    if math.prod(max(n, 1) for n in shape) >= 1 << 60:  # NumPy's limit, 0 or not, and some room
        raise InputError(f"its shape {shape} is larger than any array")
    return shape


def fields(message: bytes) -> dict[int, list[int | bytes]]:
    """The values of a protobuf message by their tags, in order, as far as they are known here: a
    field that is written in another way than expected has another tag, and so is not known."""
    found, at = {}, 0
    while at < len(message):
        tag, at = varint(message, at)
        kind = tag & 7
        if kind == 0:
            value, at = varint(message, at)
            value -= value >> 63 << 64
        else:
            if kind == 2:
                size, at = varint(message, at)
            elif kind in (1, 5):
                size = 8 if kind == 1 else 4
            else:
                raise InputError(f"a field is written in the unknown way {kind}")
            value, at = message[at : at + size], at + size
            if at > len(message):
                raise InputError(f"a field of {size} bytes where {len(value)} are left")
            if kind != 2:
                value = int.from_bytes(value, "little")
        if tag < 64:  # the fields above have numbers up to 7; what else there is takes no memory
            found.setdefault(tag, []).append(value)
    return found


def number(found: dict[int, list], tag: int) -> int:
    """The value of a field that is not repeated: the last one, and 0 if there is none."""
    return found.get(tag, (0,))[-1]


def check_places(entries: dict[str, Entry], files: dict[int, MappedFile], path: Path) -> None:
    """Raises InputError unless every tensor lies in its file, on bytes of its own."""
    for name, entry in entries.items():
        file = files[entry.shard]
        if entry.stop > file.data.size:
            raise InputError(f"{file.path} is cut, or of another checkpoint: {name!r} ends at "
                             f"{entry.stop:,}, it at {file.data.size:,} bytes")  # fmt: skip
    taken = sorted((e.shard, e.start, e.stop, n) for n, e in entries.items() if e.stop > e.start)
    for one, other in pairwise(taken):
        if one[0] == other[0] and one[2] > other[1]:
            raise InputError(f"{path}: {one[3]!r} and {other[3]!r} have bytes in common: "
                             f"{one[1]} to {one[2]}, and {other[1]} to {other[2]}")  # fmt: skip


def check_numbers(name: str, tensor: MappedTensor, expected: int) -> None:
    """Raises InputError if the tensor's bytes have not the checksum in the index."""
    file, stop = tensor.file, tensor.start + tensor.nbytes
    found = masked(crc32c(file.data[tensor.start : stop]))
    file.forget(tensor.start, stop)
    if found != expected:
        raise InputError(f"{file.path} is damaged: {name!r} has the checksum {found:08x}, not "
                         f"{expected:08x} as when it was written")  # fmt: skip
