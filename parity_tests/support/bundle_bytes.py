"""Small tensor bundles made by hand: arrays, entries, tables, and invalid tables."""

import numpy as np
import pytest

from npgpt.errors import WeightFileError
from npgpt.weights.tensor_bundle import read_bundle
from parity_tests.support.bundles import assemble, block, entry, header, pair, table, varint

BFLOAT16 = ["half/brain"]


def odd(rng):
    """Return arrays of all dtypes and many shapes, with similar names and odd offsets."""
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


# Invalid tables

DATA = bytes(range(32))
A = entry("float32", (2, 3), DATA[:24])
B = entry("float32", (2,), DATA[24:], offset=24)
AXES = bytes.fromhex("1208 12020802 12020803")  # the shape in A
NONE = entry("float32", (0,), b"")
GOOD = [(b"", header()), (b"a", A), (b"b", B)]
BLOCK = block(GOOD)


def headed(message):
    """Return a table with another header."""
    return table([(b"", message), *GOOD[1:]])


def a(dtype="float32", shape=(2, 3), **changes):
    """Return a table with another entry for the tensor "a"."""
    return with_a(entry(dtype, shape, DATA[:24], **changes))


def with_a(message):
    return table([GOOD[0], (b"a", message), GOOD[2]])


def with_c(message, key=b"c"):
    return table([*GOOD, (key, message)])


def packed(content):
    """Return a table of one block with these bytes in place of pairs."""
    return assemble([(b"b", content + bytes(4) + (1).to_bytes(4, "little"))])


def pointed(*handles):
    """Return a table whose index has other handles."""
    pairs = [(bytes([i]), varint(at) + varint(size)) for i, (at, size) in enumerate(handles)]
    return assemble([(b"b", BLOCK)], change_index=lambda index: block(pairs))


def key_bomb(length=900, times=9000):
    """Return a table of a long key and many keys that repeat it."""
    pairs = [pair(0, b"", header()), pair(0, b"x" * length + b"000", NONE)]
    pairs += [pair(length, b"%04d" % i, NONE) for i in range(1000, times)]
    return packed(b"".join(pairs))


def flipped(data, at):
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def placed(folder, index, data=DATA):
    """Write a checkpoint of these bytes and return its prefix."""
    (folder / "model.ckpt.data-00000-of-00001").write_bytes(data)
    (folder / "model.ckpt.index").write_bytes(index)
    return folder / "model.ckpt"


def refused(prefix, says, *, verify=False):
    with pytest.raises(WeightFileError, match=says) as caught:
        read_bundle(prefix, verify=verify)
    said = str(caught.value)
    assert said.count(str(prefix)) == 1
    assert "\n" not in said
    assert len(said) < 400 + len(str(prefix))
