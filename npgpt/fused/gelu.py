"""GELU, one pass. What it computes is in npgpt/ops/gelu.py.

Written through the logistic function s = 1 / (1 + exp(-2 inner)), since
0.5 * (1 + tanh(inner)) = s. That needs one exp, and far below zero, where 1 + tanh(inner)
cancels to nothing, it keeps all its digits. Then d out / dx = s + 2 x s (1 - s) inner_slope.
"""

from npgpt.arrays import Array, flat
from npgpt.fused import _buffers
from npgpt.fused._jit import njit, prange
from npgpt.fused._math import exp
from npgpt.ops.gelu import CUBIC, SCALE, Cache


def forward(x: Array, *, out: Array | None = None):
    """any shape -> the same shape"""
    out = _buffers.empty_like(x) if out is None else out
    _forward(flat(x), x.dtype.type(SCALE), x.dtype.type(CUBIC), flat(out))
    return out, Cache(x)


def backward(dout: Array, cache: Cache, *, dx: Array | None = None):
    """any shape -> the same shape. `dx` may be `dout` itself."""
    (x,) = cache
    dx = _buffers.empty_like(x) if dx is None else dx
    _backward(flat(dout), flat(x), x.dtype.type(SCALE), x.dtype.type(CUBIC), flat(dx))
    return dx


@njit(parallel=True)
def _forward(x, scale, cubic, out):
    one, two = x.dtype.type(1), x.dtype.type(2)
    for i in prange(x.size):
        inner = scale * (x[i] + cubic * x[i] * x[i] * x[i])
        out[i] = x[i] / (one + exp(-two * inner))


@njit(parallel=True)
def _backward(dout, x, scale, cubic, dx):
    one, two, three = x.dtype.type(1), x.dtype.type(2), x.dtype.type(3)
    for i in prange(x.size):
        inner = scale * (x[i] + cubic * x[i] * x[i] * x[i])
        inner_slope = scale * (one + three * cubic * x[i] * x[i])
        s = one / (one + exp(-two * inner))
        dx[i] = dout[i] * (s + two * x[i] * s * (one - s) * inner_slope)
