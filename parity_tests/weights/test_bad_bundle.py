"""Invalid tensor bundles are refused with a reason; valid unusual ones are read."""

import pytest

from npgpt.weights import leveldb, tensor_bundle
from npgpt.weights.tensor_bundle import read_bundle
from parity_tests.support.bundle_bytes import (
    AXES,
    BLOCK,
    DATA,
    GOOD,
    NONE,
    A,
    B,
    a,
    flipped,
    headed,
    key_bomb,
    packed,
    placed,
    pointed,
    refused,
    with_a,
    with_c,
)
from parity_tests.support.bundles import assemble, block, entry, field, header, pair, table, varint

BAD = {
    "empty": (b"", "its 0 bytes end with , not 57fb808b247547db"),
    "cut": (table(GOOD)[:-1], r"is truncated, damaged or not a LevelDB table: its \d+ bytes end"),
    "start cut": (table(GOOD)[-20:], "its 20 bytes end with 57fb808b247547db"),
    "magic": (flipped(table(GOOD), -2), "end with 57fb808b247546db, not 57fb808b247547db"),
    "large": (bytes(leveldb.MAX_BYTES + 1), "has 1,048,577 bytes; at most 1,048,576 are read"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
    "footer": (b"\xff" * 40 + table(GOOD)[-8:], "no varint ends within the bytes f{20}$"),
    "long block": (pointed((0, 1 << 63)), "a block of 9223372036854775808 bytes at 0 does not fit"),
    "far block": (pointed((1 << 63, 1)), "a block of 1 bytes at 9223372036854775808 does not fit"),
    "trailer": (pointed((0, len(pointed((0, 1))) - 52)), r"a block of \d+ bytes at 0 does not fit"),
    "no handle": (assemble([], change_index=lambda index: block([(b"b", b"\x00")])),
        r"no varint ends within the bytes \(none\)"),
    "again": (pointed(*[(0, len(BLOCK))] * 2), r"a block begins at 0, the previous one ends at "),
    "checksum": (flipped(table(GOOD), 5), "the block at 0 has the checksum .{8}, expected .{8}"),
    "snappy": (assemble([(b"b", BLOCK)], kind=1), r"the block at 0 is compressed \(kind 1\)"),
    "restarts": (assemble([(b"b", b"\xff" * 4)]), "a block of 4 bytes cannot have 4294967295 rest"),
    "no restarts": (assemble([(b"b", b"")]), "a block of 0 bytes cannot have 0 restarts"),
    "shared": (packed(pair(1, b"", header())), r"a pair shares 1 of 0 bytes and has 0 \+ 6 of its"),
    "added": (packed(varint(0) + varint(9) + varint(0)), r"has 9 \+ 0 of its own, of 0 that are"),
    "length": (packed(varint(0) * 2 + varint(1 << 60)), r"has 0 \+ 1152921504606846976 of its own"),
    "half a pair": (packed(b"\x00"), r"no varint ends within the bytes \(none\)"),
    "long number": (packed(b"\x80" * 10 + b"\x00"), "no varint ends within the bytes (80){10}$"),
    "large number": (packed(b"\xff" * 9 + b"\x02"), "no varint ends within the bytes (ff){9}02$"),
    "order": (table([GOOD[0], GOOD[2], GOOD[1]]), "its keys are not in order: b'a' after b'b'"),
    "twice": (table([*GOOD, GOOD[2]]), "its keys are not in order: b'b' after b'b'"),
    "order of index": (table([GOOD[0], GOOD[2], GOOD[1]], 1), "in order: b'a' after b'b'"),
    "order of blocks": (assemble([(b"b", block([GOOD[0], GOOD[2]])), (b"c", block([GOOD[1]]))]),
        "its keys are not in order: b'a' after b'b'"),
    "key bomb": (key_bomb(), r"keys of more than 16 times their block of \d+"),
    "no pairs": (table([]), "does not begin with the header of a checkpoint"),
    "no header": (table(GOOD[1:]), "does not begin with the header of a checkpoint"),
    "no shards": (headed(header(0)), "its header: there are 0 data files, expected at least one"),
    "negative shards": (headed(header(-1)), "its header: there are -1 data files"),
    "big endian": (headed(header(endianness=1)), "its header: the numbers are big endian"),
    "version": (headed(header(version=field(2, 2))), "a reader of version 2; this one has 1"),
    "cut header": (headed(b"\x08"), r"its header: no varint ends within the bytes \(none\)"),
    "other shards": (headed(header(2)), "there is no file .*model.ckpt.data-00000-of-00002"),
    "name": (with_c(B, b"\xff"), r"b'\\xff': this name is not UTF-8"),
    "an escape sequence": (with_c(B, b"c\x1b[2J"), r"c\\x1b\[2J': this name is not printable"),
    "long name": (with_c(B, b"c" * 1001), "c': a name of 1,001 bytes; at most 1,000 are read"),
    "piece": (table([GOOD[0], (b"\0a\0\1", A)]), "this is part of a partitioned variable"),
    "pieces": (a(more=field(7, b"")), "'a': this is a partitioned variable"),
    "strings": (a(kind=7), r"'a': it has TensorFlow's dtype 7 \(strings\), which is not supported"),
    "no dtype": (with_a(b""), r"'a': it has TensorFlow's dtype 0 \(unknown\)"),
    "shard": (a(shard=1), "'a': its data file is number 1; expected 0 to 0"),
    "negative shard": (a(shard=-1), "'a': its data file is number -1; expected 0 to 0"),
    "size": (a(size=23), r"'a': 23 bytes at 0 cannot be \(2, 3\) numbers of float32"),
    "dtype": (a("float64"), r"'a': 24 bytes at 0 cannot be \(2, 3\) numbers of float64"),
    "negative size": (a(size=-24), r"'a': -24 bytes at 0 cannot be"),
    "negative offset": (a(offset=-8), r"'a': 24 bytes at -8 cannot be"),
    "offset": (a(offset=9), "00001 is truncated, .*: 'a' ends at 33, the file at 32 bytes"),
    "far": (a(offset=(1 << 63) - 1), "'a' ends at 9,223,372,036,854,775,831, the file at 32 bytes"),
    "far and empty": (with_c(entry("int8", (0,), b"", offset=33)), "'c' ends at 33, the file"),
    "overlap": (a(offset=8), "'a' and 'b' overlap: bytes 8 to 32 and 24 to 32"),
    "same bytes": (with_c(B), "'b' and 'c' overlap: bytes 24 to 32 and 24 to 32"),
    "within": (with_c(entry("int8", (4,), DATA[4:8], offset=4)), "bytes 0 to 24 and 4 to 8"),
    "negative axis": (a(shape=(-2, -3)), r"'a': its shape \(-2, -3\) has a negative axis"),
    "shape bomb": (a(shape=(1 << 32, 1 << 32), size=0), r"its shape .* is larger than any array"),
    "empty bomb": (a(shape=(0, 1 << 40, 1 << 40), size=0), "its shape .* is larger than any array"),
    "axes": (a(shape=(1,) * 65), "'a': its shape is unknown or has more than 64 axes"),
    "no rank": (with_a(field(1, 1) + field(2, field(3, 1))), "'a': its shape is unknown"),
    "group": (with_c(B + b"\x43"), "'c': a field has the unknown wire type 3"),
    "cut field": (with_c(B[:-1]), "'c': a field of 4 bytes where 3 are left"),
    "long field": (with_c(b"\x12\x7f"), "'c': a field of 127 bytes where 0 are left"),
}  # fmt: skip


@pytest.mark.parametrize("index, says", BAD.values(), ids=BAD)
def test_a_bad_index_is_refused_and_says_why(tmp_path, index, says):
    refused(placed(tmp_path, index), says)


def test_bad_data_is_refused_and_says_why(tmp_path):
    refused(tmp_path / "model.ckpt", "there is no file .*model.ckpt.index")
    prefix = placed(tmp_path, table(GOOD), DATA[:-1])
    refused(prefix, "00001 is truncated, or belongs.*: 'b' ends at 32, the file at 31 bytes")
    placed(tmp_path, table(GOOD), b"")
    refused(prefix, "'a' ends at 24, the file at 0 bytes")
    (tmp_path / "model.ckpt.data-00000-of-00001").unlink()
    refused(prefix, "there is no file .*model.ckpt.data-00000-of-00001")


@pytest.mark.parametrize("at, name", [(0, "a"), (23, "a"), (24, "b"), (31, "b")])
def test_verify_finds_damaged_numbers(tmp_path, at, name):
    prefix = placed(tmp_path, table(GOOD), flipped(DATA, at) if at else b"\x01" + DATA[1:])
    assert list(read_bundle(prefix)) == ["a", "b"]
    refused(prefix, f"is damaged: '{name}' has the checksum .{{8}}, expected .{{8}}", verify=True)


# Valid files


def test_the_example_in_the_docstring():
    line = next(line for line in tensor_bundle.__doc__.splitlines() if line.startswith("    08 01"))
    message = bytes.fromhex(line)
    assert message == entry("float32", (1, 2, 6), bytes(48), offset=64)
    found = tensor_bundle.parse_entry(message, 1)
    dtype, shape, shard = found.dtype, found.shape, found.shard
    start, stop = found.start, found.stop
    assert (dtype, shape, shard, start, stop) == ("float32", (1, 2, 6), 0, 64, 112)


@pytest.mark.parametrize(
    "index",
    [
        a(more=field(9, 1) + field(10, b"new") + b"\x59" + b"\xff" * 8 + b"\x65" + b"\xff" * 4),
        with_a(field(4, 99) + A + varint(4 << 3) + varint(0)),
        with_a(A.replace(AXES, field(2, AXES[2:6]) + field(2, AXES[6:]))),
        with_a(A + b"\x0d" + bytes(4) + field(3, b"?")),
        headed(header() + field(7, b"new")),
        headed(header(version=field(1, 9) + field(2, 1))),
        table(GOOD, 1),
        assemble([(b"", block(GOOD[:1])), (b"a", block([])), (b"b", block(GOOD[1:]))]),
    ],
    ids=[
        "new fields",
        "last one counts",
        "parts",
        "other kinds",
        "header",
        "producer",
        "blocks",
        "empty",
    ],
)
def test_unusual_valid_files_are_read(tmp_path, index):
    found = read_bundle(placed(tmp_path, index), verify=True)
    assert list(found) == ["a", "b"]
    assert found["a"].raw().tobytes() == DATA[:24]
    assert found["b"].raw().tobytes() == DATA[24:]


def test_no_tensors_and_no_numbers(tmp_path):
    assert read_bundle(placed(tmp_path, table(GOOD[:1]))) == {}
    found = read_bundle(placed(tmp_path, table([GOOD[0], (b"a", NONE)]), b""), verify=True)
    assert found["a"].array().shape == (0,)
