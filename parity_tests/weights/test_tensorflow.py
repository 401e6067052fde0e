"""TensorFlow's checkpoints: read as TensorFlow reads them, and whatever else is in a file, refused.

TensorFlow writes and reads once, in a process of its own (run_tensorflow.py).
"""

import json
import random
import tempfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings

import npgpt
from npgpt.errors import InputError
from npgpt.model import params
from npgpt.weights import leveldb, tensor_bundle
from npgpt.weights.crc32c import WIDTHS, crc32c
from npgpt.weights.tensor_bundle import read_bundle
from parity_tests.model.test_model import draw
from parity_tests.support import bundles, fuzz
from parity_tests.support.bundles import assemble, block, entry, field, header, pair, table, varint
from parity_tests.support.run_tensorflow import ask, available

TINY = npgpt.Config(vocab_size=61, context_length=16, n_layer=2, n_head=2, n_embd=8)
BFLOAT16 = ["half/brain"]


def odd(rng):
    """All dtypes, all kinds of shapes, names that begin alike, addresses that divide by nothing."""
    arrays = {
        "half/brain": rng.integers(1 << 16, size=(3, 2)).astype(np.uint16),
        "half/float": rng.normal(size=7).astype(np.float16),
        "model/h1/a": rng.normal(size=(2, 3)).astype(np.float32),
        "model/h10/a": rng.normal(size=(1, 4, 2)),
        "model/h1": np.float32(-0.0),
        "model/h1/none": np.zeros((3, 0, 2), np.float32),
        "not a number": np.array([np.nan, np.inf, -np.inf, 1e-45], np.float32),
        "größe": np.ones(1, np.float32),
        "global_step": np.int64(-3),
        "last": np.arange(5, dtype=np.float32),
    }
    for name in ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"):
        info = np.iinfo(name)
        arrays[f"whole/{name}"] = np.array([info.min, info.max, 1], name)
    return arrays


def many(rng):
    """So many and so long names that they need several blocks of TensorFlow's size."""
    letters = list("abcdefghijklmnopqrstuvwxyz/_0123456789")
    names = {"n" + "".join(rng.choice(letters, size=900)) for _ in range(600)}
    return {name: rng.normal(size=rng.integers(4)).astype(np.float32) for name in sorted(names)}


def small(rng):
    """The parameters of the 124M model: random bits."""
    shapes = dict(params.named(params.shapes(npgpt.Config())))
    arrays = {
        name: rng.integers(1 << 32, size=shape, dtype=np.uint32).view(np.float32)
        for name, shape in shapes.items()
    }
    return bundles.openai(arrays)


def unreadable(rng):
    """What npgpt does not read, one a checkpoint."""
    return {
        "strings": np.array([b"a", b"bc"]),
        "booleans": np.array([True]),
        "complex numbers": np.ones(2, np.complex64),
    }


@pytest.fixture(scope="module")
def judged():
    """(a folder with what TensorFlow wrote and read, the arrays that it was given by file name)."""
    if not available():
        pytest.skip("no TensorFlow here, and NPGPT_TENSORFLOW_PYTHON names no Python that has it")
    rng, jobs = np.random.default_rng(1337), []
    written = {"odd": odd(rng), "two": odd(rng), "many": many(rng), "124M": small(rng)}
    written["folder"] = bundles.openai(draw(TINY, rng, np.float32).arrays)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        for name, arrays in written.items():
            np.savez(folder / f"{name}.npz", **arrays)
            mark = BFLOAT16 if name in ("odd", "two") else []
            where = folder / "folder" / "model.ckpt" if name == "folder" else folder / name
            where.parent.mkdir(exist_ok=True)
            shards = 2 if name == "two" else 1
            jobs.append(["save", folder / f"{name}.npz", where, shards, mark, name == "folder"])
            if name != "124M":
                bundles.write(folder / f"our-{name}", arrays, bfloat16=mark, shards=shards)
                jobs.append(["load", folder / f"our-{name}", folder / f"our-{name}.npz"])
        bundles.write_hparams(folder / "folder", TINY)
        for name, array in unreadable(rng).items():
            np.savez(folder / f"{name}.npz", **{name: array})
            jobs.append(["save", folder / f"{name}.npz", folder / name])
        bundles.write(folder / "our-blocks", written["odd"], bfloat16=BFLOAT16, block_size=64)
        jobs.append(["load", folder / "our-blocks", folder / "our-blocks.npz"])
        jobs.append(["save_pieces", folder / "pieces"])
        ask(jobs)
        yield folder, written


