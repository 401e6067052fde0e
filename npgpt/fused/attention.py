"""Attention, one head at a time, block by block. What it computes is in npgpt/ops/attention.py.

The T x T probabilities never exist whole. Forward makes ROWS rows of scores at a time, against the
keys up to them only, and keeps of each row two numbers: top, its largest score, and share, one over
the sum that softmax divides by. Backward makes the same rows again, exp(score - top) * share. That
is FlashAttention's bargain (Dao et al. 2022, arXiv:2205.14135), memory for a second product, but
without its running maximum, since a row of scores fits into a core's cache; and with two numbers
where it keeps their logarithm, which loses digits when scores are large. Each head is one task and
writes only its own columns, so the bits do not depend on the number of threads.
"""

from typing import NamedTuple

import numpy as np

from npgpt.arrays import Array
from npgpt.fused._jit import njit, prange
from npgpt.fused._math import exp
from npgpt.fused._matmul import multiply_add
from npgpt.ops import dropout

ROWS = 16  # queries at a time: 16 rows of 1024 scores are 64 KB


class Cache(NamedTuple):
    """Not the readable shelf's: 2 T numbers a head instead of T x T."""

    qkv: Array  # (B, T, 3C)
    top: Array  # (B, H, T), before scaling
    share: Array  # (B, H, T)
    drop: dropout.Cache  # its mask is (B, H, T, T)


def forward(qkv: Array, *, n_head: int, past=None, rate: float = 0.0, rng=None,
            out: Array | None = None):  # fmt: skip
    """(B, T, 3C) -> (B, T, C). With `past`, these T positions follow the ones it remembers.

    Going backward is for whole sequences: with a past that was not empty, the Cache serves nobody.
    """
    B, T, C = *qkv.shape[:-1], qkv.shape[-1] // 3
    D = C // n_head
    out = np.empty((B, T, C), qkv.dtype) if out is None else out
    top, share = np.empty((2, B, n_head, T), qkv.dtype)
    scale, start = qkv.dtype.type(D**-0.5), past.length if past is not None else 0
    if past is not None:
        k, v = (part.reshape(B, T, n_head, D).transpose(0, 2, 1, 3) for part in
                (qkv[..., C : 2 * C], qkv[..., 2 * C :]))  # fmt: skip
        past.append(k, v)
    keep, factor = dropout.draw((B, n_head, T, start + T), qkv.dtype, rate=rate, rng=rng)
    drop = dropout.Cache(keep, factor)
    if start:
        if keep is not None:
            raise ValueError("dropout is for training, which has no past; leave out rng or past")
        _forward_past(qkv, past.k, past.v, start, scale, out)
    else:
        _forward(qkv, mask(keep), factor, scale, out, top, share)
    return out, Cache(qkv, top, share, drop)


