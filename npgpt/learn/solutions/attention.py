"""Attention, 5 of 5: the whole backward pass.

Forward, for each sequence and each head:

    scores = q @ k.mT / sqrt(D)     with every later position set to -inf
    probs  = softmax(scores)
    heads  = probs @ v              (B, H, T, D)
    out    = the heads, merged      (B, T, C), C = H * D: head 0's channels first

    q, k, v  (B, H, T, D)
    probs    (B, H, T, T)           of the forward pass; 0 where a score is masked

`dout` is the gradient of the loss with respect to `out`. Return `dqkv` of shape (B, T, 3C): the
gradients of q, k and v, each merged as `out` is, one after the other in the last axis.

The steps of the forward pass, in the opposite direction: split the heads, values, softmax, scale,
queries and keys, merge.
"""

import numpy as np


def attention_backward(dout, q, k, v, probs):
    """(B, T, C), three (B, H, T, D), (B, H, T, T) -> (B, T, 3C)"""
    B, H, T, D = q.shape
    dheads = dout.reshape(B, T, H, D).transpose(0, 2, 1, 3)
    dv = probs.mT @ dheads
    dprobs = dheads @ v.mT
    dscores = probs * (dprobs - (dprobs * probs).sum(-1, keepdims=True))
    dq = dscores @ k * D**-0.5
    dk = dscores.mT @ q * D**-0.5
    merged = [a.transpose(0, 2, 1, 3).reshape(B, T, H * D) for a in (dq, dk, dv)]
    return np.concatenate(merged, axis=-1)
