"""A linear layer with a low-rank adapter: R columns of A and R rows of B are trained, not W.

    out = x @ weight + bias + scale * (x @ lora_a) @ lora_b

Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models", arXiv:2106.09685, equation 3,
with scale = alpha / R. The product of the two is never formed. Derivation: docs/ops/lora.md
"""

from typing import NamedTuple

import numpy as np

from npgpt.arrays import Array, rows


class Params(NamedTuple):
    weight: Array  # (I, O)
    bias: Array | None  # (O,)
    lora_a: Array  # (I, R)
    lora_b: Array  # (R, O)
    scale: float = 1.0  # a constant: it has no gradient


class Cache(NamedTuple):
    x: Array  # (..., I)
    low: Array  # (..., R)
    p: Params


def forward(x: Array, p: Params, *, out: Array | None = None):
    """(..., I) -> (..., O)"""
    low = x.dtype.type(p.scale) * (x @ p.lora_a)
    out = np.matmul(x, p.weight, out=out)
    out += low @ p.lora_b
    if p.bias is not None:
        out += p.bias
    return out, Cache(x, low, p)


def backward(dout: Array, cache: Cache, g: Params, *, dx: Array | None = None):
    """(..., O) -> (..., I)"""
    x, low, p = cache
    dlow = x.dtype.type(p.scale) * (dout @ p.lora_b.T)
    for grad, a, b in ((g.weight, x, dout), (g.lora_a, x, dlow), (g.lora_b, low, dout)):
        if grad is not None:  # None: frozen
            np.matmul(rows(a).T, rows(b), out=grad)
    if g.bias is not None:
        np.sum(rows(dout), 0, out=g.bias)
    dx = np.matmul(dout, p.weight.T, out=dx)
    dx += dlow @ p.lora_a.T
    return dx