def backward(dout: Array, cache: Cache, *, dx: Array | None = None):
    """(B, T, C) -> (B, T, 3C)"""
    qkv, top, share, (keep, factor) = cache
    dx = np.empty_like(qkv) if dx is None else dx
    scale = qkv.dtype.type((qkv.shape[-1] // 3 // top.shape[1]) ** -0.5)
    _backward(dout, qkv, top, share, mask(keep), factor, scale, dx)
    return dx


def mask(keep: Array | None) -> Array:
    """The mask, or an empty one where nothing is dropped: a kernel takes an array either way."""
    return np.empty((0, 0, 0, 0), bool) if keep is None else keep


# Kernels. Of one head: q, k, v, dy are (T, D), kt and vt their transposes (D, T); `scores`,
# `probs` and their gradients are ROWS rows of them, (ROWS, T), of which row r belongs to query
# first + r and the first `seen` columns are in use.


@njit(parallel=True)
def _forward(qkv, keep, factor, scale, out, top, share):
    B, H, T = top.shape
    C = out.shape[2]
    D = C // H
    for task in prange(B * H):
        b, h = task // H, task % H
        q, v = np.empty((T, D), qkv.dtype), np.empty((T, D), qkv.dtype)
        kt = np.empty((D, T), qkv.dtype)
        _unpack(qkv, b, h * D, q)
        _unpack_transposed(qkv, b, C + h * D, kt)
        _unpack(qkv, b, 2 * C + h * D, v)
        scores, y = np.empty((ROWS, T), qkv.dtype), np.empty((ROWS, D), qkv.dtype)
        for first in range(0, T, ROWS):
            rows = min(ROWS, T - first)
            seen = first + rows
            scores[:rows, :seen] = 0
            multiply_add(q, first, 0, rows, D, kt, 0, seen, scores)
            for r in range(rows):
                t = first + r
                top[b, h, t], share[b, h, t] = _softmax(scores, r, t + 1, seen, scale)
            if keep.size:
                for r in range(rows):
                    for s in range(seen):
                        scores[r, s] *= keep[b, h, first + r, s] * factor
            y[:rows] = 0
            multiply_add(scores, 0, 0, rows, seen, v, 0, D, y)
            for r in range(rows):
                for d in range(D):
                    out[b, first + r, h * D + d] = y[r, d]


@njit(parallel=True)
def _backward(dout, qkv, top, share, keep, factor, scale, dqkv):
    B, H, T = top.shape
    C = dout.shape[2]
    D = C // H
    for task in prange(B * H):
        b, h = task // H, task % H
        q, k = np.empty((T, D), qkv.dtype), np.empty((T, D), qkv.dtype)
        dy = np.empty((T, D), qkv.dtype)
        kt, vt = np.empty((D, T), qkv.dtype), np.empty((D, T), qkv.dtype)
        _unpack(qkv, b, h * D, q)
        _unpack(qkv, b, C + h * D, k)
        _unpack_transposed(qkv, b, C + h * D, kt)
        _unpack_transposed(qkv, b, 2 * C + h * D, vt)
        _unpack(dout, b, h * D, dy)
        dk, dv = np.zeros((T, D), qkv.dtype), np.zeros((T, D), qkv.dtype)
        probs, dprobs = np.empty((ROWS, T), qkv.dtype), np.empty((ROWS, T), qkv.dtype)
        dq = np.empty((ROWS, D), qkv.dtype)
        for first in range(0, T, ROWS):
            rows = min(ROWS, T - first)
            seen = first + rows
            probs[:rows, :seen] = 0
            multiply_add(q, first, 0, rows, D, kt, 0, seen, probs)
            dprobs[:rows, :seen] = 0
            multiply_add(dy, first, 0, rows, D, vt, 0, seen, dprobs)
            for r in range(rows):
                t = first + r
                _softmax_again(probs, r, t + 1, seen, scale, top[b, h, t], share[b, h, t])
            if keep.size:
                for r in range(rows):
                    for s in range(seen):
                        dprobs[r, s] *= keep[b, h, first + r, s] * factor
            dscores = dprobs
            for r in range(rows):
                _softmax_backward(dprobs, probs, r, seen, scale, dscores)
            if keep.size:
                for r in range(rows):
                    for s in range(seen):
                        probs[r, s] *= keep[b, h, first + r, s] * factor
            multiply_add(probs.T, 0, 0, seen, rows, dy, first, D, dv)
            multiply_add(dscores.T, 0, 0, seen, rows, q, first, D, dk)
            dq[:rows] = 0
            multiply_add(dscores, 0, 0, rows, seen, k, 0, D, dq)
            for r in range(rows):
                for d in range(D):
                    dqkv[b, first + r, h * D + d] = dq[r, d]
        for t in range(T):
            for d in range(D):
                dqkv[b, t, C + h * D + d] = dk[t, d]
                dqkv[b, t, 2 * C + h * D + d] = dv[t, d]


@njit(parallel=True)
def _forward_past(qkv, k, v, start, scale, out):
    """A few new queries against many remembered keys: every key is read once, as it lies."""
    B, H, T_max, D = k.shape
    T = out.shape[1]
    zero = qkv.dtype.type(0)
    for task in prange(B * H):
        b, h = task // H, task % H
        scores, y = np.empty((1, T_max), qkv.dtype), np.empty(D, qkv.dtype)
        for t in range(T):
            seen = start + t + 1
            for s in range(seen):
                total = zero
                for d in range(D):
                    total += qkv[b, t, h * D + d] * k[b, h, s, d]
                scores[0, s] = total
            _softmax(scores, 0, seen, seen, scale)
            y[:] = 0
            for s in range(seen):
                for d in range(D):
                    y[d] += scores[0, s] * v[b, h, s, d]
            for d in range(D):
                out[b, t, h * D + d] = y[d]


@njit
def _softmax(scores, r, seen, width, scale):
    """scores[r] -> probabilities, in place; 0 from `seen` to `width`. Returns top and share."""
    zero, one = scores.dtype.type(0), scores.dtype.type(1)
    top = scores[r, 0]
    for s in range(1, seen):
        top = max(top, scores[r, s])
    total = zero
    for s in range(seen):
        e = exp((scores[r, s] - top) * scale)
        scores[r, s] = e
        total += e
    share = one / total
    for s in range(seen):
        scores[r, s] *= share
    for s in range(seen, width):
        scores[r, s] = zero
    return top, share


@njit
def _softmax_again(scores, r, seen, width, scale, top, share):
    """scores[r] -> the probabilities of forward, in place, without looking for top and share."""
    for s in range(seen):
        scores[r, s] = exp((scores[r, s] - top) * scale) * share
    for s in range(seen, width):
        scores[r, s] = scores.dtype.type(0)


@njit
def _softmax_backward(dprobs, probs, r, width, scale, dscores):
    total = probs.dtype.type(0)
    for s in range(width):
        total += dprobs[r, s] * probs[r, s]
    for s in range(width):
        dscores[r, s] = probs[r, s] * (dprobs[r, s] - total) * scale


@njit
def _unpack(x, b, column, rows):
    """The columns of one head, (T, D)."""
    T, D = rows.shape
    for t in range(T):
        for d in range(D):
            rows[t, d] = x[b, t, column + d]


@njit
def _unpack_transposed(x, b, column, columns):
    """The columns of one head, (D, T)."""
    D, T = columns.shape
    for t in range(T):
        for d in range(D):
            columns[d, t] = x[b, t, column + d]
