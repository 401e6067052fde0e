"""Dropout, one pass. The formula is in npgpt/ops/dropout.py."""

from functools import partial

from npgpt.arrays import Array, flat, into
from npgpt.kernels import buffer_pool
from npgpt.kernels.jit import inner, njit
from npgpt.kernels.parallel import in_parallel, part, tasks_for
from npgpt.ops import dropout
from npgpt.ops.dropout import Cache

draw = partial(dropout.draw, empty=buffer_pool.empty)


def forward(x: Array, *, rate: float, rng=None, out: Array | None = None):
    """any shape -> the same shape. Without dropout and `out`, `x` is returned."""
    keep, scale = draw(x.shape, x.dtype, rate=rate, rng=rng)
    if keep is None:
        return into(out, x), Cache(keep, scale)
    out = buffer_pool.empty_like(x) if out is None else out
    _drop(tasks_for(x.size), flat(x), flat(keep), scale, flat(out))
    return out, Cache(keep, scale)


def backward(dout: Array, cache: Cache, *, dx: Array | None = None):
    """any shape -> the same shape. The gradient of a dropped element is zero.

    `dx` may be `dout` itself.
    """
    keep, scale = cache
    if keep is None:
        return into(dx, dout)
    dx = buffer_pool.empty_like(dout) if dx is None else dx
    _drop(tasks_for(dx.size), flat(dout), flat(keep), scale, flat(dx))
    return dx


@njit
def _drop(tasks, x, keep, scale, out):
    in_parallel(tasks, _drop_part, (tasks, x, keep, scale, out))


@inner
def _drop_part(task, tasks, x, keep, scale, out):
    x, keep, out = part(x, task, tasks), part(keep, task, tasks), part(out, task, tasks)
    for i in range(x.size):
        out[i] = x[i] * (keep[i] * scale)  # a product, not a selection: NaN times 0 stays NaN
