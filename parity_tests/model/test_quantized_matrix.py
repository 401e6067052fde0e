"""Rounding to bfloat16 and int8."""

import numpy as np
import pytest
import torch

from npgpt.errors import InputError
from npgpt.quantized_matrix import CHUNK, bfloat16, int8, to_bfloat16

# Rounding


def test_bfloat16_is_pytorchs_to_the_bit():
    """Every upper half, with a lower half that is nothing, less than a half of the last place,
    exactly it (a tie), more, and all: subnormals, the largest numbers and inf are among them."""
    upper = np.arange(1 << 16, dtype=np.uint32) << 16
    lower = np.array([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF], np.uint32)
    x = (upper[:, None] | lower).view(np.float32)
    theirs = torch.tensor(x).to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16)
    ours = bfloat16(x).values
    nan = np.isnan(x)
    assert nan.sum() > 1000
    np.testing.assert_array_equal(ours[~nan], theirs[~nan])
    assert np.isnan(bfloat16(x).widen()[nan]).all()


def test_bfloat16_is_off_by_half_a_place_at_most(rng):
    x = (rng.normal(size=(200, 300)) * 10.0 ** rng.integers(-30, 30, (200, 300))).astype(np.float32)
    assert (np.abs(bfloat16(x).widen() - x) <= np.abs(x) * 2.0**-8).all()


@pytest.mark.parametrize("axis", [0, 1])
def test_int8_is_off_by_half_a_scale_at_most(rng, axis):
    x = rng.normal(size=(300, 70)).astype(np.float32)
    along = [slice(None)] * 2
    for channel in range(x.shape[axis]):  # of very different sizes
        along[axis] = channel
        x[tuple(along)] *= np.float32(10.0 ** (channel % 60 - 35))
    along[axis] = 5
    x[tuple(along)] = 0
    narrow = int8(x, axis)
    assert narrow.scale.shape == (x.shape[axis],)
    assert narrow.scale[5] == 1
    assert narrow.values.min() == -127 or narrow.values.max() == 127
    assert narrow.values.min() >= -127
    # x / scale is at most 127, so float32 is off by 127 x 2^-24 there, and so it is in the product
    allowed = narrow.scale.astype(np.float64) * (0.5 + 2 * 127 * 2.0**-24)
    apart = np.abs(narrow.widen().astype(np.float64) - x)
    assert (apart <= (allowed[:, None] if axis == 0 else allowed)).all()
    largest = np.abs(narrow.values.astype(int)).max(1 - axis)
    assert (np.delete(largest, 5) == 127).all()  # each channel uses all of its steps


def test_int8_of_the_smallest_numbers():
    """A 127th of a subnormal number would be 0, or far from a 127th."""
    tiny = np.float32([[1e-45, 0], [2e-43, 0], [-3e-39, 1e-36]])
    narrow = int8(tiny, 0)
    assert (narrow.scale > 0).all()
    assert (np.abs(narrow.widen() - tiny) <= narrow.scale[:, None] * 0.5001).all()


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_int8_has_no_place_for_what_is_not_finite(wrong, axis):
    x = np.ones((3, 4), np.float32)
    x[1, 2] = wrong
    with pytest.raises(InputError, match=r"a matrix \(3, 4\) has numbers that are nan or infinite"):
        int8(x, axis)


@pytest.mark.parametrize("axis", [0, 1])
def test_a_matrix_of_several_pieces_is_rounded_as_one(rng, axis):
    x = rng.normal(size=(CHUNK // 500, 1100)).astype(np.float32)
    x[-1] *= 5  # the largest numbers of a column come last
    scale = np.abs(x).max(1 - axis, keepdims=True) / np.float32(127)
    np.testing.assert_array_equal(int8(x, axis).values, np.rint(x / scale))
    np.testing.assert_array_equal(bfloat16(x).values, to_bfloat16(x))


@pytest.mark.parametrize("make", [bfloat16, lambda x: int8(x, 0), lambda x: int8(x, 1)])
def test_a_narrow_matrix_stands_for_a_float32_one(rng, make):
    narrow = make(rng.normal(size=(6, 4)).astype(np.float32))
    wide = narrow.widen()
    assert (narrow.shape, narrow.ndim, len(narrow), narrow.dtype) == ((6, 4), 2, 6, np.float32)
    assert wide.dtype == np.float32
    scale = 0 if narrow.scale is None else narrow.scale.nbytes
    assert narrow.nbytes == 24 * (2 if narrow.kind == "bfloat16" else 1) + scale
    transposed = narrow.T
    assert (transposed.shape, len(transposed), transposed.transposed) == ((4, 6), 4, True)
    assert transposed.values is narrow.values
    np.testing.assert_array_equal(transposed.widen(), wide.T)
    np.testing.assert_array_equal(transposed.T.widen(), wide)
    ids = np.array([[5, 0], [2, 2]])
    np.testing.assert_array_equal(narrow.rows(ids), wide[ids])
