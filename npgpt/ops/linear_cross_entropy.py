"""Mean cross-entropy of the next token, straight from the last hidden state.

    logits = x @ weight.T
    loss   = mean(logsumexp(logits) - logits[target])

The output head and the loss are one op so that the (B*T, V) logits are never whole in memory:
they are made `chunk` rows at a time, and each chunk leaves its gradient behind before it is
dropped, because by then softmax(logits) - onehot(target) is already there.

Like torch.nn.functional.cross_entropy(x @ weight.T, targets).
Derivation: docs/ops/linear_cross_entropy.md
"""

from typing import NamedTuple

import numpy as np

from npgpt.arrays import Array, check_ids, into, rows


class Cache(NamedTuple):
    dx: Array  # (..., C)  both for dloss = 1
    dweight: Array  # (V, C)


def forward(x: Array, weight: Array, targets: Array, *, chunk: int = 512,
            dweight: Array | None = None):  # fmt: skip
    """(..., C), (V, C), (...) integers below V -> scalar of x's dtype

    `dweight`: where backward's `g` is known already, the gradient of the head goes straight there,
    for dloss = 1; such a Cache is good for one backward.
    """
    x_rows, targets = rows(x), check(targets, weight)
    N = len(x_rows)
    dx, total = np.empty_like(x_rows), 0.0
    dweight = into(dweight, np.zeros_like(weight))
    for block in blocks(N, chunk):
        loss, probs = losses(x_rows[block], weight, targets[block])
        total += float(loss.sum())
        dlogits = probs
        dlogits[np.arange(len(loss)), targets[block]] -= 1
        dlogits /= N
        np.matmul(dlogits, weight, out=dx[block])
        dweight += dlogits.T @ x_rows[block]
    return x.dtype.type(total / N), Cache(dx.reshape(x.shape), dweight)


def backward(dloss: float, cache: Cache, g: Array, *, dx: Array | None = None):
    """scalar -> (..., C). `g` is the gradient of the head, (V, C)."""
    dloss = cache.dx.dtype.type(dloss)
    np.multiply(cache.dweight, dloss, out=g)
    return into(dx, cache.dx * dloss)


def evaluate(x: Array, weight: Array, targets: Array, *, chunk: int = 512):
    """The loss alone, for whoever does not go backward: a third of the work."""
    x_rows, targets = rows(x), check(targets, weight)
    total = 0.0
    for block in blocks(len(x_rows), chunk):
        loss, _ = losses(x_rows[block], weight, targets[block])
        total += float(loss.sum())
    return x.dtype.type(total / len(x_rows))


def check(targets: Array, weight: Array) -> Array:
    """The targets as a vector. Raises IndexError for one outside the vocabulary."""
    check_ids(targets, len(weight), "target")
    return targets.ravel()


def blocks(N: int, chunk: int) -> list[slice]:
    """0..N cut into slices of at most `chunk`."""
    return [slice(start, min(start + chunk, N)) for start in range(0, N, chunk)]


def losses(x: Array, weight: Array, targets: Array) -> tuple[Array, Array]:
    """(N, C), (V, C), (N,) -> the loss of each row (N,), and softmax(logits) (N, V)"""
    logits = x @ weight.T
    logits -= logits.max(-1, keepdims=True)
    probs = np.exp(logits)
    norm = probs.sum(-1, keepdims=True)
    probs /= norm
    return np.log(norm[:, 0]) - logits[np.arange(len(x)), targets], probs
