"""LayerNorm, one pass per row. What it computes is in npgpt/ops/layernorm.py."""

import numpy as np

from npgpt.arrays import Array, flat, rows
from npgpt.kernels import buffer_pool
from npgpt.kernels.jit import BLOCKS, inner, njit
from npgpt.kernels.parallel import in_parallel
from npgpt.ops.layernorm import Cache, Params


def forward(x: Array, p: Params, *, eps: float = 1e-5, out: Array | None = None):
    """(..., C) -> (..., C)"""
    out = buffer_pool.empty_like(x) if out is None else out
    mean, rstd = np.empty((2, *x.shape[:-1], 1), x.dtype)
    _forward(rows(x), p.weight, p.bias, x.dtype.type(eps), rows(out), flat(mean), flat(rstd))
    return out, Cache(x, p, mean, rstd)


def backward(dout: Array, cache: Cache, g: Params, *, dx: Array | None = None):
    """(..., C) -> (..., C). `dx` may be `dout` itself."""
    x, p, mean, rstd = cache
    dx = buffer_pool.empty_like(x) if dx is None else dx
    parts = np.zeros((2, BLOCKS, x.shape[-1]), x.dtype)
    _backward(rows(dout), rows(x), p.weight, flat(mean), flat(rstd), rows(dx), parts[0], parts[1])
    parts[0].sum(0, out=g.weight)
    parts[1].sum(0, out=g.bias)
    return dx


# Kernels: inputs, then outputs; matrices of rows; nothing returned.


@njit
def _forward(x, weight, bias, eps, out, mean, rstd):
    in_parallel(len(x), _forward_row, (x, weight, bias, eps, out, mean, rstd))


@inner
def _forward_row(n, x, weight, bias, eps, out, mean, rstd):
    row, home, C = x[n], out[n], x.shape[1]
    zero, one, size = x.dtype.type(0), x.dtype.type(1), x.dtype.type(C)  # a bare 0.0 would widen
    total = zero
    for c in range(C):
        total += row[c]
    m = total / size
    total = zero
    for c in range(C):
        total += (row[c] - m) * (row[c] - m)
    r = one / np.sqrt(total / size + eps)
    for c in range(C):
        home[c] = (row[c] - m) * r * weight[c] + bias[c]
    mean[n] = m
    rstd[n] = r


@njit
def _backward(dout, x, weight, mean, rstd, dx, dweight_parts, dbias_parts):
    in_parallel(len(dweight_parts), _backward_block,
                (dout, x, weight, mean, rstd, dx, dweight_parts, dbias_parts))  # fmt: skip


@inner
def _backward_block(block, dout, x, weight, mean, rstd, dx, dweight_parts, dbias_parts):
    """One partial sum for every block of rows, so that no two threads collide."""
    N, C = x.shape
    zero, size, blocks = x.dtype.type(0), x.dtype.type(C), len(dweight_parts)
    dweight, dbias = dweight_parts[block], dbias_parts[block]
    dnorm = np.empty(C, x.dtype)  # or the last loop would read dout, which dx may be
    for n in range(block * N // blocks, (block + 1) * N // blocks):
        m, r, x_row, dout_row, dx_row = mean[n], rstd[n], x[n], dout[n], dx[n]
        via_mean, via_rstd = zero, zero
        for c in range(C):
            norm = (x_row[c] - m) * r
            dnorm[c] = dout_row[c] * weight[c]
            via_mean += dnorm[c]
            via_rstd += dnorm[c] * norm
        via_mean /= size
        via_rstd /= size
        for c in range(C):
            d = dout_row[c]
            dweight[c] += d * ((x_row[c] - m) * r)
            dbias[c] += d
        for c in range(C):
            norm = (x_row[c] - m) * r
            dx_row[c] = r * (dnorm[c] - via_mean - norm * via_rstd)
