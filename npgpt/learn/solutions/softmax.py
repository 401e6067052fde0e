"""Softmax: forward, and the gradient of its input.

Forward, over the last axis of V numbers:

    out[j] = exp(x[j]) / (sum over i of exp(x[i]))

    x, out  (B, T, V)

`softmax` must be right for large numbers too: exp(1000) is inf. Subtracting one number from a whole
row changes nothing in `out`. A number of x may be -inf; its probability is 0.

`softmax_backward` is given `dout`, the gradient of the loss with respect to `out`, and `out`
itself. Return the gradient of `x`. One x[i] changes every out[j] of its row:

    slope of out[j] along x[i] = out[j] * ((1 if i == j else 0) - out[i])
"""

import numpy as np


def softmax(x):
    """(B, T, V) -> (B, T, V)"""
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def softmax_backward(dout, out):
    """(B, T, V), (B, T, V) -> (B, T, V)"""
    return out * (dout - (dout * out).sum(-1, keepdims=True))
