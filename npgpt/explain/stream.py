"""The residual stream of one text, block by block."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from npgpt.arrays import Array
from npgpt.errors import InputError, show
from npgpt.gpt import GPT
from npgpt.model import block, finite, inputs
from npgpt.ops.embedding import Params as Embedding


def check_text(model: GPT, tokens: Any, *, least: int = 1, targeted: bool = False) -> Array:
    """Return the token ids of one text as (T,) int64.

    `targeted`: the last token is only predicted, so that one more may fit.
    Raises InputError if the model cannot read them, or if they are fewer than `least`.
    """
    inputs.check_kind("model", model, GPT)
    ids = np.asarray(tokens)
    if ids.ndim != 1:
        raise InputError(f"tokens must be the token ids of one text, (T,), not {show(tokens)}")
    if len(ids) < least:
        noun = "token" if least == 1 else "tokens"
        raise InputError(f"the text has {len(ids)} tokens, but must have at least {least} {noun}")
    if targeted and len(ids) == model.config.context_length + 1:
        inputs.check_vocabulary(ids[-1:], model.config)
        return np.append(inputs.check_tokens(ids[None, :-1], model.config), ids[-1])
    return inputs.check_tokens(ids[None], model.config)[0]


@finite.ignore_overflow()
def enter(model: GPT, ids: Array) -> Array:
    """(T,) -> (1, T, C): return the sum of both embeddings, which enters the first block."""
    p = model.params
    x, _ = model.ops.embedding.forward(ids[None], Embedding(p.wte.weight, p.wpe.weight))
    return x


def streams(model: GPT, ids: Array) -> Iterator[Array]:
    """(T,) -> L + 1 times (1, T, C): yield the stream before each block, and after the last."""
    x = enter(model, ids)
    yield x
    for p in model.params.h:
        with finite.ignore_overflow():
            x, _ = block.forward(x, p, n_head=model.config.n_head, ops=model.ops)
        yield x
