"""The MLP: all gradients of two linear layers with GELU between them.

Forward:

    h   = x @ c_fc + b_fc           (B, T, F)
    a   = gelu(h)                   (B, T, F)
    out = a @ c_proj + b_proj       (B, T, C)

    x       (B, T, C)
    c_fc    (C, F)        F = 4 C in GPT-2
    c_proj  (F, C)

Given are `dout`, the gradient of the loss with respect to `out`; `x`; `a`; `slope`, the slope of
gelu at every h, of shape (B, T, F); and the two matrices. Return the gradients of x, c_fc, b_fc,
c_proj and b_proj, in this order.
"""


def mlp_backward(dout, x, a, slope, c_fc, c_proj):
    """-> dx (B, T, C), dc_fc (C, F), db_fc (F,), dc_proj (F, C), db_proj (C,)"""
    C, F = c_fc.shape
    dc_proj = a.reshape(-1, F).T @ dout.reshape(-1, C)
    db_proj = dout.sum((0, 1))
    dh = dout @ c_proj.T * slope
    dc_fc = x.reshape(-1, C).T @ dh.reshape(-1, F)
    db_fc = dh.sum((0, 1))
    dx = dh @ c_fc.T
    return dx, dc_fc, db_fc, dc_proj, db_proj
