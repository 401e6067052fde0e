"""Attention's weights: where each position of a text reads from, per layer and head."""

import itertools
from collections.abc import Iterator
from typing import Any

from npgpt.arrays import Array
from npgpt.errors import InputError
from npgpt.explain.stream import check_text, streams
from npgpt.gpt import GPT
from npgpt.model import finite, inputs
from npgpt.ops import attention


def weights(model: GPT, tokens: Any, layer: int) -> Array:
    """(T,) -> (H, T, T): return the weights of one layer. Row t sums to 1 over positions 0 to t.

    The blocks above the layer are not computed. Raises RunError if a weight is nan.
    """
    ids = check_text(model, tokens)
    L = model.config.n_layer
    if not 0 <= inputs.check_integer("layer", layer) < L:
        raise InputError(f"layer is {layer}, but must be from 0 to {L - 1}")
    return weights_of(model, next(itertools.islice(streams(model, ids), layer, None)), layer)


def every_layer(model: GPT, tokens: Any) -> Iterator[Array]:
    """(T,) -> L times (H, T, T): yield the weights of every layer, which need one forward pass."""
    ids = check_text(model, tokens)
    for layer, x in zip(range(model.config.n_layer), streams(model, ids), strict=False):
        yield weights_of(model, x, layer)


@finite.ignore_overflow()
def weights_of(model: GPT, x: Array, layer: int) -> Array:
    """(1, T, C) -> (H, T, T): return the weights of a layer by the stream before it."""
    p, ops = model.params.h[layer], model.ops
    h, _ = ops.layernorm.forward(x, p.ln_1)
    qkv, _ = ops.linear.forward(h, p.attn.c_attn)
    _, cache = attention.forward(qkv, n_head=model.config.n_head)  # of NumPy: others keep less
    if not finite.is_finite(cache.probs):
        what = f"the attention weights of layer {layer} are not finite"
        raise finite.error(what, model.params, model.path)
    return cache.probs[0]
