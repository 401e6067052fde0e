"""GPT-2: embedding, L blocks, one last LayerNorm, prediction of the next token.

`p` is the tree of parameters (npgpt/model/params.py), `g` that of their gradients, `ops` a backend.
Radford et al. 2019, "Language Models are Unsupervised Multitask Learners".
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from npgpt.arrays import Array
from npgpt.config import Config
from npgpt.model import block
from npgpt.model.backend import Backend, Random
from npgpt.model.kv_cache import LayerCache, Past
from npgpt.model.params import Params, head
from npgpt.model.trainable import is_trained
from npgpt.ops.embedding import Params as Embedding
from npgpt.ops.linear import Params as Linear

OnBlock = Callable[[], object]


def do_nothing() -> None:
    """Do nothing, after a block."""


class HiddenCache(NamedTuple):
    embedding: Any
    drop: Any
    h: list[Any]  # of blocks; None where backward does not reach
    ln_f: Any


class Cache(NamedTuple):
    hidden: HiddenCache
    loss: Any


def loss(
    p: Params,
    tokens: Array,
    targets: Array,
    config: Config,
    *,
    rng: Random | None = None,
    g: Params | None = None,
    ops: Backend,
) -> tuple[np.floating, Cache]:
    """(B, T), (B, T) -> scalar, Cache. Dropout only if a generator is given.

    `g` is the gradient tree later passed to `backward`: the gradient of the output head is written
    into it now, which saves an array of its size.
    """
    x, hidden = hidden_forward(p, tokens, config, rng=rng, g=g, ops=ops)
    dweight = None if g is None else head(g)
    value, head_loss = ops.linear_cross_entropy.forward(
        x, head(p), targets, dweight=dweight, frozen=g is not None and dweight is None
    )
    return value, Cache(hidden, head_loss)


def backward(
    c: Cache, g: Params, *, dloss: float = 1.0, on_block: OnBlock = do_nothing, ops: Backend
) -> None:
    """Write dloss * d(loss)/d(parameter) into every array of `g`."""
    dx = ops.linear_cross_entropy.backward(dloss, c.loss, head(g))
    if g.lm_head is not None and g.wte.weight is not None:
        g.wte.weight.fill(0)  # when tied, the head's gradient is here already, and the two add
    hidden_backward(dx, c.hidden, g, on_block=on_block, ops=ops)


def hidden_forward(
    p: Params,
    tokens: Array,
    config: Config,
    *,
    rng: Random | None = None,
    g: Params | None = None,
    at: tuple[Array, Array] | None = None,
    ops: Backend,
) -> tuple[Array, HiddenCache]:
    """(B, T) -> (B, T, C), the input of the output head, and the Cache of `hidden_backward`.

    `at`: rows and positions, (N,) each. Only these leave the last block: (N, C).
    """
    rate = config.dropout
    x, embedding = ops.embedding.forward(tokens, Embedding(p.wte.weight, p.wpe.weight))
    x, drop = ops.dropout.forward(x, rate=rate, rng=rng)
    h: list[Any] = []
    for p_block in p.h:
        x, cache = block.forward(
            x, p_block, n_head=config.n_head, rate=rate, rng=rng,
            at=at if p_block is p.h[-1] else None, ops=ops,
        )  # fmt: skip
        h.append(cache if g is None else block.needed(cache, g, len(h)))
    x, ln_f = ops.layernorm.forward(x, p.ln_f)
    return x, HiddenCache(embedding, drop, h, ln_f)


def hidden_backward(
    dx: Array, c: HiddenCache, g: Params, *, on_block: OnBlock = do_nothing, ops: Backend
) -> None:
    """(B, T, C) -> None. Write the gradients of all but the output head, and *add* to `g.wte`.

    With `at` in forward, `dx` is (N, C). `on_block()` is called after each block, the last one
    first: the gradients of this block and of all that follows it are final.
    """
    dx = ops.layernorm.backward(dx, c.ln_f, g.ln_f)
    for cache, g_block in zip(reversed(c.h), reversed(g.h), strict=True):
        if cache is None:  # nothing below is trained
            return
        dx = block.backward(dx, cache, g_block, ops=ops)
        on_block()
    if is_trained((g.wte, g.wpe)):
        dx = ops.dropout.backward(dx, c.drop)
        ops.embedding.backward(dx, c.embedding, Embedding(g.wte.weight, g.wpe.weight))


# The functions below keep no cache for backward.


def hidden(
    p: Params,
    tokens: Array,
    config: Config,
    *,
    past: Sequence[Past] | None = None,
    at: tuple[Array, Array] | None = None,
    ops: Backend,
) -> Array:
    """(B, T) -> (B, T, C), the input of the output head.

    `past`: the key/value cache of the positions before `tokens`. `at`: rows and positions, (N,)
    each. Only these leave the last block: (N, C).
    """
    start = past[0].length if past else 0
    x, _ = ops.embedding.forward(tokens, Embedding(p.wte.weight, p.wpe.weight), start=start)
    if past and tokens.shape[1] == 1:
        x = ops.decode.forward(x, p.h, n_head=config.n_head, past=past)
        x = x if at is None else x[at]
    else:
        layers: Sequence[Past | None] = past or [None] * config.n_layer
        blocks = list(zip(p.h, layers, strict=True))
        for i, (p_block, layer) in enumerate(blocks, 1):
            x, _ = block.forward(
                x, p_block, n_head=config.n_head, past=layer,
                at=at if i == len(blocks) else None, ops=ops,
            )  # fmt: skip
    x, _ = ops.layernorm.forward(x, p.ln_f)
    return x


def last_hidden(
    p: Params, tokens: Array, count: int, config: Config, *,
    past: Sequence[Past] | None = None, ops: Backend,
) -> Array:  # fmt: skip
    """(B, T) -> (B, count, C): as `hidden`, for the last positions of each row."""
    B, T = tokens.shape
    at = np.repeat(np.arange(B), count), np.tile(np.arange(T - count, T), B)
    chosen = at if count < T else None  # all of them need not be copied
    return hidden(p, tokens, config, past=past, at=chosen, ops=ops).reshape(B, count, -1)


def logits(
    p: Params, tokens: Array, config: Config, *, past: list[LayerCache] | None = None, ops: Backend
) -> Array:
    """(B, T) -> (B, T, V)"""
    return scores(p, hidden(p, tokens, config, past=past, ops=ops), ops=ops)


def next_logits(
    p: Params, tokens: Array, config: Config, *, past: list[LayerCache] | None = None, ops: Backend
) -> Array:
    """(B, T) -> (B, V), for the token after the last."""
    return scores(p, last_hidden(p, tokens, 1, config, past=past, ops=ops)[:, 0], ops=ops)


def scores(p: Params, x: Array, *, ops: Backend) -> Array:
    """(..., C) -> (..., V): the output head, a linear layer without a bias."""
    out, _ = ops.linear.forward(x, Linear(head(p).T, None))
    return out


def evaluate(
    p: Params, tokens: Array, targets: Array, config: Config, *, ops: Backend
) -> np.floating:
    """(B, T), (B, n) -> scalar: the loss of the last n positions, n <= T, without dropout."""
    x = last_hidden(p, tokens, targets.shape[1], config, ops=ops)
    return ops.linear_cross_entropy.evaluate(x, head(p), targets)


def log_probs(
    p: Params, tokens: Array, targets: Array, config: Config, *,
    past: list[LayerCache] | None = None, ops: Backend,
) -> tuple[Array, Array]:  # fmt: skip
    """(B, T), (B, n) -> (B, n), (B, n) bool: log-probabilities, and True for the most likely."""
    x = last_hidden(p, tokens, targets.shape[1], config, past=past, ops=ops)
    return ops.linear_cross_entropy.log_probs(x, head(p), targets)
