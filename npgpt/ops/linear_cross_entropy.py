"""Mean cross-entropy of the next token, straight from the last hidden state.

    logits = x @ weight.T
    loss   = mean(logsumexp(logits) - logits[target])

The output head and the loss are one op, so the (B*T, V) logits never exist all at once. Forward
computes `chunk` rows of them at a time, and their gradients with them: after softmax, the gradient
softmax(logits) - onehot(target) is one subtraction away. A row whose target is IGNORED, -100, is
left out of the mean, and its gradient is 0.

Like torch.nn.functional.cross_entropy(x @ weight.T, targets).
Derivation: docs/ops/linear_cross_entropy.md
"""

from typing import NamedTuple

import numpy as np

from npgpt.arrays import Array, check_ids, into, rows

IGNORED = -100  # the target of a row that does not count: PyTorch's ignore_index


class Cache(NamedTuple):
    dx: Array  # (..., C)  both for dloss = 1
    dweight: Array | None  # (V, C)  None: frozen


def forward(x: Array, weight: Array, targets: Array, *, chunk: int = 512,
            dweight: Array | None = None, frozen: bool = False):  # fmt: skip
    """(..., C), (V, C), (...) integers below V, or IGNORED -> scalar of x's dtype

    `dweight`: optional output array for the gradient of `weight` at dloss = 1. Passing backward's
    `g` here avoids a second (V, C) array; the cache can then be used once. `frozen`: without it.
    """
    x_rows, targets = rows(x), check(targets, weight)
    counts = targets != IGNORED
    if not counts.all():
        some = x_rows[counts], weight, targets[counts]
        value, cache = forward(*some, chunk=chunk, dweight=dweight, frozen=frozen)
        dx = np.zeros_like(x_rows)
        dx[counts] = cache.dx
        return value, Cache(dx.reshape(x.shape), cache.dweight)
    N = len(x_rows)
    dx, total = np.empty_like(x_rows), 0.0
    dweight = None if frozen else into(dweight, np.zeros_like(weight))
    for block in blocks(N, chunk):
        loss, probs = losses(x_rows[block], weight, targets[block])
        total += float(loss.sum())
        dlogits = probs
        dlogits[np.arange(len(loss)), targets[block]] -= 1
        dlogits /= N
        np.matmul(dlogits, weight, out=dx[block])
        if dweight is not None:
            dweight += dlogits.T @ x_rows[block]
    return x.dtype.type(total / N), Cache(dx.reshape(x.shape), dweight)


def backward(dloss: float, cache: Cache, g: Array | None, *, dx: Array | None = None):
    """scalar -> (..., C). `g` is the gradient of the head, (V, C)."""
    dloss = cache.dx.dtype.type(dloss)
    if cache.dweight is not None:
        np.multiply(cache.dweight, dloss, out=g)
    return into(dx, cache.dx * dloss)


def evaluate(x: Array, weight: Array, targets: Array, *, chunk: int = 512):
    """(..., C), (V, C), (...) -> scalar: the loss without gradients, at a third of the work."""
    x_rows, targets = rows(x), check(targets, weight)
    counts = targets != IGNORED
    if not counts.all():
        return evaluate(x_rows[counts], weight, targets[counts], chunk=chunk)
    total = 0.0
    for block in blocks(len(x_rows), chunk):
        loss, _ = losses(x_rows[block], weight, targets[block])
        total += float(loss.sum())
    return x.dtype.type(total / len(x_rows))


def log_probs(x: Array, weight: Array, targets: Array, *, chunk: int = 512):
    """(..., C), (V, C), (...) -> (...), (...) bool: the log-probabilities of the targets, and True
    where no token is more likely. An ignored target has 0 and True."""
    x_rows, labels = rows(x), check(targets, weight)
    counts = labels != IGNORED
    found, is_greedy = np.zeros(len(labels), x.dtype), np.ones(len(labels), bool)
    if not counts.all():
        some = x_rows[counts], weight, labels[counts]
        found[counts], is_greedy[counts] = log_probs(*some, chunk=chunk)
        return found.reshape(targets.shape), is_greedy.reshape(targets.shape)
    for block in blocks(len(x_rows), chunk):
        logits = x_rows[block] @ weight.T
        is_greedy[block] = logits.argmax(-1) == labels[block]  # the first, if several are equal
        logits -= logits.max(-1, keepdims=True)
        chosen = logits[np.arange(len(logits)), labels[block]]
        found[block] = chosen - np.log(np.exp(logits).sum(-1))
    return found.reshape(targets.shape), is_greedy.reshape(targets.shape)


def check(targets: Array, weight: Array) -> Array:
    """Return the targets as a vector.

    Raises IndexError for one outside the vocabulary, ValueError if all are IGNORED.
    """
    counted = targets[targets != IGNORED]
    if not counted.size:
        raise ValueError(f"all {targets.size} targets are {IGNORED}, which is ignored")
    check_ids(counted, len(weight), "target")
    return targets.ravel()


def blocks(N: int, chunk: int) -> list[slice]:
    """Return consecutive slices of at most `chunk` rows that cover 0..N."""
    return [slice(start, min(start + chunk, N)) for start in range(0, N, chunk)]


def losses(x: Array, weight: Array, targets: Array) -> tuple[Array, Array]:
    """(N, C), (V, C), (N,) -> the loss of each row (N,), and softmax(logits) (N, V)"""
    logits = x @ weight.T
    logits -= logits.max(-1, keepdims=True)
    probs = np.exp(logits)
    norm = probs.sum(-1, keepdims=True)
    probs /= norm
    return np.log(norm[:, 0]) - logits[np.arange(len(x)), targets], probs
