"""GELU, one pass. What it computes is in npgpt/ops/gelu.py.

Written through the logistic function s = 1 / (1 + exp(-2 inner)), since
0.5 * (1 + tanh(inner)) = s. That needs one exp, and far below zero, where 1 + tanh(inner)
cancels to nothing, it keeps all its digits. Then d out / dx = s + 2 x s (1 - s) inner_slope.
"""

from npgpt.arrays import Array, flat, into
from npgpt.kernels import buffer_pool
from npgpt.kernels.jit import inner, njit
from npgpt.kernels.math import exp
from npgpt.kernels.parallel import in_parallel, part, tasks_for
from npgpt.ops.gelu import CUBIC, SCALE, Cache


def forward(x: Array, *, out: Array | None = None):
    """any shape -> the same shape"""
    out = buffer_pool.empty_like(x) if out is None else out
    _forward(tasks_for(x.size), flat(x), x.dtype.type(SCALE), x.dtype.type(CUBIC), flat(out))
    return out, Cache(x)


def backward(dout: Array, cache: Cache, *, dx: Array | None = None):
    """any shape -> the same shape. `dx` may be `dout` itself."""
    (x,) = cache
    dx = into(buffer_pool.empty_like(x) if dx is None else dx, dout)
    _backward(tasks_for(x.size), flat(x), x.dtype.type(SCALE), x.dtype.type(CUBIC), flat(dx))
    return dx


@njit
def _forward(tasks, x, scale, cubic, out):
    in_parallel(tasks, _forward_part, (tasks, x, scale, cubic, out))


@inner
def _forward_part(task, tasks, x, scale, cubic, out):
    x, out = part(x, task, tasks), part(out, task, tasks)
    one, two = x.dtype.type(1), x.dtype.type(2)
    for i in range(x.size):
        inner = scale * (x[i] + cubic * x[i] * x[i] * x[i])
        out[i] = x[i] / (one + exp(-two * inner))


@njit
def _backward(tasks, x, scale, cubic, dx):
    in_parallel(tasks, _backward_part, (tasks, x, scale, cubic, dx))


@inner
def _backward_part(task, tasks, x, scale, cubic, dx):
    """dx is dout before: with two arrays that may be one, LLVM takes number after number."""
    x, dx = part(x, task, tasks), part(dx, task, tasks)
    one, two, three = x.dtype.type(1), x.dtype.type(2), x.dtype.type(3)
    for i in range(x.size):
        inner = scale * (x[i] + cubic * x[i] * x[i] * x[i])
        inner_slope = scale * (one + three * cubic * x[i] * x[i])
        s = one / (one + exp(-two * inner))
        dx[i] *= s + two * x[i] * s * (one - s) * inner_slope
