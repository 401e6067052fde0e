"""Tensor bundles that are large once parsed."""

import pytest

from npgpt.weights.tensor_bundle import read_bundle
from parity_tests.support import fuzz
from parity_tests.support.bundle_bytes import GOOD, NONE, A, key_bomb, placed, with_a
from parity_tests.support.bundles import assemble, block, field, table, varint

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


@pytest.mark.slow
@pytest.mark.parametrize("make", HEAVY.values(), ids=HEAVY)
def test_no_table_takes_more_memory_than_a_small_multiple_of_its_size(tmp_path, make):
    index = make()
    prefix = placed(tmp_path, index)
    assert fuzz.peak(lambda: read_bundle(prefix)) < 30 * len(index) + (1 << 17)