def same(found, expected):
    """Bit by bit: NaNs and zeros too."""
    assert (found.shape, found.dtype) == (np.shape(expected), expected.dtype)
    assert np.array_equal(
        np.ascontiguousarray(found).reshape(-1).view(np.uint8),
        np.ascontiguousarray(expected).reshape(-1).view(np.uint8),
    )


# The judge


@pytest.mark.parametrize("name", ["odd", "two", "many", "124M"])
def test_what_tensorflow_wrote_is_read_bit_by_bit(judged, name):
    folder, written = judged
    found, expected = read_bundle(folder / name, verify=True), written[name]
    assert list(found) == sorted(expected)
    for key, tensor in found.items():
        same(tensor.raw(), expected[key])
        assert (tensor.dtype == "bfloat16") == (key in BFLOAT16)
    assert len({tensor.file.path for tensor in found.values()}) == (2 if name == "two" else 1)


def test_many_variables_take_several_blocks(judged):
    """Otherwise the test above would not say what it is there to say."""
    folder, _ = judged
    data = (folder / "many.index").read_bytes()
    index, _ = leveldb.block(data, data[-48 + leveldb.handle(data[-48:])[1] :])
    assert len(list(leveldb.pairs(index))) >= 3


def test_opening_takes_no_memory_for_the_numbers(judged):
    folder, _ = judged
    tracemalloc.start()
    found = read_bundle(folder / "124M")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sum(tensor.nbytes for tensor in found.values()) == 497_759_232
    assert peak < 1 << 20


@pytest.mark.parametrize("name", ["odd", "two", "many", "blocks", "folder"])
def test_tensorflow_reads_what_the_tests_write(judged, name):
    folder, written = judged
    expected = written["odd" if name == "blocks" else name]
    with np.load(folder / f"our-{name}.npz") as found:
        assert set(found) == set(expected)
        for key in expected:
            same(found[key], expected[key])


@pytest.mark.parametrize(
    "name, says",
    [
        ("strings", r"'strings': .* dtype 7 \(strings\), which is not read here"),
        ("booleans", r"'booleans': .* dtype 10 \(booleans\), which is not read here"),
        ("complex numbers", r"dtype 8 \(complex numbers\), which is not read here"),
        ("pieces", r"wide.*: this is part of a variable stored in pieces .* save it whole"),
    ],
)
def test_what_tensorflow_wrote_and_npgpt_does_not_read_is_named(judged, name, says):
    refused(judged[0] / name, says)


def by_name(tensors):
    """OpenAI's arrays by checkpoint name, put in order by hand."""
    found = {
        "wte.weight": tensors["model/wte"],
        "wpe.weight": tensors["model/wpe"],
        "ln_f.weight": tensors["model/ln_f/g"],
        "ln_f.bias": tensors["model/ln_f/b"],
    }
    for i in range(TINY.n_layer):
        for ln in ("ln_1", "ln_2"):
            found[f"h.{i}.{ln}.weight"] = tensors[f"model/h{i}/{ln}/g"]
            found[f"h.{i}.{ln}.bias"] = tensors[f"model/h{i}/{ln}/b"]
        for layer in ("attn/c_attn", "attn/c_proj", "mlp/c_fc", "mlp/c_proj"):
            name = f"h.{i}.{layer.replace('/', '.')}"
            found[f"{name}.weight"] = tensors[f"model/h{i}/{layer}/w"][0]
            found[f"{name}.bias"] = tensors[f"model/h{i}/{layer}/b"]
    return found


