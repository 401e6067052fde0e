"""Products with int8 weights, beside the same roundings in NumPy: equal to the bit."""

import numpy as np
import pytest

from npgpt.kernels.gemm_bf16 import matmul
from npgpt.kernels.gemv import PARTS
from npgpt.kernels.int8_vectors import GROUPS, QUAD
from npgpt.quantized_matrix import int8

SIZES = (64, 128), (48, 144), (37, 93), (100, 7), (3, 5)  # whole vectors and groups, and parts
ROWS = 1, 2, 6, 15, 16, 40  # of kernels for one row, for few, and for many


def groups_of(K, transposed):
    """Return the numbers of a row that share a scale: contiguous ones, or every GROUPS-th quad."""
    k = np.arange(K)
    if transposed:
        return [k[k // QUAD % GROUPS == g] for g in range(GROUPS)]
    return [k[g * K // GROUPS : (g + 1) * K // GROUPS] for g in range(GROUPS)]


def expected(a, b, bias, transposed):
    """Return the product with rows that are rounded group by group, and exact sums of integers."""
    values, terms = b.values.T if transposed else b.values, []
    for group in groups_of(a.shape[1], transposed):
        largest = np.abs(a[:, group]).max(1, keepdims=True, initial=0)
        with np.errstate(divide="ignore", invalid="ignore"):
            factor = np.where(largest > 0, np.float32(127) / largest, np.float32(0))
        rounded = np.rint(a[:, group] * factor).astype(np.int64)
        sums = rounded @ values[group].astype(np.int64)
        terms.append(sums.astype(np.float32) * (largest / np.float32(127)))
    return added(terms, transposed) * b.scale + bias


def added(terms, transposed):
    """Return the sum in order, or by halves: 0 and 8, 1 and 9; of these 0 and 4, and so on."""
    if not transposed:
        return sum(terms, np.float32(0))
    while len(terms) > 1:
        half = len(terms) // 2
        terms = [a + b for a, b in zip(terms[:half], terms[half:], strict=True)]
    return terms[0]


def operands(K, N, transposed, rng):
    b = rng.normal(size=(N, K) if transposed else (K, N)).astype(np.float32)
    return int8(b, axis=0 if transposed else 1), rng.normal(size=N).astype(np.float32)


def multiply(a, b, bias, transposed):
    out = np.full((len(a), len(bias)), np.nan, np.float32)
    return matmul(a, b.T if transposed else b, out=out, bias=bias)


@pytest.mark.parametrize("transposed", [False, True], ids=["weight", "transposed"])
@pytest.mark.parametrize("K, N", SIZES)
def test_a_product_is_that_of_rounded_rows_to_the_bit(K, N, transposed, rng):
    b, bias = operands(K, N, transposed, rng)
    a = rng.normal(size=(max(ROWS), K)).astype(np.float32)
    a[1], a[3, : K // 2], a[4] = 0, 0, 1e-36 * a[4]  # groups of zeros, and of too small numbers
    wanted = a.copy()
    wanted[4] = 0
    wanted = expected(wanted, b, bias, transposed)
    for M in ROWS:
        np.testing.assert_array_equal(multiply(a[:M], b, bias, transposed), wanted[:M], f"{M} rows")


@pytest.mark.parametrize("transposed", [False, True], ids=["weight", "transposed"])
@pytest.mark.parametrize("extreme", [-128, -127, 127])
def test_sums_of_the_largest_products_are_exact(extreme, transposed, rng):
    b, bias = operands(64, 37, transposed, rng)
    b.values[:] = extreme
    a = np.ones((max(ROWS), 64), np.float32)
    a[1], a[2, ::3] = -1, -1
    wanted = expected(a, b, bias, transposed)
    for M in ROWS:
        np.testing.assert_array_equal(multiply(a[:M], b, bias, transposed), wanted[:M], f"{M} rows")


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("transposed", [False, True], ids=["weight", "transposed"])
def test_a_row_that_is_not_finite_is_nan_and_no_other(wrong, transposed, rng):
    b, bias = operands(64, 128, transposed, rng)
    for M in ROWS:
        a = rng.normal(size=(M, 64)).astype(np.float32)
        a[M // 2, 9] = wrong
        found = multiply(a, b, bias, transposed)
        assert np.isnan(found[M // 2]).all()
        assert np.isfinite(np.delete(found, M // 2, 0)).all()


def test_a_part_of_a_decode_step_is_a_group():
    assert GROUPS == PARTS


def test_a_large_number_makes_only_its_own_group_coarser(rng):
    b, bias = operands(64, 16, False, rng)
    a = rng.normal(size=(1, 64)).astype(np.float32)
    a[0, 7] = 1000
    b.values[7] = 0
    exact = a @ b.widen() + bias
    apart = np.abs(multiply(a, b, bias, False) - exact)
    assert apart.max() < 0.2 * np.abs(exact).max()  # one scale for the row would leave nothing
