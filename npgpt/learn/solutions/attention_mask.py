"""Attention, 3 of 5: scale and mask, forward and backward.

Forward, for each sequence and each head:

    out[..., i, j] = scores[..., i, j] / sqrt(D)    if j <= i
                     -inf                           if j > i: a later position

    scores, out  (B, H, T, T)
    D            a number     channels of a head

`scale_and_mask` returns `out`. `scale_and_mask_backward` is given `dout`, the gradient of the loss
with respect to `out`, and returns that with respect to `scores`. Do not rely on `dout` being 0
anywhere. Which scores have no influence on `out`?
"""

import numpy as np


def scale_and_mask(scores, D):
    """(B, H, T, T), number -> (B, H, T, T)"""
    T = scores.shape[-1]
    out = scores * D**-0.5
    out[..., ~np.tri(T, dtype=bool)] = -np.inf
    return out


def scale_and_mask_backward(dout, D):
    """(B, H, T, T), number -> (B, H, T, T)"""
    T = dout.shape[-1]
    return dout * np.tri(T, dtype=bool) * D**-0.5
