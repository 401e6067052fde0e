"""GELU: the gradient of the input.

Forward, for each number on its own (the tanh approximation that GPT-2 was trained with):

    inner = SCALE * (x + CUBIC * x**3)          SCALE = sqrt(2 / pi), CUBIC = 0.044715
    out   = 0.5 * x * (1 + tanh(inner))

    x, out  (B, T, F)

`dout` is the gradient of the loss with respect to `out`. Return that with respect to `x`:

    dx = dout * (slope of out along x)

x occurs twice in `out`, so the slope has two terms: the product rule. The slope of tanh(u) is
1 - tanh(u)**2.
"""

import numpy as np

SCALE = (2 / np.pi) ** 0.5
CUBIC = 0.044715


def gelu_backward(dout, x):
    """(B, T, F), (B, T, F) -> (B, T, F)"""
    t = np.tanh(SCALE * (x + CUBIC * x**3))
    inner_slope = SCALE * (1 + 3 * CUBIC * x**2)
    slope = 0.5 * (1 + t) + 0.5 * x * (1 - t**2) * inner_slope
    return dout * slope
