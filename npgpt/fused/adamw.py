"""AdamW, one pass over all four arrays. What it computes is in npgpt/ops/adamw.py."""

import numpy as np

from npgpt.arrays import Array, flat
from npgpt.fused._jit import BLOCKS, njit, prange


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
    """One step, in place: `p`, `m` and `v` of any one shape are written, `grad` is only read.

    `step` counts from 1. `scale` multiplies the gradient on the way in: it is how clipping to a
    global norm costs no pass of its own.
    """
    beta1, beta2 = betas
    number = p.dtype.type
    _update(
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
    """The sum of the squares of a gradient, in float64: what a global norm is made of."""
    parts = np.empty(BLOCKS)
    _square_sum(flat(grad), parts)
    return float(parts.sum())


@njit(parallel=True)
def _update(p, grad, m, v, shrink, gain1, beta2, gain2, correction2, rate, eps, scale):
    for i in prange(p.size):
        d = grad[i] * scale
        m[i] += gain1 * (d - m[i])
        v[i] = v[i] * beta2 + gain2 * (d * d)
        p[i] = p[i] * shrink - rate * (m[i] / (np.sqrt(v[i]) / correction2 + eps))


@njit(parallel=True)
def _square_sum(x, parts):
    blocks = len(parts)
    for block in prange(blocks):
        total, some = 0.0, x[block * x.size // blocks : (block + 1) * x.size // blocks]
        for i in range(some.size):
            wide = np.float64(some[i])
            total += wide * wide
        parts[block] = total
