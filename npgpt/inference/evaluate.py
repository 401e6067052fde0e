"""Evaluate a model on a text: split it into windows that predict every token but the first once."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice

import numpy as np

from npgpt.arrays import Array
from npgpt.data.mapped_tokens import MappedTokens, spread
from npgpt.data.tokenizer import tokenizer_of
from npgpt.errors import InputError, show
from npgpt.gpt import GPT
from npgpt.model import finite
from npgpt.model.inputs import check_integer, check_kind, check_sequence

Batch = tuple[Array, Array]  # inputs (B, T) and targets (B, n)


def evaluate(
    model: GPT,
    text: str | Sequence[int] | Array | MappedTokens,
    *,
    context_length: int | None = None,
    stride: int | None = None,
    batch_size: int = 2,
    eval_tokens: int | None = None,
    track: Callable[["Batches"], Iterable[Batch]] = iter,
) -> float:
    """Return the loss of a model on a text: the mean over all tokens but the first.

    Parameters
    ----------
    model : GPT
    text : str, (N,) int array-like or MappedTokens
        A text, or its token ids.
    context_length : int, optional
        Tokens per window, default the model's.
    stride : int, optional
        Tokens from the start of one window to the start of the next, default `context_length`. With
        a smaller stride each window predicts only its last `stride` tokens, so that these have a
        longer context; 512 is common for GPT-2.
    batch_size : int, default 2
        Windows per batch. It affects time and memory, not the result.
    eval_tokens : int, optional
        Tokens to predict, in windows that are spread evenly over the text. Default all.
    track : callable, optional
        Wraps the batches, for example `tqdm.tqdm` for a progress bar.

    Returns
    -------
    loss : float
        Mean cross-entropy without dropout, in nats per token. Memory does not grow with the text.

    Raises
    ------
    InputError
        If the text has fewer than two tokens, if a number is out of range, or if a text is given
        and the tokenizer of the model is unknown or has more tokens than its vocabulary.
    RunError
        If the loss of a batch is nan or infinite.
    """
    if not callable(track):
        raise InputError(f"track is {show(track)}, but must be a function of the batches")
    batches = make_batches(
        model, text, context_length=context_length, stride=stride, batch_size=batch_size,
        eval_tokens=eval_tokens,
    )  # fmt: skip
    return mean(batch_losses(model, track(batches)), batches.predicted)


def mean(losses: Iterable[float], count: int) -> float:
    """Return the sum of the losses of all batches, added in their order, per token."""
    total = 0.0
    for loss in losses:  # from Python 3.12 on, sum() rounds in another way
        total += loss
    return total / count


def batch_losses(model: GPT, batches: Iterable[Batch]) -> Iterator[float]:
    """Yield the sum of the losses of each batch. Raises RunError if one is nan or infinite."""
    for inputs, targets in batches:
        with finite.ignore_overflow():
            loss = model.evaluate(inputs, targets)
        if not math.isfinite(loss):
            raise finite.error(f"the loss is {loss}", model.params, model.path)
        yield loss * targets.size


def make_batches(
    model: GPT,
    text: str | Sequence[int] | Array | MappedTokens,
    *,
    context_length: int | None = None,
    stride: int | None = None,
    batch_size: int = 2,
    eval_tokens: int | None = None,
) -> "Batches":
    """Return the batches of `evaluate`. Raises InputError as it does."""
    check_kind("model", model, GPT)
    encoded = encode_text(model, text) if isinstance(text, str) else text
    if isinstance(encoded, MappedTokens):  # whose ids are checked when they are read
        tokens: Array | MappedTokens = encoded
    else:
        tokens = check_sequence(encoded, model.config, "tokens")
    if len(tokens) < 2:
        raise InputError(f"the text must have at least 2 tokens to predict one, got {len(tokens)}")
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
    if eval_tokens is not None:
        eval_tokens = check_integer("eval_tokens", eval_tokens, least=1)
    return Batches(tokens, length, batch_size, stride, eval_tokens)


def encode_text(model: GPT, text: str) -> Array:
    """Return the token ids (N,) of a text under the model's tokenizer."""
    return np.asarray(tokenizer_of(model).encode(text), np.int64)


