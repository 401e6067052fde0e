"""Dropout: the gradient of the input.

Forward, in training ("inverted" dropout: the rest is scaled up, so that the mean stays):

    out = x * keep / (1 - rate)

    x, out  (B, T, C)
    keep    (B, T, C)      True with probability 1 - rate, drawn in the forward pass
    rate    a number       in [0, 1)

`dout` is the gradient of the loss with respect to `out`. Return that with respect to `x`. The mask
is the one of the forward pass: nothing is drawn again.
"""


def dropout_backward(dout, keep, rate):
    """(B, T, C), (B, T, C), number -> (B, T, C)"""
    return dout * keep / (1 - rate)
