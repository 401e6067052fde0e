"""The conversions of numbers that are sent as bfloat16, compared with those in NumPy."""

import numpy as np
import pytest

from npgpt.kernels import bfloat16
from npgpt.quantized_matrix import from_bfloat16, to_bfloat16

SPECIAL = np.array(  # nan with each sign and fraction, the largest number, ties, subnormals
    [0x7F800001, 0xFFC00001, 0xFFFFFFFF, 0x7F7FFFFF, 0xFF800000, 0x3F808000, 0x3F818000, 1, 2**31],
    np.uint32,
)  # fmt: skip


@pytest.mark.parametrize("size", [0, 1, 100, 1 << 16])  # the last one on several threads
def test_rounding_is_that_of_numpy(size, rng):
    words = rng.integers(0, 1 << 32, size, dtype=np.uint32)
    words[: len(SPECIAL)] = SPECIAL[:size]
    out = np.zeros(size, np.uint16)
    bfloat16.round_into(words.view(np.float32), out)
    assert out.tobytes() == to_bfloat16(words.view(np.float32)).tobytes()


@pytest.mark.parametrize("size", [0, 1, 100, 1 << 16])
@pytest.mark.parametrize("rows", [1, 2, 5])
def test_sums_are_in_order(rows, size, rng):
    halves = to_bfloat16(rng.standard_normal((rows, size)).astype(np.float32) * 10)
    out = np.full(size, np.nan, np.float32)
    bfloat16.sum_into(halves, out)
    expected = from_bfloat16(halves[0])
    for row in halves[1:]:
        expected += from_bfloat16(row)
    assert out.tobytes() == expected.tobytes()
