"""The loss of a split during training: over the book's batches, or over windows that are spread."""

from collections.abc import Callable
from dataclasses import dataclass

from npgpt.arrays import Array
from npgpt.config import Config, TrainingConfig
from npgpt.data.loader import Loader, windows
from npgpt.data.mapped_tokens import (
    MappedTokens,
    MappedWindows,
    MixedTokens,
    require_windows,
    spread,
)
from npgpt.gpt import GPT
from npgpt.rng import Generator

Each = Callable[[Callable[[int], float], int], list[float]]


def one_by_one(function: Callable[[int], float], count: int) -> list[float]:
    """Return the values of a function of 0, 1, ..., count - 1."""
    return [function(i) for i in range(count)]


@dataclass
class FirstBatches:
    """The mean over the first `count` batches of one pass, as in the book; None: over all of them.

    `instead`: windows to evaluate in place of these. The order of the pass is drawn all the same:
    with a shared random stream, what is evaluated does not change the training.
    """

    data: Loader
    count: int | None
    instead: "SpreadWindows | None" = None

    def loss(self, model: GPT, rng: Generator, each: Each = one_by_one) -> float:
        """Return the mean loss of these batches. `each`: evaluates them, as `one_by_one`."""
        order = self.data.order(rng)
        if self.instead is not None:
            return self.instead.loss(model, rng, each)

        def evaluate(i: int) -> float:
            return model.evaluate(*self.data.batch(order, i))

        losses = each(evaluate, min(self.count or len(self.data), len(self.data)))
        return sum(losses) / len(losses)


class SpreadWindows:
    """The mean over windows that are spread evenly over a split, and do not overlap.

    They are the same at each evaluation, and as many as `eval_tokens` have; None: all. Several
    sources share them, and the mean, by their weights; by default, by the windows that they have.
    """

    def __init__(
        self,
        tokens: MappedTokens | MixedTokens,
        context_length: int,
        eval_tokens: int | None,
        batch_size: int,
    ):
        sources = [MappedWindows(one, context_length, context_length) for one in tokens.sources]
        total = sum(map(len, sources))
        count = total if eval_tokens is None else min(total, eval_tokens // context_length)
        weights = tokens.weights or list(map(len, sources))
        self.parts = list[tuple[MappedWindows, int, float]]()  # windows, how many, share
        for source, weight in zip(sources, weights, strict=True):
            share = weight / sum(weights)
            self.parts.append((source, min(len(source), max(1, round(count * share))), share))
        self.batch_size = batch_size

    def loss(self, model: GPT, rng: Generator, each: Each = one_by_one) -> float:
        """Return the mean loss of these windows. Nothing is drawn from `rng`."""
        return sum(share * self.mean(model, windows, n, each) for windows, n, share in self.parts)

    def mean(self, model: GPT, windows: MappedWindows, count: int, each: Each) -> float:
        """Return the mean loss of `count` windows of a source."""

        def evaluate(i: int) -> float:
            numbers = range(count)[i * self.batch_size : (i + 1) * self.batch_size]
            pairs = windows.read(spread(numbers, count, len(windows)))
            return model.evaluate(pairs[:, :-1].copy(), pairs[:, 1:].copy()) * len(numbers)

        return sum(each(evaluate, -(-count // self.batch_size)), 0.0) / count


def make_evaluation(
    tokens: Array | MappedTokens | MixedTokens, training: TrainingConfig, config: Config, what: str
) -> FirstBatches | SpreadWindows:
    """Return the evaluation of the "training" or the "validation" split.

    Raises InputError if a source is too short for one window.
    """
    T, size, limit = config.context_length, training.batch_size, training.eval_tokens
    if isinstance(tokens, MappedTokens | MixedTokens):
        require_windows(tokens, T, what)
        if limit is None and training.eval_batches is not None:
            limit = training.eval_batches * size * T
        return SpreadWindows(tokens, T, limit, size)
    inputs, targets = windows(tokens, T, training.stride or T, what=what)
    shuffle, instead = what == "training", None
    if limit is not None:
        mapped = MappedTokens.of_array(what, tokens, config.vocab_size)
        instead = SpreadWindows(mapped, T, limit, size)
    data = Loader(inputs, targets, batch_size=size, shuffle=shuffle, drop_last=shuffle)
    return FirstBatches(data, training.eval_batches, instead)
