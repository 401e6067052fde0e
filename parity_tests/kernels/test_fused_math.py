"""The exp of the fused kernels, in units of the last place, over all it is defined on."""

import numba
import numpy as np
import pytest

from npgpt.kernels.jit import FREEDOM
from npgpt.kernels.math import exp, largest

each_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["f32", "f64"])

# Half a unit cannot be helped. Measured: 0.93 (float32) and 0.87 (float64) where the polynomial is
# made of FMAs; elsewhere each of its products rounds once more.
WORST = 1.5
# NumPy documents 2.52 units for its vectorised float32 exp; in float64 it stays within one.
NUMPY = {np.float32: 2.52, np.float64: 1.0}


# as kernels are, but not cached: the cache looks at this file only, not at math.py
@numba.njit(error_model="numpy", fastmath=FREEDOM)
def _exps(x, out):
    for i in range(x.size):
        out[i] = exp(x[i])


def exps(x):
    out = np.full_like(x, -1)
    _exps(x, out)
    return out


def wide(dtype):
    """A type with digits to spare, in which NumPy's exp is the truth."""
    return np.float64 if dtype is np.float32 else np.longdouble


def limits(dtype):
    """The first x whose exp is no subnormal number, the last whose exp is finite."""
    info = np.finfo(dtype)
    return (dtype(np.log(wide(dtype)(a))) for a in (info.smallest_normal, info.max))


def ulps(x):
    out, truth = exps(x), np.exp(x.astype(wide(x.dtype.type)))
    assert out.dtype == x.dtype
    return np.abs(out.astype(truth.dtype) - truth) / np.spacing(np.abs(truth).astype(x.dtype))


def whole_range(dtype, rng):
    low, high = limits(dtype)
    inside = dtype(1 - 1e-6)
    halves = (np.arange(-1080, 1024, dtype=dtype) + dtype(0.5)) * dtype(np.log(2))
    halves = halves[(halves > low) & (halves < high)]  # where one power of two ends
    around = [np.nextafter(halves, dtype(s * np.inf)) for s in (-1, 1)]
    tiny = dtype(10.0) ** rng.uniform(-30, 0, 100_000).astype(dtype)
    evenly = np.linspace(low * inside, high * inside, 2_000_001, dtype=dtype)
    usual = rng.normal(size=1_000_000).astype(dtype)
    return np.concatenate([evenly, halves, *around, tiny, -tiny, usual])


@each_dtype
def test_error_over_the_whole_range(dtype, rng):
    if np.finfo(wide(dtype)).eps >= np.finfo(dtype).eps:
        pytest.skip(f"{wide(dtype).__name__} has no more digits than {dtype.__name__} here")
    assert ulps(whole_range(dtype, rng)).max() <= WORST


@each_dtype
def test_error_beside_numpy(dtype, rng):
    """NumPy's own exp in the same type: looser, but it needs no wider one."""
    x = whole_range(dtype, rng)
    theirs = np.exp(x)
    assert (np.abs(exps(x) - theirs) / np.spacing(theirs)).max() <= WORST + NUMPY[dtype]


@each_dtype
def test_exact_values(dtype):
    x = np.array([0.0, -0.0, np.inf, -np.inf], dtype)
    np.testing.assert_array_equal(exps(x), np.array([1, 1, np.inf, 0], dtype))


@each_dtype
def test_nan_stays_nan(dtype):
    x = np.array([np.nan, 1, -np.nan, np.inf, np.nan, -np.inf, 0, np.nan, 2], dtype)
    np.testing.assert_array_equal(np.isnan(exps(x)), np.isnan(x))


@each_dtype
def test_extremes(dtype):
    """Overflow is inf from the first x on that overflows; what would be subnormal is 0."""
    low, high = limits(dtype)
    info = np.finfo(dtype)
    for x in (high * dtype(1 + 1e-6), dtype(1e4), info.max):
        assert exps(np.array([x], dtype)) == np.inf
    for x in (low * dtype(1 + 1e-6), dtype(-1e4), -info.max):
        assert exps(np.array([x], dtype)) == 0
    near = np.array([low * dtype(1 - 1e-6), high * dtype(1 - 1e-6)], dtype)
    assert exps(near)[0] >= info.smallest_normal
    assert np.isfinite(exps(near)[1])
    np.testing.assert_array_equal(exps(np.array([info.smallest_subnormal], dtype)), 1)


@numba.njit(error_model="numpy", fastmath=FREEDOM)
def _largest(x):
    return largest(x)


@each_dtype
def test_the_largest_number_of_a_row(dtype):
    rng = np.random.default_rng(4)
    tiny, infinite = np.finfo(dtype).smallest_subnormal, dtype(np.inf)
    rows = [rng.normal(size=count).astype(dtype) for count in (1, 2, 15, 16, 17, 63, 1000)]
    rows += [-np.abs(row) for row in rows]
    edges = [-infinite], [-infinite, -1], [1, infinite], [-tiny, 0], [0, tiny], [-tiny, -1]
    rows += [np.array(row, dtype) for row in edges]
    for row in rows:
        assert _largest(row) == row.max(), row


@each_dtype
def test_a_row_with_a_nan_less_its_largest_still_has_one(dtype):
    for nan in np.array([np.nan, -np.nan], dtype):
        for place in (0, 5, 16):
            row = np.arange(17, dtype=dtype)
            row[place] = nan
            assert np.isnan((row - _largest(row))[place])
