"""LayerNorm, one pass per row. The formula is in npgpt/ops/layernorm.py."""

import numpy as np

from npgpt.arrays import Array, flat, rows
from npgpt.kernels import buffer_pool
from npgpt.kernels.jit import BLOCKS, inner, njit
from npgpt.kernels.parallel import in_parallel
from npgpt.kernels.row_ops import layernorm_row
from npgpt.ops.layernorm import Cache, Params

EPS = 1e-5


def forward(x: Array, p: Params, *, eps: float = EPS, out: Array | None = None):
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
    for total, part in zip(g, parts, strict=True):
        if total is not None:  # None: frozen
            part.sum(0, out=total)
    return dx


# Kernels: first the inputs, then the outputs; they return nothing.


@njit
def _forward(x, weight, bias, eps, out, mean, rstd):
    in_parallel(len(x), _forward_row, (x, weight, bias, eps, out, mean, rstd))


@inner
def _forward_row(n, x, weight, bias, eps, out, mean, rstd):
    mean[n], rstd[n] = layernorm_row(x[n], weight, bias, eps, out[n])


@njit
def _backward(dout, x, weight, mean, rstd, dx, dweight_parts, dbias_parts):
    in_parallel(len(dweight_parts), _backward_block,
                (dout, x, weight, mean, rstd, dx, dweight_parts, dbias_parts))  # fmt: skip


@inner
def _backward_block(block, dout, x, weight, mean, rstd, dx, dweight_parts, dbias_parts):
    """Compute a block of rows, with partial sums of its own: no two threads write to the same."""
    N, C = x.shape
    zero, size, blocks = x.dtype.type(0), x.dtype.type(C), len(dweight_parts)
    dweight, dbias = dweight_parts[block], dbias_parts[block]
    dnorm = np.empty(C, x.dtype)  # the last loop must not read dout: dx may be the same array
    for n in range(block * N // blocks, (block + 1) * N // blocks):
        m, r, x_row, dout_row, dx_row = mean[n], rstd[n], x[n], dout[n], dx[n]
        for c in range(C):
            dnorm[c] = dout_row[c] * weight[c]
        via_mean, via_rstd = zero, zero
        for c in range(C):  # stores nothing: see docs/kernels.md#sums-and-stores
            norm = (x_row[c] - m) * r
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
