"""Evaluate a model on a text: split it into windows that predict every token but the first once."""

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from npgpt.arrays import Array
from npgpt.data.tokenizer import tokenizer_of
from npgpt.errors import InputError, show
from npgpt.gpt import GPT
from npgpt.model import finite
from npgpt.model.inputs import check_integer, check_kind, check_sequence

Batch = tuple[Array, Array]  # inputs (B, T) and targets (B, n)


def evaluate(
    model: GPT,
    text: str | Sequence[int] | Array,
    *,
    context_length: int | None = None,
    stride: int | None = None,
    batch_size: int = 2,
    track: Callable[[list[Batch]], Iterable[Batch]] = iter,
) -> float:
    """Return the loss of a model on a text: the mean over all tokens but the first.

    Parameters
    ----------
    model : GPT
    text : str or (N,) int array-like
        A text, or its token ids.
    context_length : int, optional
        Tokens per window, default the model's.
    stride : int, optional
        Tokens from the start of one window to the start of the next, default `context_length`. With
        a smaller stride each window predicts only its last `stride` tokens, so that these have a
        longer context; 512 is common for GPT-2.
    batch_size : int, default 2
        Windows per batch. It affects time and memory, not the result.
    track : callable, optional
        Wraps the list of batches, for example `tqdm.tqdm` for a progress bar.

    Returns
    -------
    loss : float
        Mean cross-entropy without dropout, in nats per token.

    Raises
    ------
    InputError
        If the text has fewer than two tokens, if a number is out of range, or if a text is given
        and the tokenizer of the model is unknown or has more tokens than its vocabulary.
    RunError
        If the loss of a batch is nan or infinite.
    """
    check_kind("model", model, GPT)
    encoded = encode_text(model, text) if isinstance(text, str) else text
    tokens = check_sequence(encoded, model.config, "tokens")
    if len(tokens) < 2:
        raise InputError(f"the text must have at least 2 tokens to predict one, got {tokens.size}")
    if not callable(track):
        raise InputError(f"track is {show(track)}, but must be a function of a list")
    longest = model.config.context_length
    batch_size = check_integer("batch_size", batch_size, least=1)
    length = longest if context_length is None else context_length
    length = check_integer("context_length", length, least=1)
    stride = check_integer("stride", length if stride is None else stride, least=1)
    if length > longest:
        shown = show(length)
        raise InputError(f"context_length is {shown}, but must be at most the model's {longest}")
    if stride > length:
        raise InputError(
            f"stride is {show(stride)}, but must be at most the context length {length}: "
            "tokens between two windows would be left out"
        )
    total, count = 0.0, 0
    for inputs, targets in track(batches(tokens, length, batch_size, stride)):
        with finite.ignore_overflow():
            loss = model.evaluate(inputs, targets)
        if not math.isfinite(loss):
            raise finite.error(f"the loss is {loss}", model.params, model.path)
        total += loss * targets.size
        count += targets.size
    return total / count


def encode_text(model: GPT, text: str) -> Array:
    """Return the token ids (N,) of a text under the model's tokenizer."""
    return np.asarray(tokenizer_of(model).encode(text), np.int64)


def batches(
    tokens: Array, context_length: int, batch_size: int, stride: int | None = None
) -> list[Batch]:
    """Return inputs (B, T) and the targets (B, n) of their last n tokens; n = T in the first.

    `stride`: tokens between the starts of two windows, by default the context length, as in the
    book: then the first tokens of every window are predicted with almost no context. With a smaller
    stride, n = stride. Windows of equal shape share a batch; a shorter last window is alone.
    """
    stride = context_length if stride is None else stride
    inputs, targets = tokens[:-1], tokens[1:]
    end, windows = 0, []
    for start in range(0, len(inputs), stride):
        before, end = end, min(start + context_length, len(inputs))
        windows.append((inputs[start:end], targets[before:end]))
        if end == len(inputs):
            break
    found = []
    while windows:
        shapes = [tuple(map(len, window)) for window in windows[:batch_size]]
        equal = sum(shape == shapes[0] for shape in shapes)
        x, y = zip(*windows[:equal], strict=True)
        found.append((np.stack(x), np.stack(y)))
        windows = windows[equal:]
    return found


def perplexity(loss: float) -> float:
    """Return exp(loss), or infinity if that overflows: for a loss above 709.78.

    A perplexity of n means the model is as uncertain as between n equally likely tokens.
    """
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf
