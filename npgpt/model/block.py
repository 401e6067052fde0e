"""One transformer block: attention, then the MLP, each added back to the residual stream.

`backward` is `forward` read from the bottom up.
"""

from typing import Any, NamedTuple

import numpy as np

from npgpt.arrays import Array
from npgpt.model import params
from npgpt.model.backend import Backend, Random
from npgpt.model.kv_cache import Past
from npgpt.model.trainable import is_trained


class Cache(NamedTuple):
    ln_1: Any
    c_attn: Any
    attn: Any
    attn_proj: Any
    attn_drop: Any
    ln_2: Any
    c_fc: Any
    gelu: Any
    mlp_proj: Any
    mlp_drop: Any
    cut: tuple[Any, tuple[int, ...]] | None  # `at`, and the shape of x


def forward(
    x: Array,
    p: params.Block,
    *,
    n_head: int,
    past: Past | None = None,
    rate: float = 0.0,
    rng: Random | None = None,
    at: tuple[Array, Array] | None = None,
    ops: Backend,
) -> tuple[Array, Cache]:
    """(B, T, C) -> (B, T, C). `past`: this block's key/value cache, extended by these positions.

    `at`: rows and positions, (N,) each. Only their output is computed, (N, C).
    """
    h, ln_1 = ops.layernorm.forward(x, p.ln_1)
    h, c_attn = ops.linear.forward(h, p.attn.c_attn)
    h, attn = ops.attention.forward(h, n_head=n_head, past=past, rate=rate, rng=rng)
    cut = None
    if at is not None:  # the other positions were needed for their keys and values
        cut, x, h = (at, x.shape), x[at], h[at]
        rng = None if rng is None else MasksAt(rng, *cut)
    h, attn_proj = ops.linear.forward(h, p.attn.c_proj)
    h, attn_drop = ops.dropout.forward(h, rate=rate, rng=rng)
    x = np.add(x, h, out=h)  # h has no other reference

    h, ln_2 = ops.layernorm.forward(x, p.ln_2)
    h, c_fc = ops.linear.forward(h, p.mlp.c_fc)
    h, gelu = ops.gelu.forward(h)
    h, mlp_proj = ops.linear.forward(h, p.mlp.c_proj)
    h, mlp_drop = ops.dropout.forward(h, rate=rate, rng=rng)
    x = np.add(x, h, out=h)
    return x, Cache(
        ln_1, c_attn, attn, attn_proj, attn_drop, ln_2, c_fc, gelu, mlp_proj, mlp_drop, cut
    )


def backward(dx: Array, c: Cache, g: params.Block, *, ops: Backend) -> Array:
    """(B, T, C) -> (B, T, C). With `at`: (N, C) -> (B, T, C)."""
    dh = ops.dropout.backward(dx, c.mlp_drop)
    dh = ops.linear.backward(dh, c.mlp_proj, g.mlp.c_proj)
    dh = ops.gelu.backward(dh, c.gelu, dx=dh)
    dh = ops.linear.backward(dh, c.c_fc, g.mlp.c_fc)
    dh = ops.layernorm.backward(dh, c.ln_2, g.ln_2, dx=dh)
    dx = np.add(dx, dh, out=dh)  # x went into the MLP and around it: the two add
    if c.attn is None:  # nothing below is trained
        return dx

    dh = ops.dropout.backward(dx, c.attn_drop)
    dh = ops.linear.backward(dh, c.attn_proj, g.attn.c_proj)
    if c.cut is not None:
        dx, dh = spread(dx, *c.cut), spread(dh, *c.cut)
    dh = ops.attention.backward(dh, c.attn)
    dh = ops.linear.backward(dh, c.c_attn, g.attn.c_attn)
    dh = ops.layernorm.backward(dh, c.ln_1, g.ln_1, dx=dh)
    return np.add(dx, dh, out=dh)  # and into attention and around it


class MasksAt:
    """A generator whose masks are those of all positions (B, T, C), at `at` (N, C).

    Dropout of these positions alone then draws and drops the same numbers as that of all.
    """

    def __init__(self, rng: Random, at: Any, shape: tuple[int, ...]):
        self.rng, self.at, self.shape = rng, at, shape

    def bernoulli(self, p: float, shape: Any, *, out: Any = None) -> Array:
        """Return booleans of `shape`, (N, C), drawn as (B, T, C)."""
        return self.rng.bernoulli(p, self.shape)[self.at]


def spread(dx: Array, at: Any, shape: tuple[int, ...]) -> Array:
    """(N, C) -> (B, T, C), which is zero at all positions but these."""
    out = np.zeros(shape, dx.dtype)
    out[at] = dx
    return out


def needed(c: Cache, g: params.Params, index: int) -> Cache | None:
    """Return the part of a block's Cache that backward reaches, by the gradients of the model."""
    below = is_trained((g.wte, g.wpe, g.h[:index]))
    if below or is_trained((g.h[index].ln_1, g.h[index].attn)):
        return c
    first_half = dict.fromkeys(("ln_1", "c_attn", "attn", "attn_proj", "attn_drop"))
    return c._replace(**first_half) if is_trained(g.h[index]) else None
