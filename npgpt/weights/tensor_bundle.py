"""Read TensorFlow's checkpoint, the "V2 bundle", without TensorFlow.

    model.ckpt.index                  the location of each tensor: a LevelDB table (leveldb.py) of
                                          ""                       -> BundleHeaderProto
                                          "model/h0/attn/c_attn/b" -> BundleEntryProto
                                          "model/h0/attn/c_attn/w" -> BundleEntryProto  ...
    model.ckpt.data-00000-of-00001    the numbers, row-major, one tensor after another

00001 is the number of data files, as in the header. (model.ckpt.meta, the computation graph,
and `checkpoint`, the name of the newest checkpoint, are not needed.)

Both messages are protobuf: a sequence of tag and value, where a tag is the varint
`number of the field << 3 | wire type`:

    0  a varint, as in leveldb.py; a negative number plus 2**64, in ten bytes
    1  8 bytes, little endian
    2  a varint n, then n bytes: another message, or a string
    5  4 bytes, little endian

A field that is 0 or empty is left out. A repeated field occurs several times. Unknown fields are
skipped. These are the fields:

    BundleHeaderProto           BundleEntryProto
      1  number of data files     1  dtype: 1 is float32, see DTYPES
      2  1: big endian            2  shape, a message of
      3  version, a message of         2  repeated, a message per axis: 1  its length
           2  least reader             3  1: the number of axes is unknown
                                  3  number of the data file, from 0
                                  4  offset in it
                                  5  size, in bytes
                                  6  checksum of these bytes (4 bytes, masked: crc32c.py)
                                  7  repeated: the slices of a partitioned variable

For example, twelve float32 zeros of shape (1, 2, 6), at offset 64 of the first data file, are

    08 01   12 0c 12 02 08 01 12 02 08 02 12 02 08 06   20 40    28 30   35 f0 3b f5 17
    dtype   shape          1           2           6    offset   size    checksum

The file is untrusted. Before a number is read, every tensor is checked: it must be inside its data
file, have the size of its shape, and not overlap another tensor.

tensorflow/core/protobuf/tensor_bundle.proto, framework/tensor_shape.proto, framework/types.proto
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from npgpt.errors import InputError, WeightFileError
from npgpt.weights.crc32c import crc32c, mask
from npgpt.weights.leveldb import parse_varint, read_table
from npgpt.weights.mapped import BFLOAT16, MappedFile, MappedTensor, itemsize

VERSION = 1  # of the format, the only one
DTYPES = {
    1: "float32", 2: "float64", 3: "int32", 4: "uint8", 5: "int16", 6: "int8", 9: "int64",
    14: BFLOAT16, 17: "uint16", 19: "float16", 22: "uint32", 23: "uint64",
}  # fmt: skip
OTHERS = {7: "strings", 8: "complex numbers", 10: "booleans", 18: "complex numbers"}
MAX_NAME = 1000  # bytes
MAX_AXES = 64  # NumPy's limit
PARTITIONED = "a partitioned variable, which is not supported: save it in one part"

Fields = dict[int, list[int | bytes]]  # values of a protobuf message, by tag


@dataclass(frozen=True)
class Entry:
    """The entry of a tensor in the index."""

    dtype: str
    shape: tuple[int, ...]
    shard: int  # the number of its data file, from 0
    start: int
    stop: int
    crc: int  # masked


def read_bundle(prefix: str | Path, *, verify: bool = False) -> dict[str, MappedTensor]:
    """Map every tensor, by its name, sorted: "model/h0/attn/c_attn/w" (1, C, 3C), and so on.

    `prefix`: the common prefix of the paths of the files, ".../model.ckpt". The checksums of the
    index are always verified. With `verify`, all numbers are read and their checksums verified.
    Raises WeightFileError if the checkpoint is damaged, incomplete, or not supported.
    """
    path = Path(f"{prefix}.index")
    shards, entries = read_index(path)
    files = {
        shard: MappedFile(f"{prefix}.data-{shard:05}-of-{shards:05}")
        for shard in sorted({entry.shard for entry in entries.values()})
    }
    check_extents(entries, files, path)
    tensors = {
        n: MappedTensor(files[e.shard], e.start, e.shape, e.dtype) for n, e in entries.items()
    }
    if verify:
        for name, tensor in tensors.items():
            check_checksum(name, tensor, entries[name].crc)
    return tensors


def read_index(path: Path) -> tuple[int, dict[str, Entry]]:
    """Return the number of data files, and every entry by its name."""
    pairs = read_table(path)
    key, value = next(pairs, (None, b""))
    if key != b"":
        raise WeightFileError(f"{path} does not begin with the header of a checkpoint")
    with error_context(f"{path}: its header"):
        shards = parse_header(value)
    entries = {}
    for key, value in pairs:
        with error_context(f"{path}: {key[:99]!r}"):
            name = parse_name(key)
        with error_context(f"{path}: {name!r}"):
            entries[name] = parse_entry(value, shards)
    return shards, entries


@contextmanager
def error_context(subject: str) -> Iterator[None]:
    """Put the subject in front of the message of an InputError."""
    try:
        yield
    except InputError as error:
        raise WeightFileError(f"{subject}: {error}") from None


def parse_header(message: bytes) -> int:
    """Return the number of data files of a BundleHeaderProto."""
    found = parse_fields(message)
    shards, big_endian = integer(found, 0x08), integer(found, 0x10)
    if shards < 1:
        raise WeightFileError(f"there are {shards} data files, expected at least one")
    if big_endian:
        raise WeightFileError("the numbers are big endian, which is not supported")
    least = integer(parse_fields(submessage(found, 0x1A)), 0x10)
    if least > VERSION:
        raise WeightFileError(f"it requires a reader of version {least}; this one has {VERSION}")
    return shards


def parse_name(key: bytes) -> str:
    """Return the name of a tensor. Raises WeightFileError if it is not supported."""
    if key.startswith(b"\0"):  # the keys of slices
        raise WeightFileError(f"this is part of {PARTITIONED}")
    if len(key) > MAX_NAME:
        raise WeightFileError(f"a name of {len(key):,} bytes; at most {MAX_NAME:,} are read")
    try:
        name = key.decode()
    except UnicodeDecodeError:
        raise WeightFileError("this name is not UTF-8") from None
    if not name.isprintable():
        raise WeightFileError("this name is not printable")
    return name


def parse_entry(message: bytes, shards: int) -> Entry:
    """Return the Entry of a BundleEntryProto. Raises WeightFileError if it is not supported."""
    found = parse_fields(message)
    if 0x3A in found:
        raise WeightFileError(f"this is {PARTITIONED}")
    kind, shard = integer(found, 0x08), integer(found, 0x18)
    if kind not in DTYPES:
        raise WeightFileError(
            f"it has TensorFlow's dtype {kind} ({OTHERS.get(kind, 'unknown')}), which is not "
            "supported: save the model's variables only"
        )
    dtype, shape = DTYPES[kind], parse_shape(submessage(found, 0x12))
    if not 0 <= shard < shards:
        raise WeightFileError(f"its data file is number {shard}; expected 0 to {shards - 1}")
    start, size = integer(found, 0x20), integer(found, 0x28)
    if start < 0 or size != math.prod(shape) * itemsize(dtype):
        raise WeightFileError(f"{size} bytes at {start} cannot be {shape} numbers of {dtype}")
    return Entry(dtype, shape, shard, start, start + size, integer(found, 0x35))


def parse_shape(message: bytes) -> tuple[int, ...]:
    """Return the shape of a TensorShapeProto. Raises WeightFileError if no array can have it."""
    found = parse_fields(message)
    axes = [axis for axis in found.get(0x12, []) if isinstance(axis, bytes)]
    if integer(found, 0x18) or len(axes) > MAX_AXES:
        raise WeightFileError(f"its shape is unknown or has more than {MAX_AXES} axes")
    shape = tuple(integer(parse_fields(axis), 0x08) for axis in axes)
    if min(shape, default=0) < 0:
        raise WeightFileError(f"its shape {shape} has a negative axis")
    if math.prod(max(n, 1) for n in shape) >= 1 << 60:  # NumPy's limit, with a margin
        raise WeightFileError(f"its shape {shape} is larger than any array")
    return shape


def parse_fields(message: bytes) -> Fields:
    """Return the values of a protobuf message by their tags, in order.

    The tag includes the wire type: a field of an unexpected type is one of another tag.
    """
    found: Fields = {}
    at = 0
    while at < len(message):
        value: int | bytes
        tag, at = parse_varint(message, at)
        kind = tag & 7
        if kind == 0:
            value, at = parse_varint(message, at)
            value -= value >> 63 << 64
        else:
            if kind == 2:
                size, at = parse_varint(message, at)
            elif kind in (1, 5):
                size = 8 if kind == 1 else 4
            else:
                raise WeightFileError(f"a field has the unknown wire type {kind}")
            content, at = message[at : at + size], at + size
            if at > len(message):
                raise WeightFileError(f"a field of {size} bytes where {len(content)} are left")
            value = content if kind == 2 else int.from_bytes(content, "little")
        if tag < 64:  # the fields above have numbers up to 7; others take no memory
            found.setdefault(tag, []).append(value)
    return found


def integer(found: Fields, tag: int) -> int:
    """Return the integer of a field that is not repeated: the last one, or 0 if there is none."""
    value = found.get(tag, [0])[-1]
    assert isinstance(value, int)
    return value


def submessage(found: Fields, tag: int) -> bytes:
    """Return the message in a field: all occurrences joined, as protobuf merges them."""
    return b"".join(part for part in found.get(tag, []) if isinstance(part, bytes))


def check_extents(entries: dict[str, Entry], files: dict[int, MappedFile], path: Path) -> None:
    """Raise WeightFileError unless every tensor is inside its file and overlaps no other."""
    for name, entry in entries.items():
        file = files[entry.shard]
        if entry.stop > file.data.size:
            raise WeightFileError(
                f"{file.path} is truncated, or belongs to another checkpoint: {name!r} ends at "
                f"{entry.stop:,}, the file at {file.data.size:,} bytes"
            )
    taken = sorted((e.shard, e.start, e.stop, n) for n, e in entries.items() if e.stop > e.start)
    for one, other in pairwise(taken):
        if one[0] == other[0] and one[2] > other[1]:
            raise WeightFileError(
                f"{path}: {one[3]!r} and {other[3]!r} overlap: "
                f"bytes {one[1]} to {one[2]} and {other[1]} to {other[2]}"
            )


def check_checksum(name: str, tensor: MappedTensor, expected: int) -> None:
    """Raise WeightFileError if the tensor's bytes do not have the checksum in the index."""
    file, stop = tensor.file, tensor.start + tensor.nbytes
    found = mask(crc32c(file.data[tensor.start : stop]))
    file.drop_pages(tensor.start, stop)
    if found != expected:
        raise WeightFileError(
            f"{file.path} is damaged: {name!r} has the checksum {found:08x}, expected "
            f"{expected:08x}"
        )
