"""A text as windows in which every token but the first is predicted once."""

import math

import numpy as np

from npgpt.arrays import Array
from npgpt.data.tokenizer import encode, tokenizer
from npgpt.errors import InputError
from npgpt.gpt import GPT


def tokens_of(model: GPT, text: str) -> Array:
    """The ids (N,) of a text under the model's own tokenizer."""
    tokens = np.asarray(encode(tokenizer(model.tokenizer or "gpt2"), text), np.int64)
    if len(tokens) < 2:
        raise InputError(f"the text has {len(tokens)} token: there is no second one to predict")
    return tokens


def batches(
    tokens: Array, context_length: int, batch_size: int, stride: int | None = None
) -> list[tuple[Array, Array]]:
    """Inputs (B, T) and the targets (B, n) of their last n tokens, n = T in the first window.

    `stride`: tokens from one window to the next, by default the context length, as in the book:
    then every window begins with nothing to go on. A smaller one shows each window what stands
    before the `stride` tokens that it predicts. A last, shorter window stands alone.
    """
    stride = context_length if stride is None else stride
    inputs, targets = tokens[:-1], tokens[1:]
    end, windows = 0, []
    for start in range(0, len(inputs), stride):
        before, end = end, min(start + context_length, len(inputs))
        windows.append((inputs[start:end], targets[before:end]))
        if end == len(inputs):
            break
    batches = []
    while windows:
        shapes = [tuple(map(len, window)) for window in windows[:batch_size]]
        alike = sum(shape == shapes[0] for shape in shapes)
        batches.append(tuple(np.stack(part) for part in zip(*windows[:alike], strict=True)))
        windows = windows[alike:]
    return batches


def perplexity(loss: float) -> float:
    """exp(loss): between how many equally likely tokens the model hesitates."""
    return math.exp(loss) if loss < 700 else math.inf
