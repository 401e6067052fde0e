"""RMSprop, one pass over all three arrays. The formula is in npgpt/ops/rmsprop.py."""

import numpy as np

from npgpt.arrays import Array, flat
from npgpt.kernels.jit import inner, njit
from npgpt.kernels.parallel import in_parallel, part, tasks_for


def update(
    p: Array,
    grad: Array,
    v: Array,
    *,
    lr: float,
    alpha: float,
    eps: float,
    weight_decay: float,
    scale: float = 1.0,
) -> None:
    """Update `p` and `v` in place by one step; `grad` is only read. All have one shape.

    `scale` multiplies the gradient as it is read.
    """
    number = p.dtype.type
    _update(
        tasks_for(p.size),
        flat(p),
        flat(grad),
        flat(v),
        number(alpha),
        number(1 - alpha),
        number(eps),
        number(weight_decay),
        number(lr),
        number(scale),
    )


@njit
def _update(tasks, p, grad, v, alpha, gain, eps, decay, lr, scale):
    in_parallel(tasks, _update_part, (tasks, p, grad, v, alpha, gain, eps, decay, lr, scale))


@inner
def _update_part(task, tasks, p, grad, v, alpha, gain, eps, decay, lr, scale):
    p, grad, v = part(p, task, tasks), part(grad, task, tasks), part(v, task, tasks)
    for i in range(p.size):
        d = grad[i] * scale + decay * p[i]
        v[i] = v[i] * alpha + gain * (d * d)
        p[i] -= lr * (d / (np.sqrt(v[i]) + eps))
