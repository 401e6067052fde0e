"""Changed tensor bundles: refused or read within the files, in little memory."""

import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings

from npgpt.weights import leveldb
from npgpt.weights.tensor_bundle import read_bundle
from parity_tests.support import bundles, fuzz
from parity_tests.support.bundle_bytes import BFLOAT16, GOOD, NONE, A, key_bomb, odd, placed, with_a
from parity_tests.support.bundles import assemble, block, entry, field, table, varint

WHERE = "file", "block", "index", "value", "key", "field"


def forged(pairs, recipe):
    """Return the table of `pairs` with the changes of a recipe of fuzz.py and valid checksums."""
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
    """Return the bytes after these changes, with numbers as varints."""
    return fuzz.changed(data, changes, varint)


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """The prefix and pairs of a valid checkpoint of two data files."""
    prefix = tmp_path_factory.mktemp("good") / "model.ckpt"
    arrays = dict(list(odd(np.random.default_rng(1)).items())[:9])
    bundles.write(prefix, arrays, bfloat16=BFLOAT16, shards=2)
    return prefix, list(leveldb.read_table(f"{prefix}.index"))


def reader(prefix, index):
    """Return a function that reads these bytes as the index of a checkpoint."""
    Path(f"{prefix}.index").write_bytes(index)
    return lambda: read_bundle(prefix)


@pytest.mark.slow
def test_changed_tables_are_refused_or_read_within_the_files(good):
    prefix, pairs = good
    outcomes = set()

    @settings(max_examples=3000, derandomize=True, database=None, deadline=None)
    @given(fuzz.RECIPES)
    def check(recipe):
        outcomes.add(fuzz.outcome(reader(prefix, forged(pairs, recipe)), prefix))

    check()
    assert len(outcomes) >= 25, sorted(outcomes)


HEAVY = {  # tables that are large once parsed
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