def test_a_folder_of_the_tests_is_openais(judged, tmp_path, rng):
    """The same files, the same names and shapes, and npgpt's parameters in them."""
    folder, written = judged
    arrays = draw(TINY, rng, np.float32).arrays
    bundles.write_gpt2(tmp_path / "124M", TINY, arrays)
    theirs = {path.name for path in (folder / "folder").iterdir()} - {"model.ckpt.meta"}
    assert {path.name for path in (tmp_path / "124M").iterdir()} == theirs
    text = (tmp_path / "124M/checkpoint").read_text()
    assert text == (folder / "folder/checkpoint").read_text()
    assert len(text) == 77
    hparams = {"n_vocab": 61, "n_ctx": 16, "n_embd": 8, "n_head": 2, "n_layer": 2}
    assert json.loads((tmp_path / "124M/hparams.json").read_text()) == hparams
    found = read_bundle(tmp_path / "124M/model.ckpt", verify=True)
    assert {n: t.shape for n, t in found.items()} == {
        n: a.shape for n, a in sorted(written["folder"].items())
    }
    for name, array in by_name({n: t.raw() for n, t in found.items()}).items():
        same(array, arrays[name])


# The checksum


@pytest.mark.parametrize(
    "data, expected",
    [
        (b"", 0),
        (b"123456789", 0xE3069283),
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
    ],
)
def test_checksums_that_others_published(data, expected):
    assert crc32c(data) == expected
    assert crc32c(np.frombuffer(data, np.uint8)) == expected


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("more", [-4, -1, 0, 1, 4, 7, 1027])
def test_checksums_of_long_messages_are_those_of_the_definition(rng, width, more):
    data = rng.integers(256, size=16 * width + more + 1, dtype=np.uint8)[1:]
    state = 0xFFFFFFFF
    for byte in data.tolist():
        state ^= byte
        for _ in range(8):
            state = state >> 1 ^ (0x82F63B78 if state & 1 else 0)
    assert crc32c(data) == state ^ 0xFFFFFFFF


# What is refused

DATA = bytes(range(32))
A = entry("float32", (2, 3), DATA[:24])
B = entry("float32", (2,), DATA[24:], offset=24)
AXES = bytes.fromhex("1208 12020802 12020803")  # the shape in A
NONE = entry("float32", (0,), b"")
GOOD = [(b"", header()), (b"a", A), (b"b", B)]
BLOCK = block(GOOD)


def headed(message):
    """A table with another header."""
    return table([(b"", message), *GOOD[1:]])


def a(dtype="float32", shape=(2, 3), **changes):
    """A table whose tensor "a" is another one."""
    return with_a(entry(dtype, shape, DATA[:24], **changes))


def with_a(message):
    return table([GOOD[0], (b"a", message), GOOD[2]])


def with_c(message, key=b"c"):
    return table([*GOOD, (key, message)])


def packed(content):
    """A table of one block with these bytes where pairs are expected."""
    return assemble([(b"b", content + bytes(4) + (1).to_bytes(4, "little"))])


def pointed(*handles):
    """A table whose index says that its blocks are elsewhere."""
    pairs = [(bytes([i]), varint(at) + varint(size)) for i, (at, size) in enumerate(handles)]
    return assemble([(b"b", BLOCK)], change_index=lambda index: block(pairs))


def key_bomb(length=900, times=9000):
    """A long key, and many that repeat it."""
    pairs = [pair(0, b"", header()), pair(0, b"x" * length + b"000", NONE)]
    pairs += [pair(length, b"%04d" % i, NONE) for i in range(1000, times)]
    return packed(b"".join(pairs))


def flipped(data, at):
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


