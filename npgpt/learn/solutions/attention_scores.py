"""Attention, 2 of 5: the scores of queries and keys.

Forward, for each sequence and each head:

    scores[..., i, j] = sum over d of q[..., i, d] * k[..., j, d]        scores = q @ k.mT

    q, k    (B, H, T, D)    queries and keys
    scores  (B, H, T, T)

`dscores` is the gradient of the loss with respect to the scores. Return the gradients of `q` and of
`k`, in this order. A query has a row of scores, a key has a column.
"""


def scores_backward(dscores, q, k):
    """(B, H, T, T), (B, H, T, D), (B, H, T, D) -> dq (B, H, T, D), dk (B, H, T, D)"""
    dq = dscores @ k
    dk = dscores.mT @ q
    return dq, dk
