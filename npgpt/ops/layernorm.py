"""LayerNorm: normalize each row to mean 0 and variance 1, then scale and shift it.

    mean = E[x]        rstd = 1 / sqrt(Var[x] + eps)
    norm = (x - mean) * rstd
    out  = norm * weight + bias

Var is the population variance (divided by C, not C - 1). Ba, Kiros and Hinton 2016,
arXiv:1607.06450. Like torch.nn.functional.layer_norm. Derivation: docs/ops/layernorm.md
"""

from typing import NamedTuple

import numpy as np

from npgpt.arrays import Array, into, rows


class Params(NamedTuple):
    weight: Array  # (C,)
    bias: Array  # (C,)


class Cache(NamedTuple):
    x: Array  # (..., C)
    p: Params
    mean: Array  # (..., 1)
    rstd: Array  # (..., 1)


def forward(x: Array, p: Params, *, eps: float = 1e-5, out: Array | None = None):
    """(..., C) -> (..., C)"""
    mean = x.mean(-1, keepdims=True)
    rstd = 1 / np.sqrt(x.var(-1, keepdims=True) + eps)
    norm = (x - mean) * rstd
    return into(out, norm * p.weight + p.bias), Cache(x, p, mean, rstd)


def backward(dout: Array, cache: Cache, g: Params, *, dx: Array | None = None):
    """(..., C) -> (..., C). `dx` may be `dout` itself."""
    x, p, mean, rstd = cache
    norm = (x - mean) * rstd  # recomputed: caching it would cost one more (..., C) per layer

    if g.weight is not None:  # None: frozen
        g.weight[:] = rows(dout * norm).sum(0)
    if g.bias is not None:
        g.bias[:] = rows(dout).sum(0)

    # x reaches the output directly, and again through the mean and the rstd of its row
    dnorm = dout * p.weight
    via_mean = dnorm.mean(-1, keepdims=True)
    via_rstd = norm * (dnorm * norm).mean(-1, keepdims=True)
    return into(dx, rstd * (dnorm - via_mean - via_rstd))
