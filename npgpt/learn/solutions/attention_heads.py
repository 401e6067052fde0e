"""Attention, 4 of 5: split packed queries, keys and values into heads, and back.

Forward: one matrix product gives all queries, keys and values. In the last axis, all of q come
first, then all of k, then all of v. In each of the three, the D channels of head 0 come first.

    qkv      (B, T, 3C)       C = H * D
    q, k, v  (B, H, T, D)

`split_qkv` returns q, k and v. `split_qkv_backward` is given their gradients and returns that of
`qkv`, of shape (B, T, 3C). Nothing is computed: every number has one place on each side.
"""

import numpy as np


def split_qkv(qkv, n_head):
    """(B, T, 3C), number -> q, k, v, each (B, H, T, D)"""
    B, T, C3 = qkv.shape
    parts = qkv.reshape(B, T, 3, n_head, C3 // 3 // n_head)
    q, k, v = parts.transpose(2, 0, 3, 1, 4)
    return q, k, v


def split_qkv_backward(dq, dk, dv):
    """three (B, H, T, D) -> (B, T, 3C)"""
    B, H, T, D = dq.shape
    merged = [a.transpose(0, 2, 1, 3).reshape(B, T, H * D) for a in (dq, dk, dv)]
    return np.concatenate(merged, axis=-1)
