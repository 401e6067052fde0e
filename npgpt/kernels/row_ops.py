"""Inner kernels of one row, shared by the ops of npgpt/fused/."""

import numpy as np

from npgpt.arrays import LINE
from npgpt.kernels.gemv import widen
from npgpt.kernels.jit import inner
from npgpt.kernels.math import exp, largest
from npgpt.kernels.pointers import prefetch_at


@inner
def softmax_row(row, scale):
    """row -> exp(scale * (row - row_max)), in place: the numerators of softmax.

    Returns row_max and the sum, by which softmax divides.
    """
    row_max, total = largest(row), row.dtype.type(0)
    for i in range(len(row)):
        e = exp((row[i] - row_max) * scale)
        row[i] = e
        total += e
    return row_max, total


@inner
def attend_cached(query, k, v, next_head, scale, scores, out):
    """(D,), (S, D), (S, D) -> out (D,): one query against all cached keys; each is read once.

    `scores` (S,) is a workspace. k and v may be bfloat16, their bits in uint16. Meanwhile as many
    keys and values are prefetched, `next_head` bytes behind these.
    """
    S, D = k.shape
    zero, one = out.dtype.type(0), out.dtype.type(1)
    row, next_k, next_v = D * k.itemsize, k.ctypes.data + next_head, v.ctypes.data + next_head
    for s in range(S):
        for start in range(0, row, LINE):
            prefetch_at(next_k + s * row + start)
        total = zero
        for d in range(D):
            total += query[d] * widen(k[s, d])
        scores[s] = total * scale
    _, total = softmax_row(scores, one)
    out[:] = 0
    for s in range(S):
        for start in range(0, row, LINE):
            prefetch_at(next_v + s * row + start)
        prob = scores[s] * (one / total)
        for d in range(D):
            out[d] += prob * widen(v[s, d])


@inner
def layernorm_row(row, weight, bias, eps, out):
    """(C,) -> out (C,). Returns the mean and rstd."""
    C = len(row)
    zero, one, size = row.dtype.type(0), row.dtype.type(1), row.dtype.type(C)  # 0.0 would widen
    total = zero
    for c in range(C):
        total += row[c]
    mean = total / size
    total = zero
    for c in range(C):
        total += (row[c] - mean) * (row[c] - mean)
    rstd = one / np.sqrt(total / size + eps)
    for c in range(C):
        out[c] = (row[c] - mean) * rstd * weight[c] + bias[c]
    return mean, rstd


@inner
def gelu_denominator(x, scale, cubic):
    """1 + exp(-2 inner) with inner = scale * (x + cubic * x**3): GELU is x divided by that."""
    one, two = type(x)(1), type(x)(2)
    return one + exp(-two * (scale * (x + cubic * x * x * x)))
