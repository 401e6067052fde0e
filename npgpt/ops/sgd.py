"""SGD: stochastic gradient descent, with momentum or without.

    grad <- grad + weight_decay * p
    m    <- momentum * m + grad
    p    <- p - lr * m                     Nesterov: p - lr * (grad + momentum * m)

Without momentum, m is grad. Polyak 1964; Nesterov's form: Sutskever et al. 2013, "On the importance
of initialization and momentum in deep learning", section 2. Like torch.optim.SGD, with a dampening
of 0. Explanation: docs/ops/optimizers.md
"""

from npgpt.arrays import Array


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

    `m` is None without momentum. The gradient is multiplied with `scale` first.
    """
    if scale != 1.0:
        grad = grad * p.dtype.type(scale)
    if weight_decay:
        grad = grad + weight_decay * p
    if m is not None:
        m *= momentum
        m += grad
        grad = grad + momentum * m if nesterov else m
    p -= lr * grad
