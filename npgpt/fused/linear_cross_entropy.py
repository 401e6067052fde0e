"""Output head and cross-entropy. The formula is in npgpt/ops/linear_cross_entropy.py."""

import numpy as np

from npgpt.arrays import Array, flat, into, rows
from npgpt.kernels import buffer_pool
from npgpt.kernels.gemm import FEW, matmul
from npgpt.kernels.jit import inner, njit
from npgpt.kernels.math import exp, largest
from npgpt.kernels.packing import bits
from npgpt.kernels.parallel import in_parallel, part, tasks_for
from npgpt.kernels.row_ops import softmax_row
from npgpt.ops.linear_cross_entropy import IGNORED, Cache, blocks, check


def forward(x: Array, weight: Array, targets: Array, *, chunk: int = 512,
            dweight: Array | None = None, frozen: bool = False):  # fmt: skip
    """(..., C), (V, C), (...) integers below V, or IGNORED -> scalar of x's dtype

    `dweight`: optional output for the gradient of `weight` at dloss = 1. Passing backward's `g`
    here avoids a second (V, C) array; the Cache can then be used once. `frozen`: without it.
    """
    return forward_with(matmul, x.dtype, x, weight, targets, chunk, dweight, frozen)


def backward(dloss: float, cache: Cache, g: Array | None, *, dx: Array | None = None):
    """scalar -> (..., C). `g` is the gradient of the head, (V, C)."""
    dx = into(buffer_pool.empty_like(cache.dx) if dx is None else dx, cache.dx)
    results = [dx] if cache.dweight is None else [into(g, cache.dweight), dx]
    if dloss != 1:
        for x in results:
            _scale(tasks_for(x.size), x.dtype.type(dloss), flat(x))
    return dx


def evaluate(x: Array, weight: Array, targets: Array, *, chunk: int = 512):
    """Return the loss without a Cache for backward: a third of the work."""
    return evaluate_with(matmul, x, weight, targets, chunk)


def log_probs(x: Array, weight: Array, targets: Array, *, chunk: int = 512):
    """(..., C), (V, C), (...) -> (...), (...) bool: the log-probabilities of the targets, and True
    where no token is more likely. An ignored target has 0 and True."""
    return log_probs_with(matmul, x, weight, targets, chunk)


def forward_with(
    matmul, dtype, x: Array, weight: Array, targets: Array, chunk: int, dweight, frozen
):
    """Run `forward` with this matrix product, which reads the gradient of the logits in a dtype:
    that of x, or uint16 for bfloat16, to which the product would round it."""
    x_rows, targets = rows(x), check(targets, weight)
    counts = targets != IGNORED
    if not counts.all():
        some = x_rows[counts], weight, targets[counts]
        value, cache = forward_with(matmul, dtype, *some, chunk, dweight, frozen)
        dx = buffer_pool.empty_like(x_rows)
        dx[counts], dx[~counts] = cache.dx, 0
        return value, Cache(dx.reshape(x.shape), cache.dweight)
    N, V = len(x_rows), len(weight)
    dx = buffer_pool.empty_like(x_rows)
    if dweight is None and not frozen:
        dweight = buffer_pool.empty_like(weight)
    loss = np.empty(N, x.dtype)
    shape = min(N, chunk), V
    buffer = buffer_pool.temporary(shape, x.dtype)
    buffers = buffer, buffer if dtype == x.dtype else buffer_pool.temporary(shape, dtype)
    for block in blocks(N, chunk):
        logits, dlogits = (one[: block.stop - block.start] for one in buffers)
        matmul(x_rows[block], weight.T, out=logits)
        if dlogits.dtype == x.dtype or min(logits.shape) <= FEW:  # which are not rounded
            _forward(logits, targets[block], x.dtype.type(1 / N), loss[block])
            dlogits = logits
        else:
            _forward_rounded(logits, targets[block], x.dtype.type(1 / N), loss[block], dlogits)
        matmul(dlogits, weight, out=dx[block])
        if dweight is not None:
            matmul(dlogits.T, x_rows[block], out=dweight, beta=0 if block.start == 0 else 1)
    return x.dtype.type(loss.sum(dtype=np.float64) / N), Cache(dx.reshape(x.shape), dweight)


