"""Attention: BLAS products, one-pass softmax. What it computes is in npgpt/ops/attention.py."""

import numpy as np

from npgpt.arrays import Array, rows
from npgpt.fused import dropout
from npgpt.fused._jit import njit, prange
from npgpt.fused._math import exp
from npgpt.ops.attention import Cache


def forward(qkv: Array, *, n_head: int, past=None, rate: float = 0.0, rng=None,
            out: Array | None = None):  # fmt: skip
    """(B, T, 3C) -> (B, T, C). With `past`, these T positions follow the ones it remembers."""
    B, T, C = *qkv.shape[:-1], qkv.shape[-1] // 3
    D = C // n_head
    q, k, v = np.empty((3, B, n_head, T, D), qkv.dtype)
    _split_heads(qkv, q, k, v)
    if past is not None:
        k, v = past.append(k, v)  # (B, H, S, D): all positions so far, these T the last of them
    scores = np.matmul(q, k.mT)
    probs = scores
    _softmax(rows(scores), T, qkv.dtype.type(D**-0.5), rows(probs))
    dropped, drop = dropout.forward(probs, rate=rate, rng=rng)
    out = np.empty((B, T, C), qkv.dtype) if out is None else out
    _merge_heads(np.matmul(dropped, v), out)
    return out, Cache(q, k, v, probs, drop)


def backward(dout: Array, cache: Cache, *, dx: Array | None = None):
    """(B, T, C) -> (B, T, 3C)"""
    q, k, v, probs, drop = cache
    B, H, T, D = q.shape
    dy = np.empty_like(q)
    _split_one(dout, dy)
    dropped = dropout.backward(probs, drop)
    dv = np.matmul(dropped.mT, dy)
    dprobs = np.matmul(dy, v.mT)
    dprobs = dropout.backward(dprobs, drop, dx=dprobs)
    dscores = dprobs
    _softmax_backward(rows(dprobs), rows(probs), T, q.dtype.type(D**-0.5), rows(dscores))
    dq = np.matmul(dscores, k)
    dk = np.matmul(dscores.mT, q)
    dx = np.empty((B, T, 3 * H * D), q.dtype) if dx is None else dx
    _merge_three(dq, dk, dv, dx)
    return dx


# Kernels. A row of scores belongs to one query: row n is query n % T, which sees the keys before
# it and its own, S - T + n % T + 1 of them.


@njit(parallel=True)
def _softmax(scores, T, scale, probs):
    N, S = scores.shape
    zero, one = scores.dtype.type(0), scores.dtype.type(1)
    for n in prange(N):
        seen = S - T + n % T + 1
        top = scores[n, 0]
        for s in range(1, seen):
            top = max(top, scores[n, s])
        total = zero
        for s in range(seen):
            e = exp((scores[n, s] - top) * scale)
            probs[n, s] = e
            total += e
        share = one / total
        for s in range(seen):
            probs[n, s] *= share
        for s in range(seen, S):
            probs[n, s] = zero


@njit(parallel=True)
def _softmax_backward(dprobs, probs, T, scale, dscores):
    N, S = probs.shape
    zero = probs.dtype.type(0)
    for n in prange(N):
        seen = S - T + n % T + 1
        total = zero
        for s in range(seen):
            total += dprobs[n, s] * probs[n, s]
        for s in range(seen):
            dscores[n, s] = probs[n, s] * (dprobs[n, s] - total) * scale
        for s in range(seen, S):
            dscores[n, s] = zero


@njit(parallel=True)
def _split_heads(qkv, q, k, v):
    B, H, T, D = q.shape
    C = H * D
    for n in prange(B * T):
        b, t = n // T, n % T
        for h in range(H):
            for d in range(D):
                q[b, h, t, d] = qkv[b, t, h * D + d]
                k[b, h, t, d] = qkv[b, t, C + h * D + d]
                v[b, h, t, d] = qkv[b, t, 2 * C + h * D + d]


@njit(parallel=True)
def _split_one(x, heads):
    B, H, T, D = heads.shape
    for n in prange(B * T):
        b, t = n // T, n % T
        for h in range(H):
            for d in range(D):
                heads[b, h, t, d] = x[b, t, h * D + d]


@njit(parallel=True)
def _merge_heads(heads, x):
    B, H, T, D = heads.shape
    for n in prange(B * T):
        b, t = n // T, n % T
        for h in range(H):
            for d in range(D):
                x[b, t, h * D + d] = heads[b, h, t, d]


@njit(parallel=True)
def _merge_three(dq, dk, dv, dqkv):
    B, H, T, D = dq.shape
    C = H * D
    for n in prange(B * T):
        b, t = n // T, n % T
        for h in range(H):
            for d in range(D):
                dqkv[b, t, h * D + d] = dq[b, h, t, d]
                dqkv[b, t, C + h * D + d] = dk[b, h, t, d]
                dqkv[b, t, 2 * C + h * D + d] = dv[b, h, t, d]
