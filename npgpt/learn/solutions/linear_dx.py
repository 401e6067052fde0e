"""Linear layer: the gradient of the input.

Forward:

    out = x @ weight + bias

    x       (B, T, I)      input
    weight  (I, O)         GPT-2 keeps its matrices as (in, out)
    out     (B, T, O)      output

`dout` is the gradient of the loss with respect to `out`. Return that with respect to `x`. The chain
rule, for one number of x:

    dx[b, t, i] = sum over o of  dout[b, t, o] * (slope of out[b, t, o] along x[b, t, i])

Write it for all numbers at once. One line is enough.
"""


def linear_dx(dout, weight):
    """(B, T, O), (I, O) -> (B, T, I)"""
    return dout @ weight.T
