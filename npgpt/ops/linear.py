"""out = x @ weight + bias, with GPT-2's (in, out) layout of the weight.

Like transformers' Conv1D, or torch.nn.functional.linear with weight.T. Without a bias, `p.bias` and
`g.bias` are None. Derivation: docs/ops/linear.md
"""

from typing import NamedTuple

import numpy as np

from npgpt.arrays import Array, rows
from npgpt.ops import lora


class Params(NamedTuple):
    weight: Array  # (I, O)
    bias: Array | None  # (O,)


class Cache(NamedTuple):
    x: Array  # (..., I)
    p: Params


def forward(x: Array, p: Params, *, out: Array | None = None):
    """(..., I) -> (..., O)"""
    if isinstance(p, lora.Params):
        return lora.forward(x, p, out=out)
    out = np.matmul(x, p.weight, out=out)
    if p.bias is not None:
        out += p.bias
    return out, Cache(x, p)


def backward(dout: Array, cache: Cache, g: Params, *, dx: Array | None = None):
    """(..., O) -> (..., I)"""
    if isinstance(cache, lora.Cache):
        return lora.backward(dout, cache, g, dx=dx)
    x, p = cache
    if g.weight is not None:  # None: frozen
        np.matmul(rows(x).T, rows(dout), out=g.weight)  # the sum of the rows' outer products
    if g.bias is not None:
        np.sum(rows(dout), 0, out=g.bias)
    return np.matmul(dout, p.weight.T, out=dx)