BAD = {
    "empty": (b"", "its 0 bytes end with , not 57fb808b247547db"),
    "cut": (table(GOOD)[:-1], r"is cut, damaged or no LevelDB table: its \d+ bytes end with"),
    "begun": (table(GOOD)[-20:], "its 20 bytes end with 57fb808b247547db"),
    "magic": (flipped(table(GOOD), -2), "end with 57fb808b247546db, not 57fb808b247547db"),
    "large": (bytes(leveldb.MOST_BYTES + 1), "has 1,048,577 bytes; at most 1,048,576 are read"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
    "footer": (b"\xff" * 40 + table(GOOD)[-8:], "no number ends within the bytes f{20}$"),
    "long block": (pointed((0, 1 << 63)), "a block of 9223372036854775808 bytes at 0 does not fit"),
    "far block": (pointed((1 << 63, 1)), "a block of 1 bytes at 9223372036854775808 does not fit"),
    "trailer": (pointed((0, len(pointed((0, 1))) - 52)), r"a block of \d+ bytes at 0 does not fit"),
    "no handle": (assemble([], change_index=lambda index: block([(b"b", b"\x00")])),
        r"no number ends within the bytes \(none\)"),
    "again": (pointed(*[(0, len(BLOCK))] * 2), r"a block begins at 0, the one before it ends at "),
    "checksum": (flipped(table(GOOD), 5), "the block at 0 has the checksum .{8}, not .{8} as when"),
    "snappy": (assemble([(b"b", BLOCK)], kind=1), r"the block at 0 is compressed \(kind 1\)"),
    "restarts": (assemble([(b"b", b"\xff" * 4)]), "a block of 4 bytes cannot have 4294967295 rest"),
    "no restarts": (assemble([(b"b", b"")]), "a block of 0 bytes cannot have 0 restarts"),
    "shared": (packed(pair(1, b"", header())), r"a pair shares 1 of 0 bytes and has 0 \+ 6 of its"),
    "added": (packed(varint(0) + varint(9) + varint(0)), r"has 9 \+ 0 of its own, of 0 that are"),
    "length": (packed(varint(0) * 2 + varint(1 << 60)), r"has 0 \+ 1152921504606846976 of its own"),
    "half a pair": (packed(b"\x00"), r"no number ends within the bytes \(none\)"),
    "long number": (packed(b"\x80" * 10 + b"\x00"), "no number ends within the bytes (80){10}$"),
    "large number": (packed(b"\xff" * 9 + b"\x02"), "no number ends within the bytes (ff){9}02$"),
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
    "version": (headed(header(version=field(2, 2))), "a reader of version 2; this one is of 1"),
    "cut header": (headed(b"\x08"), r"its header: no number ends within the bytes \(none\)"),
    "other shards": (headed(header(2)), "there is no file .*model.ckpt.data-00000-of-00002"),
    "name": (with_c(B, b"\xff"), r"b'\\xff': this name is not UTF-8"),
    "long name": (with_c(B, b"c" * 1001), "c': a name of 1,001 bytes; at most 1,000 are read"),
    "piece": (table([GOOD[0], (b"\0a\0\1", A)]), "this is part of a variable stored in pieces"),
    "pieces": (a(more=field(7, b"")), "'a': this is a variable stored in pieces"),
    "strings": (a(kind=7), r"'a': it is of TensorFlow's dtype 7 \(strings\), which is not read"),
    "no dtype": (with_a(b""), r"'a': it is of TensorFlow's dtype 0 \(unknown\)"),
    "shard": (a(shard=1), "'a': its data file is number 1 of 1"),
    "negative shard": (a(shard=-1), "'a': its data file is number -1 of 1"),
    "size": (a(size=23), r"'a': 23 bytes at 0 cannot be \(2, 3\) numbers of float32"),
    "dtype": (a("float64"), r"'a': 24 bytes at 0 cannot be \(2, 3\) numbers of float64"),
    "negative size": (a(size=-24), r"'a': -24 bytes at 0 cannot be"),
    "negative offset": (a(offset=-8), r"'a': 24 bytes at -8 cannot be"),
    "offset": (a(offset=9), "data-00000-of-00001 is cut, .*: 'a' ends at 33, it at 32 bytes"),
    "far": (a(offset=(1 << 63) - 1), "'a' ends at 9,223,372,036,854,775,831, it at 32 bytes"),
    "far and empty": (with_c(entry("int8", (0,), b"", offset=33)), "'c' ends at 33, it at 32 byt"),
    "overlap": (a(offset=8), "'a' and 'b' have bytes in common: 8 to 32, and 24 to 32"),
    "same bytes": (with_c(B), "'b' and 'c' have bytes in common: 24 to 32, and 24 to 32"),
    "within": (with_c(entry("int8", (4,), DATA[4:8], offset=4)), "common: 0 to 24, and 4 to 8"),
    "negative axis": (a(shape=(-2, -3)), r"'a': its shape \(-2, -3\) has a negative axis"),
    "shape bomb": (a(shape=(1 << 32, 1 << 32), size=0), r"its shape .* is larger than any array"),
    "empty bomb": (a(shape=(0, 1 << 40, 1 << 40), size=0), "its shape .* is larger than any array"),
    "axes": (a(shape=(1,) * 65), "'a': its shape is unknown or has more than 64 axes"),
    "no rank": (with_a(field(1, 1) + field(2, field(3, 1))), "'a': its shape is unknown"),
    "group": (with_c(B + b"\x43"), "'c': a field is written in the unknown way 3"),
    "cut field": (with_c(B[:-1]), "'c': a field of 4 bytes where 3 are left"),
    "long field": (with_c(b"\x12\x7f"), "'c': a field of 127 bytes where 0 are left"),
}  # fmt: skip


def placed(folder, index, data=DATA):
    """A checkpoint of these bytes: its prefix."""
    (folder / "model.ckpt.data-00000-of-00001").write_bytes(data)
    (folder / "model.ckpt.index").write_bytes(index)
    return folder / "model.ckpt"


def refused(prefix, says, *, verify=False):
    with pytest.raises(InputError, match=says) as caught:
        read_bundle(prefix, verify=verify)
    said = str(caught.value)
    assert said.count(str(prefix)) == 1
    assert "\n" not in said
    assert len(said) < 400 + len(str(prefix))


@pytest.mark.parametrize("index, says", BAD.values(), ids=BAD)
def test_a_bad_index_is_refused_and_says_why(tmp_path, index, says):
    refused(placed(tmp_path, index), says)


def test_bad_data_is_refused_and_says_why(tmp_path):
    refused(tmp_path / "model.ckpt", "there is no file .*model.ckpt.index")
    prefix = placed(tmp_path, table(GOOD), DATA[:-1])
    refused(prefix, "data-00000-of-00001 is cut, or of another .*: 'b' ends at 32, it at 31 bytes")
    placed(tmp_path, table(GOOD), b"")
    refused(prefix, "'a' ends at 24, it at 0 bytes")
    (tmp_path / "model.ckpt.data-00000-of-00001").unlink()
    refused(prefix, "there is no file .*model.ckpt.data-00000-of-00001")


@pytest.mark.parametrize("at, name", [(0, "a"), (23, "a"), (24, "b"), (31, "b")])
def test_damaged_numbers_are_found_when_asked_for(tmp_path, at, name):
    prefix = placed(tmp_path, table(GOOD), flipped(DATA, at) if at else b"\x01" + DATA[1:])
    assert list(read_bundle(prefix)) == ["a", "b"]
    refused(prefix, f"is damaged: '{name}' has the checksum .{{8}}, not .{{8}} as", verify=True)


# What is not refused


def test_the_example_in_the_docstring_is_one():
    line = next(line for line in tensor_bundle.__doc__.splitlines() if line.startswith("    08 01"))
    message = bytes.fromhex(line)
    assert message == entry("float32", (1, 2, 6), bytes(48), offset=64)
    dtype, shape, shard, start, stop, _ = tensor_bundle.parse_entry(message, 1)
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
def test_what_protobuf_and_leveldb_allow_is_read(tmp_path, index):
    found = read_bundle(placed(tmp_path, index), verify=True)
    assert list(found) == ["a", "b"]
    assert found["a"].raw().tobytes() == DATA[:24]
    assert found["b"].raw().tobytes() == DATA[24:]


def test_no_tensors_and_no_numbers(tmp_path):
    assert read_bundle(placed(tmp_path, table(GOOD[:1]))) == {}
    found = read_bundle(placed(tmp_path, table([GOOD[0], (b"a", NONE)]), b""), verify=True)
    assert found["a"].array().shape == (0,)


# What nobody thought of

WHERE = "file", "block", "index", "value", "key", "field"


def forged(pairs, recipe):
    """The table of `pairs`, something in it changed as fuzz.py says and its checksums made anew."""
    where, which, changes = fuzz.parts(recipe, WHERE)
    pairs, i = list(pairs), which % len(pairs)
    groups = [pairs[j : j + 4] for j in range(0, len(pairs), 4)]
    blocks = [(group[-1][0], block(group, interval=3)) for group in groups]
    key, value = pairs[i]
    match where:
        case "file":
            return changed(assemble(blocks), changes)
        case "block":
            key, content = blocks[i % len(blocks)]
            blocks[i % len(blocks)] = key, changed(content, changes)
            return assemble(blocks)
        case "index":
            return assemble(blocks, change_index=lambda index: changed(index, changes))
        case "value":
            pairs[i] = key, changed(value, changes)
        case "key":
            pairs[i] = changed(key, changes), value
        case "field":
            numbers = {n % 6: fuzz.NUMBERS[at % len(fuzz.NUMBERS)] for _, at, n in changes}
            shape = numbers.pop(5, 1), numbers.pop(1, 2)
            names = {0: "kind", 2: "shard", 3: "offset", 4: "size"}
            fields = {names[k]: n for k, n in numbers.items()}
            pairs[i] = key, entry("float32", shape, bytes(8), **fields)
    return table(pairs, block_size=100)


def changed(data, changes):
    """The bytes after these changes, numbers in them written as varints."""
    return fuzz.changed(data, changes, varint)


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A good checkpoint of two data files: its prefix and its pairs."""
    prefix = tmp_path_factory.mktemp("good") / "model.ckpt"
    arrays = dict(list(odd(np.random.default_rng(1)).items())[:9])
    bundles.write(prefix, arrays, bfloat16=BFLOAT16, shards=2)
    return prefix, list(leveldb.read_table(f"{prefix}.index"))


def reader(prefix, index):
    """What reads these bytes as a checkpoint's index."""
    Path(f"{prefix}.index").write_bytes(index)
    return lambda: read_bundle(prefix)


def test_whatever_is_changed_is_refused_or_read_within_the_files(good):
    prefix, pairs = good
    outcomes = set()

    @settings(max_examples=3000, derandomize=True, database=None, deadline=None)
    @given(fuzz.RECIPES)
    def check(recipe):
        outcomes.add(fuzz.outcome(reader(prefix, forged(pairs, recipe)), prefix))

    check()
    assert len(outcomes) >= 25, sorted(outcomes)


HEAVY = {  # tables that would like to be large once read
    "keys": lambda: key_bomb(900, 4000),
    "empty tensors": lambda: table([GOOD[0], *((b"%04d" % i, NONE) for i in range(4000))]),
    "unknown fields": lambda: with_a(
        A + b"".join(varint(n << 3 | 2) + b"\x00" for n in range(8, 20_000))
    ),
    "known fields": lambda: with_a(A + b"\x10\x81\x01" * 20_000 + b"\x12\x02\x08\x02" * 10_000),
    "axes": lambda: with_a(A + field(2, b"\x12\x00" * 50_000)),
    "blocks": lambda: assemble([(b"%04d" % i, block([])) for i in range(4000)]),
}


@pytest.mark.parametrize("make", HEAVY.values(), ids=HEAVY)
def test_no_table_takes_more_memory_than_a_small_multiple_of_its_size(tmp_path, make):
    index = make()
    bounded(placed(tmp_path, index), index)


def test_no_changed_file_takes_more_memory_than_a_small_multiple_of_its_size(good):
    prefix, pairs = good
    rng = random.Random(1)
    for _ in range(200):
        bounded(prefix, forged(pairs, rng.randbytes(7)))


def bounded(prefix, index):
    assert fuzz.peak(reader(prefix, index)) < 30 * len(index) + (1 << 17)
