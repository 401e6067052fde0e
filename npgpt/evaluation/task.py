"""An evaluation task: items of a file, the requests of each, and metrics of their scores."""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from npgpt.data.tokenizer import Tokenizer
from npgpt.errors import InputError
from npgpt.evaluation.lines import Record
from npgpt.inference.scoring import Request, Score


class Item(NamedTuple):
    """A text, a question or a document: its requests, and the numbers that its metrics need."""

    requests: list[Request]
    about: Any = None


class Scored(NamedTuple):
    """The scores of an item's requests."""

    scores: list[Score]
    about: Any


class Metric(NamedTuple):
    """A number, with its standard error: nan if it cannot be estimated from one item."""

    name: str
    value: float
    error: float


class Task(NamedTuple):
    """A task in one protocol."""

    name: str
    protocol: str
    method: str  # one line
    unit: str  # of the items, such as "text"
    read: Callable[[str | Path], Iterator[Record]]
    make_item: Callable[[Record, Tokenizer, int], Item]  # the last one: the context length
    measure: Callable[[list[Scored]], list[Metric]]


def read_items(
    task: Task, path: str | Path, tokenizer: Tokenizer, length: int, limit: int | None = None
) -> list[Item]:
    """Return the items of a file, the first `limit` of them. `length`: of the model's context.

    Raises InputError for a line that is no item, with its number.
    """
    items = list[Item]()
    for record in islice(task.read(path), limit):
        try:
            item = task.make_item(record, tokenizer, length)
        except ValueError as error:  # of the contents; InputError has its own message
            if isinstance(error, InputError):
                raise
            raise record.error(str(error)) from None
        longest = max((len(request.continuation) for request in item.requests), default=0)
        if longest > length:
            raise record.error(f"{longest} tokens to predict, but the context length is {length}")
        items.append(item)
    return items


def join_requests(items: Sequence[Item]) -> list[Request]:
    """Return the requests of all items, in order."""
    return [request for item in items for request in item.requests]


def measure(task: Task, items: Sequence[Item], scores: np.ndarray) -> list[Metric]:
    """Return the metrics. `scores`: (N, 2), of `join_requests(items)`."""
    found = (Score(float(log_prob), bool(greedy)) for log_prob, greedy in scores)
    return task.measure(
        [Scored(list(islice(found, len(item.requests))), item.about) for item in items]
    )


def mean(name: str, values: Sequence[float]) -> Metric:
    """Return the mean of a number per item."""
    numbers = np.array(values, np.float64)
    return Metric(name, float(numbers.mean()), standard_error(numbers))


def perplexity(name: str, log_probs: Sequence[float], counts: Sequence[float]) -> Metric:
    """Return exp(-sum of log-probabilities / sum of counts), such as words, over items.

    The standard error is that of a ratio of two means, to first order (the delta method).
    """
    sums, sizes = np.array(log_probs, np.float64), np.array(counts, np.float64)
    rate = float(sums.sum() / sizes.sum())
    error = standard_error((sums - rate * sizes) / sizes.mean())
    value = exp(-rate)
    return Metric(name, value, value * error)


def standard_error(numbers: np.ndarray) -> float:
    """Return the standard error of the mean, nan for a single number."""
    if len(numbers) < 2:
        return math.nan
    return float(numbers.std(ddof=1) / math.sqrt(len(numbers)))


def exp(number: float) -> float:
    """Return e**number, or infinity if that overflows."""
    try:
        return math.exp(number)
    except OverflowError:
        return math.inf
