"""AdamW: one step, in place.

    p  <- p - lr * weight_decay * p
    m  <- beta1 * m + (1 - beta1) * grad          mhat = m / (1 - beta1**step)
    v  <- beta2 * v + (1 - beta2) * grad**2       vhat = v / (1 - beta2**step)
    p  <- p - lr * mhat / (sqrt(vhat) + eps)

    p, grad, m, v  (I, O)
    step           counts from 1

Change `p`, `m` and `v` in place. `grad` must stay as it is. Nothing is returned.
"""

import numpy as np


def adamw(p, grad, m, v, step, lr, beta1, beta2, eps, weight_decay):
    """four (I, O) and numbers -> None"""
    p -= lr * weight_decay * p
    m[:] = beta1 * m + (1 - beta1) * grad
    v[:] = beta2 * v + (1 - beta2) * grad**2
    mhat = m / (1 - beta1**step)
    vhat = v / (1 - beta2**step)
    p -= lr * mhat / (np.sqrt(vhat) + eps)
