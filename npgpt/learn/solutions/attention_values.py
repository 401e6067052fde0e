"""Attention, 1 of 5: the weighted mean of the values.

Forward, for each sequence and each head:

    out = probs @ v

    probs  (B, H, T, T)    probs[..., i, j]: the weight of position j for position i
    v      (B, H, T, D)    values
    out    (B, H, T, D)

`dout` is the gradient of the loss with respect to `out`. Return the gradients of `probs` and of
`v`, in this order. `a.mT` transposes the last two axes.
"""


def values_backward(dout, probs, v):
    """(B, H, T, D), (B, H, T, T), (B, H, T, D) -> dprobs (B, H, T, T), dv (B, H, T, D)"""
    dprobs = dout @ v.mT
    dv = probs.mT @ dout
    return dprobs, dv
