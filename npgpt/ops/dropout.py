"""Inverted dropout: in training, drop each number with probability `rate`, scale up the rest.

    keep ~ Bernoulli(1 - rate)        scale = 1 / (1 - rate)
    out  = x * (keep * scale)

Srivastava et al. 2014; like torch.nn.functional.dropout. Without a generator (`rng=None`), or at
rate 0, it is the identity and draws nothing. Derivation: docs/ops/dropout.md
"""

from typing import NamedTuple

import numpy as np

from npgpt.arrays import Array, into


class Cache(NamedTuple):
    keep: Array | None  # bool, the shape of x; None without dropout
    scale: float  # of x's dtype


def forward(x: Array, *, rate: float, rng=None, out: Array | None = None):
    """any shape -> the same shape. Without dropout and without `out`, return `x` itself."""
    keep, scale = draw(x.shape, x.dtype, rate=rate, rng=rng)
    if keep is None:
        return into(out, x), Cache(keep, scale)
    return into(out, x * (keep * scale)), Cache(keep, scale)


def backward(dout: Array, cache: Cache, *, dx: Array | None = None):
    """any shape -> the same shape. The gradient of a dropped element is zero.

    `dx` may be `dout` itself.
    """
    keep, scale = cache
    if keep is None:
        return into(dx, dout)
    return into(dx, dout * (keep * scale))


def draw(shape, dtype, *, rate: float, rng, empty=np.empty) -> tuple[Array | None, float]:
    """Return a mask of the given shape and its scale; the mask is None without dropout.

    `empty` allocates the mask.
    """
    one = dtype.type(1)
    if rng is None or rate == 0:
        return None, one
    if rate == 1:  # PyTorch draws nothing here either
        return np.zeros(shape, bool), one
    return rng.bernoulli(1 - rate, shape, out=empty(shape, bool)), one / dtype.type(1 - rate)
