"""Linear layer: the gradient of the bias.

Forward:

    out = x @ weight + bias

    bias    (O,)           the same for every position of every sequence
    out     (B, T, O)      output

`dout` is the gradient of the loss with respect to `out`. Return that with respect to `bias`. The
chain rule, for one number of it:

    dbias[o] = sum over b, t of  dout[b, t, o] * (slope of out[b, t, o] along bias[o])

NumPy adds (O,) to (B, T, O) by repeating it. The gradient answers to this repetition.
"""


def linear_dbias(dout):
    """(B, T, O) -> (O,)"""
    return dout.sum((0, 1))
