"""RMSprop: the gradient, divided by its root mean square.

    grad <- grad + weight_decay * p
    v    <- alpha * v + (1 - alpha) * grad^2
    p    <- p - lr * grad / (sqrt(v) + eps)

Tieleman and Hinton 2012, "Neural networks for machine learning", lecture 6.5. Like
torch.optim.RMSprop, neither centered nor with momentum. Explanation: docs/ops/optimizers.md
"""

import numpy as np

from npgpt.arrays import Array


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

    The gradient is multiplied with `scale` first.
    """
    if scale != 1.0:
        grad = grad * p.dtype.type(scale)
    if weight_decay:
        grad = grad + weight_decay * p
    v *= alpha
    v += (1 - alpha) * (grad * grad)
    p -= lr * (grad / (np.sqrt(v) + eps))
