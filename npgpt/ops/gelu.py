"""GELU, in the tanh approximation GPT-2 was trained with.

    inner = sqrt(2/pi) * (x + 0.044715 x^3)
    out   = 0.5 * x * (1 + tanh(inner))

Hendrycks and Gimpel 2016, arXiv:1606.08415. Like torch.nn.functional.gelu(x,
approximate="tanh"). Derivation: docs/ops/gelu.md
"""

from typing import NamedTuple

import numpy as np

from npgpt.arrays import Array, into

SCALE, CUBIC = (2 / np.pi) ** 0.5, 0.044715


class Cache(NamedTuple):
    x: Array  # any shape


def forward(x: Array, *, out: Array | None = None):
    """any shape -> the same shape"""
    t = np.tanh(SCALE * (x + CUBIC * (x * x * x)))  # x**3 is many times slower in NumPy
    return into(out, 0.5 * x * (1 + t)), Cache(x)


def backward(dout: Array, cache: Cache, *, dx: Array | None = None):
    """any shape -> the same shape. `dx` may be `dout` itself."""
    (x,) = cache
    t = np.tanh(SCALE * (x + CUBIC * (x * x * x)))
    inner_slope = SCALE * (1 + 3 * CUBIC * (x * x))
    # product rule, and tanh' = 1 - tanh^2
    slope = 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * inner_slope
    return into(dx, dout * slope)
