"""The block: two layers with residual connections.

Forward:

    x1  = x + attention(ln_1(x))
    out = x1 + mlp(ln_2(x1))

    x, x1, out  (B, T, C)

The backward passes of the four layers are given as functions. Each takes the gradient of its
layer's output and returns the gradient of its layer's input: if y = mlp(z), then dz = mlp(dy). All
are (B, T, C) -> (B, T, C).

`dout` is the gradient of the loss with respect to `out`. Return that with respect to `x`. A value
with two uses has two gradients, which add.
"""


def block_backward(dout, ln_1, attention, ln_2, mlp):
    """(B, T, C), four functions -> (B, T, C)"""
    dx1 = dout + ln_2(mlp(dout))
    return dx1 + ln_1(attention(dx1))
