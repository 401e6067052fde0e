"""Adam, one pass over all four arrays. The formula is in npgpt/ops/adam.py."""

import numpy as np

from npgpt.arrays import Array, flat
from npgpt.kernels.jit import inner, njit
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
    """Update `p`, `m` and `v` in place by one step; `grad` is only read. All have one shape.

    `step` counts from 1. `scale` multiplies the gradient as it is read.
    """
    beta1, beta2 = betas
    number = p.dtype.type
    _update(
        tasks_for(p.size),
        flat(p),
        flat(grad),
        flat(m),
        flat(v),
        number(weight_decay),
        number(1 - beta1),
        number(beta2),
        number(1 - beta2),
        number((1 - beta2**step) ** 0.5),
        number(lr / (1 - beta1**step)),
        number(eps),
        number(scale),
    )


@njit
def _update(tasks, p, grad, m, v, decay, gain1, beta2, gain2, correction2, rate, eps, scale):
    in_parallel(tasks, _update_part,
                (tasks, p, grad, m, v, decay, gain1, beta2, gain2, correction2, rate, eps,
                 scale))  # fmt: skip


@inner
def _update_part(
    task, tasks, p, grad, m, v, decay, gain1, beta2, gain2, correction2, rate, eps, scale
):
    p, grad, m, v = (
        part(p, task, tasks), part(grad, task, tasks), part(m, task, tasks), part(v, task, tasks)
    )  # fmt: skip
    for i in range(p.size):
        d = grad[i] * scale + decay * p[i]
        mean = m[i] + gain1 * (d - m[i])
        square = v[i] * beta2 + gain2 * (d * d)
        m[i], v[i] = mean, square
        p[i] -= rate * (mean / (np.sqrt(square) / correction2 + eps))
