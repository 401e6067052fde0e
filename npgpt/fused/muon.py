"""Muon: one pass before and one after the matrix products. The formula is in npgpt/ops/muon.py."""

import math

from npgpt.arrays import Array
from npgpt.fused import adamw
from npgpt.kernels import buffer_pool
from npgpt.kernels.gemm import matmul
from npgpt.kernels.jit import inner, njit
from npgpt.kernels.parallel import in_parallel, tasks_for
from npgpt.ops.muon import ITERATIONS, MIN_NORM, a, b, c, ratio


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
    `scale` multiplies the gradient as it is read.
    """
    update_with(matmul, p, grad, m, lr, momentum, weight_decay, match_rms_adamw, parts, scale)


def orthogonalize(u: Array) -> Array:
    """(I, O) -> (I, O)"""
    return orthogonalize_with(matmul, u.copy())


def update_with(
    matmul, p: Array, grad: Array, m: Array, lr: float, momentum: float, weight_decay: float,
    match_rms_adamw: bool, parts: int, scale: float,
) -> None:  # fmt: skip
    """Run `update` with this matrix product."""
    number, shape = p.dtype.type, (p.shape[0], p.shape[1] // parts)
    tasks = min(tasks_for(p.size), len(p))
    u = buffer_pool.empty((parts, *shape), p.dtype)
    _mean(tasks, grad, m, u, number(1 - momentum), number(momentum), number(scale))
    shrink, rate = number(1 - lr * weight_decay), number(lr * ratio(shape, match_rms_adamw))
    for i, x in enumerate(u):
        _step(tasks, p, i * shape[1], orthogonalize_with(matmul, x), shrink, rate)


def orthogonalize_with(matmul, x: Array) -> Array:
    """Run `orthogonalize` with this matrix product; `x` is overwritten."""
    number, size, wide = x.dtype.type, min(x.shape), len(x) <= x.shape[1]
    x *= number(1 / max(math.sqrt(adamw.square_sum(x)), MIN_NORM))
    product = buffer_pool.empty_like(x)
    A, P = (buffer_pool.empty((size, size), x.dtype) for _ in range(2))
    for _ in range(ITERATIONS):
        matmul(*((x, x.T) if wide else (x.T, x)), out=A)
        matmul(A, A, out=P)
        _polynomial(min(tasks_for(A.size), size), A, P, number(a), number(b), number(c))
        matmul(*((P, x) if wide else (x, P)), out=product)
        x, product = product, x
    return x


@njit
def _mean(tasks, grad, m, u, gain, momentum, scale):
    in_parallel(tasks, _mean_part, (tasks, grad, m, u, gain, momentum, scale))


@inner
def _mean_part(task, tasks, grad, m, u, gain, momentum, scale):
    """Update m (I, parts * O), and write Nesterov's mean into u (parts, I, O)."""
    parts, I, O = u.shape
    for i in range(task * I // tasks, (task + 1) * I // tasks):
        for j in range(parts):
            row, mean, out = grad[i, j * O : (j + 1) * O], m[i, j * O : (j + 1) * O], u[j, i]
            for o in range(O):
                d = row[o] * scale
                mean[o] += gain * (d - mean[o])
                out[o] = d + momentum * (mean[o] - d)


@njit
def _polynomial(tasks, A, P, a, b, c):
    in_parallel(tasks, _polynomial_part, (tasks, A, P, a, b, c))


@inner
def _polynomial_part(task, tasks, A, P, a, b, c):
    """P = a I + b A + c P: x <- P x saves a pass over x."""
    size = len(A)
    for i in range(task * size // tasks, (task + 1) * size // tasks):
        for j in range(size):
            P[i, j] = b * A[i, j] + c * P[i, j]
        P[i, i] += a


@njit
def _step(tasks, p, first, x, shrink, rate):
    in_parallel(tasks, _step_part, (tasks, p, first, x, shrink, rate))


@inner
def _step_part(task, tasks, p, first, x, shrink, rate):
    """Update the columns of p that x (I, O) belongs to, from `first` on."""
    I, O = x.shape
    for i in range(task * I // tasks, (task + 1) * I // tasks):
        row, step = p[i, first : first + O], x[i]
        for o in range(O):
            row[o] = row[o] * shrink - rate * step[o]
