"""LayerNorm: the gradients of its weight and its bias.

Forward, for each row of C numbers:

    mean = E[x]             rstd = 1 / sqrt(Var[x] + eps)
    norm = (x - mean) * rstd
    out  = norm * weight + bias

    x, out      (B, T, C)
    mean, rstd  (B, T, 1)      of the forward pass
    weight      (C,)
    bias        (C,)

`dout` is the gradient of the loss with respect to `out`. Return the gradients of `weight` and of
`bias`, in this order. Every row of every sequence uses the same weight and the same bias.
"""


def layernorm_params_backward(dout, x, mean, rstd):
    """(B, T, C), (B, T, C), (B, T, 1), (B, T, 1) -> dweight (C,), dbias (C,)"""
    norm = (x - mean) * rstd
    dweight = (dout * norm).sum((0, 1))
    dbias = dout.sum((0, 1))
    return dweight, dbias
