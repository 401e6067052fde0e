"""SGD, one pass over all arrays. The formula is in npgpt/ops/sgd.py."""

import numpy as np

from npgpt.arrays import Array, flat
from npgpt.kernels.jit import inner, njit
from npgpt.kernels.parallel import in_parallel, part, tasks_for


def update(
    p: Array,
    grad: Array,
    m: Array | None,
    *,
    lr: float,
    momentum: float,
    nesterov: bool,
    weight_decay: float,
    scale: float = 1.0,
) -> None:
    """Update `p` and `m` in place by one step; `grad` is only read. All have one shape.

    `m` is None without momentum. `scale` multiplies the gradient as it is read.
    """
    number = p.dtype.type
    _update(
        tasks_for(p.size),
        flat(p),
        flat(grad),
        np.empty(0, p.dtype) if m is None else flat(m),
        number(momentum),
        nesterov,
        number(weight_decay),
        number(lr),
        number(scale),
    )


@njit
def _update(tasks, p, grad, m, momentum, nesterov, decay, lr, scale):
    in_parallel(tasks, _update_part, (tasks, p, grad, m, momentum, nesterov, decay, lr, scale))


@inner
def _update_part(task, tasks, p, grad, m, momentum, nesterov, decay, lr, scale):
    p, grad, m = part(p, task, tasks), part(grad, task, tasks), part(m, task, tasks)
    for i in range(p.size):
        step = grad[i] * scale + decay * p[i]
        if m.size:
            m[i] = momentum * m[i] + step
            step = step + momentum * m[i] if nesterov else m[i]
        p[i] -= lr * step
