"""Linear layer: the gradient of the weight.

Forward:

    out = x @ weight + bias

    x       (B, T, I)      input
    weight  (I, O)         one matrix for every position of every sequence
    out     (B, T, O)      output

`dout` is the gradient of the loss with respect to `out`. Return that with respect to `weight`. The
chain rule, for one number of the matrix:

    dweight[i, o] = sum over b, t of  dout[b, t, o] * (slope of out[b, t, o] along weight[i, o])

The matrix is used at B * T positions. Which of them contribute?
"""


def linear_dweight(dout, x):
    """(B, T, O), (B, T, I) -> (I, O)"""
    I, O = x.shape[-1], dout.shape[-1]
    return x.reshape(-1, I).T @ dout.reshape(-1, O)
