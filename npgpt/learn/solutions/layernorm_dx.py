"""LayerNorm: the gradient of the input.

Forward, for each row of C numbers:

    mean = E[x]             rstd = 1 / sqrt(Var[x] + eps)
    norm = (x - mean) * rstd
    out  = norm * weight + bias

    x, out      (B, T, C)
    mean, rstd  (B, T, 1)      of the forward pass
    weight, bias  (C,)

Var is the mean of (x - mean)**2 over C numbers. `dout` is the gradient of the loss with respect to
`out`. Return that with respect to `x`.

x reaches the output of its row by three paths: directly, through the mean, and through rstd. The
last two connect all numbers of a row. Find the gradient along each path; the three add.
"""


def layernorm_dx(dout, x, weight, mean, rstd):
    """(B, T, C), (B, T, C), (C,), (B, T, 1), (B, T, 1) -> (B, T, C)"""
    norm = (x - mean) * rstd
    dnorm = dout * weight
    via_mean = dnorm.mean(-1, keepdims=True)
    via_rstd = norm * (dnorm * norm).mean(-1, keepdims=True)
    return rstd * (dnorm - via_mean - via_rstd)
