"""AdamW: Adam with decoupled weight decay.

    p  <- p - lr * weight_decay * p
    m  <- beta1 * m + (1 - beta1) * grad          mhat = m / (1 - beta1^step)
    v  <- beta2 * v + (1 - beta2) * grad^2        vhat = v / (1 - beta2^step)
    p  <- p - lr * mhat / (sqrt(vhat) + eps)

Loshchilov and Hutter 2019, arXiv:1711.05101, algorithm 2. Like torch.optim.AdamW, in the same
order of operations. Derivation: docs/ops/adamw.md
"""

import numpy as np

from npgpt.arrays import Array, flat


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

    `step` counts from 1. The gradient is multiplied with `scale` first, so that clipping to a
    global norm needs no pass of its own.
    """
    beta1, beta2 = betas
    if scale != 1.0:
        grad = grad * p.dtype.type(scale)
    p *= 1 - lr * weight_decay
    m += (1 - beta1) * (grad - m)
    v *= beta2
    v += (1 - beta2) * (grad * grad)
    denominator = np.sqrt(v) / (1 - beta2**step) ** 0.5 + eps
    p -= lr / (1 - beta1**step) * (m / denominator)


def square_sum(grad: Array) -> float:
    """Return the sum of the squares of a gradient, in float64: its part of the global norm."""
    wide = flat(grad).astype(np.float64)
    return float(wide @ wide)
