"""Adam: a step along the mean gradient, divided by its root mean square.

    grad <- grad + weight_decay * p
    m    <- beta1 * m + (1 - beta1) * grad        mhat = m / (1 - beta1^step)
    v    <- beta2 * v + (1 - beta2) * grad^2      vhat = v / (1 - beta2^step)
    p    <- p - lr * mhat / (sqrt(vhat) + eps)

Kingma and Ba 2015, arXiv:1412.6980, algorithm 1. Like torch.optim.Adam, in the same order of
operations. AdamW (adamw.py) differs in its first line. Explanation: docs/ops/optimizers.md
"""

import numpy as np

from npgpt.arrays import Array


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

    `step` counts from 1. The gradient is multiplied with `scale` first.
    """
    beta1, beta2 = betas
    if scale != 1.0:
        grad = grad * p.dtype.type(scale)
    if weight_decay:
        grad = grad + weight_decay * p
    m += (1 - beta1) * (grad - m)
    v *= beta2
    v += (1 - beta2) * (grad * grad)
    denominator = np.sqrt(v) / (1 - beta2**step) ** 0.5 + eps
    p -= lr / (1 - beta1**step) * (m / denominator)
