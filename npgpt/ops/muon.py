"""Muon: a step along the mean gradient of a matrix, with all its singular values near 1.

    m <- momentum * m + (1 - momentum) * grad
    u =  momentum * m + (1 - momentum) * grad              Nesterov's form
    p <- p - lr * weight_decay * p
    p <- p - lr * ratio * orthogonalize(u)

`orthogonalize` keeps the singular vectors of u, and brings each singular value to about 1 by five
iterations of Newton and Schulz:

    x <- u / max(||u||, 1e-7)                              the Frobenius norm: no singular value
    five times:  A = x x^T                                 exceeds 1
                 x <- a x + (b A + c A^2) x

`ratio` is 0.2 sqrt(max(I, O)), so that a step is as long as one of AdamW, or sqrt(max(1, O / I)).

Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/; the first ratio: Liu et al. 2025,
arXiv:2502.16982, equation 4. Like torch.optim.Muon, which rounds x to bfloat16. Matrices there are
(out, in), here (in, out). Explanation: docs/ops/optimizers.md
"""

import numpy as np

from npgpt.arrays import Array

ITERATIONS = 5
a, b, c = 3.4445, -4.7750, 2.0315
MIN_NORM = 1e-7


def update(
    p: Array,
    grad: Array,
    m: Array,
    *,
    lr: float,
    momentum: float,
    weight_decay: float,
    match_rms_adamw: bool = True,
    parts: int = 1,
    scale: float = 1.0,
) -> None:
    """Update the matrices `p` and `m` in place by one step; `grad` is only read: (I, parts * O).

    `parts` matrices (I, O) side by side are orthogonalized one by one: queries, keys and values.
    The gradient is multiplied with `scale` first.
    """
    if scale != 1.0:
        grad = grad * p.dtype.type(scale)
    m += (1 - momentum) * (grad - m)
    u = grad + momentum * (m - grad)
    p *= 1 - lr * weight_decay
    for columns, x in zip(np.split(p, parts, 1), np.split(u, parts, 1), strict=True):
        columns -= lr * ratio(x.shape, match_rms_adamw) * orthogonalize(x)


def orthogonalize(u: Array) -> Array:
    """(I, O) -> (I, O)"""
    x = u / u.dtype.type(max(np.linalg.norm(u), MIN_NORM))
    for _ in range(ITERATIONS):
        if len(x) <= x.shape[1]:
            A = x @ x.T
            x = a * x + (b * A + c * (A @ A)) @ x
        else:  # the same numbers from a smaller A
            A = x.T @ x
            x = a * x + x @ (b * A + c * (A @ A))
    return x


def ratio(shape: tuple[int, ...], match_rms_adamw: bool) -> float:
    """Return the length of the steps of a matrix (I, O), in learning rates."""
    I, O = shape
    return 0.2 * max(I, O) ** 0.5 if match_rms_adamw else max(1.0, O / I) ** 0.5
