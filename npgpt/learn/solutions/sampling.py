"""Sampling: the probabilities from which the next token is drawn.

In this order:

    top-k        keep the k largest logits of a row; the others cannot be drawn
    temperature  divide the logits by it; softmax
    top-p        keep the smallest set of most likely tokens whose probabilities reach p; the others
                 cannot be drawn. Scale the rest to a sum of 1. The token that crosses p is kept

    logits  (B, V)
    top_k   an integer, or None: all tokens. It may be larger than V
    top_p   a number in (0, 1], or None: all tokens

Return the probabilities (B, V). Large logits must not overflow.
"""

import numpy as np


def probabilities(logits, temperature, top_k, top_p):
    """(B, V) and numbers -> (B, V)"""
    V = logits.shape[-1]
    if top_k is not None:
        kth = np.sort(logits, axis=-1)[:, -min(top_k, V), None]
        logits = np.where(logits < kth, -np.inf, logits)
    e = np.exp((logits - logits.max(-1, keepdims=True)) / temperature)
    probs = e / e.sum(-1, keepdims=True)
    if top_p is not None:
        order = np.argsort(-probs, axis=-1)
        ranked = np.take_along_axis(probs, order, -1)
        before = ranked.cumsum(-1) - ranked
        kept = np.zeros_like(probs)
        np.put_along_axis(kept, order, np.where(before < top_p, ranked, 0), -1)
        probs = kept / kept.sum(-1, keepdims=True)
    return probs