class Batches:
    """The batches of an evaluation, computed when they are iterated over: inputs (B, T), targets.

    The targets (B, n) are of the last n tokens; n = T in the first window. `stride`: tokens between
    the starts of two windows. If it is the context length, as in the book, the first tokens of
    every window are predicted with almost no context. If it is smaller, n = stride. Windows of
    equal shape share a batch; a shorter last window is alone. With `eval_tokens`, as many windows
    as have that many targets are spread evenly over the text.
    """

    def __init__(
        self,
        tokens: Array | MappedTokens,
        context_length: int,
        batch_size: int,
        stride: int | None = None,
        eval_tokens: int | None = None,
    ):
        self.tokens, self.length, self.batch_size = tokens, context_length, batch_size
        self.stride = context_length if stride is None else stride
        self.end = len(tokens) - 1  # of the inputs
        self.windows = 1 + max(0, -(-(self.end - self.length) // self.stride))
        self.count = self.windows
        if eval_tokens is not None:
            self.count = min(self.windows, max(1, eval_tokens // self.stride))
        first, last = range(min(1, self.count)), range(max(1, self.count - 1), self.count)
        self.runs = list[range]()  # of windows of one shape: only the first and last may differ
        for run in (first, range(len(first), self.count - len(last)), last):
            if self.runs and run and self.shape(run[0]) == self.shape(self.runs[-1][0]):
                self.runs[-1] = range(self.runs[-1].start, run.stop)
            elif run:
                self.runs.append(run)

    @property
    def predicted(self) -> int:
        """The number of tokens that are predicted."""
        return sum(len(run) * self.shape(run[0])[1] for run in self.runs)

    def __len__(self) -> int:
        return sum(-(-len(run) // self.batch_size) for run in self.runs)

    def __iter__(self) -> Iterator[Batch]:
        return map(self.read, self.numbers())

    def numbers(self) -> Iterator[range]:
        """Yield the numbers of the windows of each batch."""
        for run in self.runs:
            for start in range(run.start, run.stop, self.batch_size):
                yield range(start, min(run.stop, start + self.batch_size))

    def bounds(self, number: int) -> tuple[int, int, int]:
        """Return where a window begins, where its targets' inputs begin, and where both end."""
        (index,) = spread([number], self.count, self.windows)
        start = index * self.stride
        before = start - self.stride + self.length if index else 0
        return start, before, min(start + self.length, self.end)

    def shape(self, number: int) -> tuple[int, int]:
        """Return the numbers of inputs and of targets of a window."""
        start, before, end = self.bounds(number)
        return end - start, end - before

    def read(self, numbers: range) -> Batch:
        """Return the batch of windows of one shape."""
        inputs, targets = [], []
        for start, before, end in map(self.bounds, numbers):
            inputs.append(read(self.tokens, start, end))
            targets.append(read(self.tokens, before + 1, end + 1))
        return np.stack(inputs), np.stack(targets)


class Share:
    """Every `size`-th batch of an evaluation, from the batch `rank` on."""

    def __init__(self, batches: Batches, rank: int, size: int):
        self.batches, self.rank, self.size = batches, rank, size

    def __len__(self) -> int:
        return len(range(self.rank, len(self.batches), self.size))

    def __iter__(self) -> Iterator[Batch]:
        own = islice(self.batches.numbers(), self.rank, None, self.size)
        return map(self.batches.read, own)


def read(tokens: Array | MappedTokens, start: int, end: int) -> Array:
    """Return the tokens from `start` to `end`."""
    if isinstance(tokens, MappedTokens):
        return tokens.read(start, end - start)
    return tokens[start:end]


def perplexity(loss: float) -> float:
    """Return exp(loss), or infinity if that overflows: for a loss above 709.78.

    A perplexity of n means the model is as uncertain as between n equally likely tokens.
    """
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf
