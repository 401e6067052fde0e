"""Linear: the bias is added as the product is written. The formula is in npgpt/ops/linear.py."""

import numpy as np

from npgpt.arrays import Array, rows
from npgpt.kernels import buffer_pool
from npgpt.kernels.gemm import matmul
from npgpt.kernels.jit import BLOCKS, inner, njit
from npgpt.kernels.parallel import in_parallel
from npgpt.ops.linear import Cache, Params


def forward(x: Array, p: Params, *, out: Array | None = None):
    """(..., I) -> (..., O)"""
    return forward_with(matmul, x, p, out)


def backward(dout: Array, cache: Cache, g: Params, *, dx: Array | None = None):
    """(..., O) -> (..., I)"""
    return backward_with(matmul, dout, cache, g, dx)


def forward_with(matmul, x: Array, p: Params, out: Array | None):
    """Run `forward` with this matrix product."""
    shape = (*x.shape[:-1], p.weight.shape[-1])
    out = buffer_pool.empty(shape, x.dtype) if out is None else out
    matmul(rows(x), p.weight, out=rows(out), bias=p.bias)
    return out, Cache(x, p)


def backward_with(matmul, dout: Array, cache: Cache, g: Params, dx: Array | None):
    """Run `backward` with this matrix product."""
    x, p = cache
    if g.weight is not None:  # None: frozen
        matmul(rows(x).T, rows(dout), out=g.weight)
    if g.bias is not None:
        _sum_rows(rows(dout), BLOCKS, g.bias)
    dx = buffer_pool.empty_like(x) if dx is None else dx
    matmul(rows(dout), p.weight.T, out=rows(dx))
    return dx


@njit
def _sum_rows(x, blocks, total):
    in_parallel(blocks, _sum_columns, (x, blocks, total))


@inner
def _sum_columns(block, x, blocks, total):
    """Sum a block of columns over the rows."""
    N, C = x.shape
    first, last = block * C // blocks, (block + 1) * C // blocks
    sums = np.empty(last - first, x.dtype)
    sums[:] = 0  # np.zeros would more than double the time to compile
    for n in range(N):
        row = x[n, first:last]
        for c in range(last - first):
            sums[c] += row[c]
    for c in range(last - first):
        total[first + c] = sums[c]
