"""AdamW, one pass over all four arrays. The formula is in npgpt/ops/adamw.py."""

import numpy as np

from npgpt.arrays import Array, flat
from npgpt.kernels.jit import BLOCKS, inner, njit
from npgpt.kernels.parallel import in_parallel, part, tasks_for


def update(
    p: Array,
    grad: Array,
    m: Array,
    v: Array,
    *,
    step: int,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    scale: float = 1.0,
) -> None:
    """Take one step in place: `p`, `m` and `v` are written, `grad` is only read; all of one shape.

    `step` counts from 1. `scale` multiplies the gradient as it is read: clipping to a global norm
    needs no pass of its own.
    """
    beta1, beta2 = betas
    number = p.dtype.type
    _update(
        tasks_for(p.size),
        flat(p),
        flat(grad),
        flat(m),
        flat(v),
        number(1 - lr * weight_decay),
        number(1 - beta1),
        number(beta2),
        number(1 - beta2),
        number((1 - beta2**step) ** 0.5),
        number(lr / (1 - beta1**step)),
        number(eps),
        number(scale),
    )


def square_sum(grad: Array) -> float:
    """Return the sum of squares of a gradient in float64, for the global norm."""
    sums = np.empty(BLOCKS)
    _square_sum(flat(grad), sums)
    return float(sums.sum())


@njit
def _update(tasks, p, grad, m, v, shrink, gain1, beta2, gain2, correction2, rate, eps, scale):
    in_parallel(tasks, _update_part,
                (tasks, p, grad, m, v, shrink, gain1, beta2, gain2, correction2, rate, eps,
                 scale))  # fmt: skip


@inner
def _update_part(
    task, tasks, p, grad, m, v, shrink, gain1, beta2, gain2, correction2, rate, eps, scale
):
    p, grad, m, v = (
        part(p, task, tasks), part(grad, task, tasks), part(m, task, tasks), part(v, task, tasks)
    )  # fmt: skip
    for i in range(p.size):
        d = grad[i] * scale
        mean = m[i] + gain1 * (d - m[i])
        square = v[i] * beta2 + gain2 * (d * d)
        m[i], v[i] = mean, square
        p[i] = p[i] * shrink - rate * (mean / (np.sqrt(square) / correction2 + eps))


@njit
def _square_sum(x, sums):
    in_parallel(len(sums), _square_sum_part, (x, sums))


@inner
def _square_sum_part(task, x, sums):
    x, total = part(x, task, len(sums)), 0.0
    for i in range(x.size):
        wide = np.float64(x[i])
        total += wide * wide
    sums[task] = total
