"""GELU, one pass. The formula is in npgpt/ops/gelu.py.

It is computed through the logistic function: 0.5 * (1 + tanh(inner)) = s = 1 / (1 + exp(-2 inner)).
That needs one exp, and keeps all digits far below zero, where 1 + tanh(inner) cancels to zero. Then
d out / dx = s + 2 x s (1 - s) inner_slope.
"""

from npgpt.arrays import Array, flat, into
from npgpt.kernels import buffer_pool
from npgpt.kernels.jit import inner, njit
from npgpt.kernels.parallel import in_parallel, part, tasks_for
from npgpt.kernels.row_ops import gelu_denominator
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
    for i in range(x.size):
        out[i] = x[i] / gelu_denominator(x[i], scale, cubic)


@njit
def _backward(tasks, x, scale, cubic, dx):
    in_parallel(tasks, _backward_part, (tasks, x, scale, cubic, dx))


@inner
def _backward_part(task, tasks, x, scale, cubic, dx):
    """dx holds dout at first: LLVM would not vectorise a loop over two arrays that may be one."""
    x, dx = part(x, task, tasks), part(dx, task, tasks)
    one, two, three = x.dtype.type(1), x.dtype.type(2), x.dtype.type(3)
    for i in range(x.size):
        inner_slope = scale * (one + three * cubic * x[i] * x[i])
        s = one / gelu_denominator(x[i], scale, cubic)
        dx[i] *= s + two * x[i] * s * (one - s) * inner_slope