def evaluate_with(matmul, x: Array, weight: Array, targets: Array, chunk: int):
    """Run `evaluate` with this matrix product."""
    x_rows, targets = rows(x), check(targets, weight)
    counts = targets != IGNORED
    if not counts.all():
        x_rows, targets = x_rows[counts], targets[counts]
    loss, _ = row_losses(matmul, x_rows, weight, targets, chunk)
    return x.dtype.type(loss.sum(dtype=np.float64) / len(loss))


def log_probs_with(matmul, x: Array, weight: Array, targets: Array, chunk: int):
    """Run `log_probs` with this matrix product."""
    x_rows, labels = rows(x), check(targets, weight)
    counts = labels != IGNORED
    found, is_greedy = np.zeros(len(labels), x.dtype), np.ones(len(labels), bool)
    some = (x_rows, labels) if counts.all() else (x_rows[counts], labels[counts])
    loss, is_greedy[counts] = row_losses(matmul, some[0], weight, some[1], chunk)
    found[counts] -= loss
    return found.reshape(targets.shape), is_greedy.reshape(targets.shape)


def row_losses(matmul, x: Array, weight: Array, targets: Array, chunk: int) -> tuple[Array, Array]:
    """(N, C), (V, C), (N,) -> the loss of each row (N,), and True where no token is more likely"""
    N, V = len(x), len(weight)
    loss, is_greedy = np.empty(N, x.dtype), np.empty(N, bool)
    buffer = buffer_pool.empty((min(N, chunk), V), x.dtype)
    for block in blocks(N, chunk):
        logits = buffer[: block.stop - block.start]
        matmul(x[block], weight.T, out=logits)
        _losses(logits, targets[block], loss[block], is_greedy[block])
    return loss, is_greedy


@njit
def _forward(logits, targets, inv_n, loss):
    in_parallel(len(logits), _forward_row, (logits, targets, inv_n, loss))


@inner
def _forward_row(n, logits, targets, inv_n, loss):
    """Replace a token's logits by their gradient."""
    row, target = logits[n], targets[n]
    logit = row[target]
    row_max, total = softmax_row(row, logits.dtype.type(1))
    loss[n] = np.log(total) - (logit - row_max)
    factor = inv_n / total
    for v in range(len(row)):
        row[v] *= factor
    row[target] -= inv_n


@njit
def _forward_rounded(logits, targets, inv_n, loss, dlogits):
    in_parallel(len(logits), _forward_rounded_row, (logits, targets, inv_n, loss, dlogits))


@inner
def _forward_rounded_row(n, logits, targets, inv_n, loss, dlogits):
    """The same, then round the row: the products read half the bytes."""
    _forward_row(n, logits, targets, inv_n, loss)
    row, rounded_row = logits[n], dlogits[n]
    for v in range(len(row)):
        rounded_row[v] = np.uint16(bits(row[v]))


@njit
def _losses(logits, targets, loss, is_greedy):
    in_parallel(len(logits), _losses_row, (logits, targets, loss, is_greedy))


@inner
def _losses_row(n, logits, targets, loss, is_greedy):
    """The loss alone: `softmax_row` would write the row, and add it up in another order."""
    row, target = logits[n], targets[n]
    row_max, total = largest(row), logits.dtype.type(0)
    for v in range(len(row)):
        total += exp(row[v] - row_max)
    loss[n] = np.log(total) - (row[target] - row_max)
    is_greedy[n] = row[target] == row_max
    if is_greedy[n]:
        for v in range(target):  # of several that are equal, the first is chosen
            if row[v] == row_max:
                is_greedy[n] = False


@njit
def _scale(tasks, factor, x):
    in_parallel(tasks, _scale_part, (tasks, factor, x))


@inner
def _scale_part(task, tasks, factor, x):
    x = part(x, task, tasks)
    for i in range(x.size):
        x[i] *= factor
