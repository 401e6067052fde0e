"""Products of few rows: the bits of a row do not depend on the number of rows beside it.

Generation relies on it: a row of a batch is its own run.
"""

import numpy as np
import pytest

from npgpt.kernels.gemm import FEW, matmul
from npgpt.kernels.gemm_bf16 import matmul as matmul_bf16
from npgpt.quantized_matrix import bfloat16, int8

# lines of the cache, and parts of them; more columns than a task has
SIZES = (64, 128), (48, 144), (37, 93), (100, 7), (3, 5), (41, 799)


@pytest.mark.parametrize("kind", ["float32", "float64", "bfloat16", "int8"])
@pytest.mark.parametrize("transposed", [False, True], ids=["weight", "transposed"])
@pytest.mark.parametrize("K, N", SIZES)
def test_a_row_has_the_bits_of_a_single_one(K, N, transposed, kind, rng):
    dtype = np.float64 if kind == "float64" else np.float32
    a, b = rng.normal(size=(FEW, K)).astype(dtype), rng.normal(size=(K, N)).astype(dtype)
    bias = rng.normal(size=N).astype(dtype)
    if transposed:
        b = np.ascontiguousarray(b.T)
    multiply = matmul
    if kind in ("bfloat16", "int8"):
        b = bfloat16(b) if kind == "bfloat16" else int8(b, axis=0 if transposed else 1)
        multiply = matmul_bf16
    b = b.T if transposed else b
    alone = np.concatenate([multiply(a[i : i + 1], b, out=np.empty((1, N), dtype), bias=bias)
                            for i in range(FEW)])  # fmt: skip
    for M in range(2, FEW + 1):
        found = multiply(a[:M], b, out=np.empty((M, N), dtype), bias=bias)
        np.testing.assert_array_equal(found, alone[:M], err_msg=f"{M} rows")


def test_the_row_that_completes_a_pair_lives_as_long_as_it_is_read():
    """Freed early, its memory is that of the sums of the last 31 columns. As bfloat16, their lower
    halves are inf, and 0 * inf is nan."""
    b = np.zeros((33, 63), np.float32)
    b[::2, 32:], b[1::2, 32:] = 1, 255 / 65536
    out = matmul_bf16(np.ones((8, 33), np.float32), bfloat16(b), out=np.empty((8, 63), np.float32))
    np.testing.assert_array_equal(out, np.tile(b.sum(0), (8, 1)))
