"""Key/value cache: attention of n new positions, with S earlier ones in the cache.

Generation computes the queries, keys and values of new positions only. The keys and values of the S
positions before them are kept:

    q, k, v         (B, H, n, D)    of the new positions, n >= 1
    keys, values    (B, H, S, D)    of all positions before them, S >= 0

A new position sees all positions of the cache, the new ones before it, and itself:

    scores = q @ (all keys).mT / sqrt(D)     with every later position set to -inf
    out    = softmax(scores) @ (all values)

Return `out` of shape (B, H, n, D), and the new cache: all keys and all values, each of shape
(B, H, S + n, D). The given arrays must stay as they are.
"""

import numpy as np


def attend(q, k, v, keys, values):
    """-> out (B, H, n, D), keys (B, H, S + n, D), values (B, H, S + n, D)"""
    keys = np.concatenate([keys, k], axis=2)
    values = np.concatenate([values, v], axis=2)
    n, D = q.shape[-2:]
    S = keys.shape[2] - n
    scores = q @ keys.mT * D**-0.5
    scores[..., ~np.tri(n, S + n, S, dtype=bool)] = -np.inf
    e = np.exp(scores - scores.max(-1, keepdims=True))
    probs = e / e.sum(-1, keepdims=True)
    return probs @ values, keys, values
