"""A text as windows in which every token but the first is predicted once."""

import numpy as np

from npgpt.arrays import Array
from npgpt.errors import InputError
from npgpt.gpt import GPT
from npgpt.tokens import encode, tokenizer


def tokens_of(model: GPT, text: str) -> Array:
    """The ids (N,) of a text under the model's own tokenizer."""
    tokens = np.asarray(encode(tokenizer(model.tokenizer or "gpt2"), text), np.int64)
    if len(tokens) < 2:
        raise InputError(f"the text has {len(tokens)} token: there is no second one to predict")
    return tokens


def batches(tokens: Array, context_length: int, batch_size: int) -> list[tuple[Array, Array]]:
    """Inputs and targets (B, T), one after the other; a last, shorter window stands alone."""
    inputs, targets = tokens[:-1], tokens[1:]
    whole = len(inputs) // context_length
    cut = whole * context_length
    pairs = []
    if whole:
        split = range(batch_size, whole, batch_size)
        both = (a[:cut].reshape(whole, context_length) for a in (inputs, targets))
        pairs += zip(*(np.split(a, split) for a in both), strict=True)
    if cut < len(inputs):
        pairs.append((inputs[None, cut:], targets[None, cut:]))
    return pairs
