"""Causal multi-head self-attention on packed queries, keys and values.

    scores = q @ k.T / sqrt(D)      with every later position masked to -inf
    probs  = softmax(scores)
    out    = dropout(probs) @ v

Vaswani et al. 2017, arXiv:1706.03762, equation 1. Like torch.nn.functional.
scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=rate). The only op that mixes
positions. C = H * D. Derivation: docs/ops/attention.md
"""

from typing import NamedTuple

import numpy as np

from npgpt.arrays import Array, into
from npgpt.ops import dropout


class Cache(NamedTuple):
    q: Array  # (B, H, T, D)
    k: Array  # (B, H, S, D), S = T without `past`
    v: Array  # (B, H, S, D)
    probs: Array  # (B, H, T, S)
    drop: dropout.Cache  # its mask is (B, H, T, S)


def forward(qkv: Array, *, n_head: int, past=None, rate: float = 0.0, rng=None,
            out: Array | None = None):  # fmt: skip
    """(B, T, 3C) -> (B, T, C). `past`: a key/value cache whose positions these T follow."""
    q, k, v = (split_heads(a, n_head) for a in np.split(qkv, 3, axis=-1))
    if past is not None:
        k, v = past.append(k, v)  # (B, H, S, D): all positions, these T last
    (T, D), S = q.shape[-2:], k.shape[-2]
    scores = q @ k.mT * D**-0.5
    scores[..., ~np.tri(T, S, S - T, dtype=bool)] = -np.inf
    probs = softmax(scores)
    dropped, drop = dropout.forward(probs, rate=rate, rng=rng)
    return into(out, merge_heads(dropped @ v)), Cache(q, k, v, probs, drop)


def backward(dout: Array, cache: Cache, *, dx: Array | None = None):
    """(B, T, C) -> (B, T, 3C)"""
    q, k, v, probs, drop = cache
    H, D = q.shape[1], q.shape[-1]
    dy = split_heads(dout, H)
    dropped = dropout.backward(probs, drop)  # as in forward: dropout is its own backward
    dv = dropped.mT @ dy
    dprobs = dropout.backward(dy @ v.mT, drop)
    # the VJP of softmax needs only its output; where a score was masked, probs = dscores = 0
    dscores = probs * (dprobs - (dprobs * probs).sum(-1, keepdims=True)) * D**-0.5
    dq = dscores @ k
    dk = dscores.mT @ q
    return into(dx, np.concatenate([merge_heads(a) for a in (dq, dk, dv)], axis=-1))


def softmax(x: Array) -> Array:
    """(..., S) -> (..., S), the softmax over the last axis."""
    e = np.exp(x - x.max(-1, keepdims=True))  # the shift cancels; without it exp overflows
    return e / e.sum(-1, keepdims=True)


def split_heads(x: Array, n_head: int) -> Array:
    """(B, T, C) -> (B, H, T, D)"""
    B, T, C = x.shape
    return x.reshape(B, T, n_head, C // n_head).transpose(0, 2, 1, 3)


def merge_heads(x: Array) -> Array:
    """(B, H, T, D) -> (B, T, C)"""
    B, H, T, D = x.shape
    x = np.ascontiguousarray(x.transpose(0, 2, 1, 3))  # with D = 1, reshape alone would not copy
    return x.reshape(B, T, H * D)
