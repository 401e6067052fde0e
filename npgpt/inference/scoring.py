"""Log-likelihoods of continuations after their contexts, in batches of about equal length.

Continuations of one context, such as the answers to a question, share it: it is read once, and its
key/value cache is forked. Which requests share a batch depends on nothing but the requests.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from npgpt.arrays import Array
from npgpt.errors import InputError
from npgpt.gpt import GPT
from npgpt.model import finite
from npgpt.ops.linear_cross_entropy import IGNORED

TOKENS = 4096  # of a batch, with padding
WORTH = 64  # tokens: a context is read once if this saves as many; half of it gains nothing


class Request(NamedTuple):
    """A context and its continuation, as token ids; neither is empty."""

    context: Sequence[int]
    continuation: Sequence[int]


class Score(NamedTuple):
    """The log-probability of a continuation, and whether greedy generation would write it."""

    log_prob: float
    is_greedy: bool


class Row(NamedTuple):
    """A request, cropped to the end that the model can read."""

    number: int  # of the request
    tokens: Sequence[int]  # context and continuation
    predicted: int  # tokens of the continuation


class Batch(NamedTuple):
    """Rows that are read together: every `copies` adjacent ones begin with one context."""

    rows: list[Row]
    copies: int  # 1 if contexts are not shared
    shared: int  # tokens of each context that are read once


def score(
    model: GPT,
    requests: Sequence[Request],
    *,
    tokens: int = TOKENS,
    rank: int = 0,
    size: int = 1,
    track: Callable[[list[Batch]], Iterable[Batch]] = iter,
) -> Array:
    """Return the score of each request, (N, 2) float64: its log-probability, and 1 if it is greedy.

    A context that is too long loses its first tokens. `tokens`: of a batch. `rank`, `size`: score
    every `size`-th batch; the rows of other batches are 0. `track`: wraps the batches.

    Raises InputError for a continuation longer than the context length, RunError if a
    log-probability is nan or infinite.
    """
    found = np.zeros((len(requests), 2))
    batches = make_batches(requests, model.config.context_length, tokens)
    for batch in track(batches[rank::size]):
        with finite.ignore_overflow():
            log_probs, is_greedy = score_batch(model, batch)
        if not (good := np.isfinite(log_probs)).all():
            wrong = log_probs[~good][0]
            raise finite.error(f"a log-probability is {wrong}", model.params, model.path)
        numbers = [row.number for row in batch.rows]
        found[numbers, 0], found[numbers, 1] = log_probs, is_greedy
    return found


def score_batch(model: GPT, batch: Batch) -> tuple[Array, Any]:
    """Return the log-probability of each row's continuation, (B,), and True if it is greedy."""
    rows, copies, shared = batch
    past = None
    if shared:
        contexts = np.array([row.tokens[:shared] for row in rows[::copies]])
        past = model.kv_cache(len(contexts))
        model.next_logits(contexts, past=past)
        past = model.fork(past, copies)
    T = length(rows) - shared
    inputs, targets = np.empty((len(rows), T), np.int64), np.full((len(rows), T), IGNORED)
    for i, row in enumerate(rows):
        end = len(row.tokens) - 1 - shared
        inputs[i, :end] = row.tokens[shared:-1]
        inputs[i, end:] = row.tokens[-2]  # seen by none, but 0 x nan is nan
        targets[i, end - row.predicted : end] = row.tokens[-row.predicted :]
    first = int((targets != IGNORED).any(0).argmax())
    log_probs, is_greedy = model.log_probs(inputs, targets[:, first:], past=past)
    return log_probs.sum(-1, dtype=np.float64), is_greedy.all(-1)


def make_batches(requests: Sequence[Request], longest: int, tokens: int) -> list[Batch]:
    """Return batches of at most `tokens` tokens, or of one row, the longest rows first.

    A shared context counts for each of its rows: their key/value caches take the memory.
    """
    by_context: dict[tuple[int, ...], list[Row]] = {}
    alone = list[list[Row]]()
    for number, (context, continuation) in enumerate(requests):
        if len(continuation) > longest:
            raise InputError(
                f"a continuation of {len(continuation)} tokens is longer than the context of "
                f"{longest}: score it in windows"
            )
        ids = [*context, *continuation]
        row = Row(number, ids[-longest - 1 :], len(continuation))
        if len(ids) > longest + 1:
            alone.append([row])  # its context is cropped
        else:
            by_context.setdefault(tuple(context), []).append(row)
    groups: dict[int, list[list[Row]]] = {1: alone}  # by the number of rows that share a context
    for context, rows in by_context.items():
        most = max(1, tokens // length(rows))
        for some in (rows[i : i + most] for i in range(0, len(rows), most)):
            if (len(some) - 1) * (len(context) - 1) >= WORTH:
                groups.setdefault(len(some), []).append(some)
            else:
                alone.extend([row] for row in some)
    return [batch for copies, some in groups.items() for batch in fill(some, copies, tokens)]


def fill(groups: list[list[Row]], copies: int, tokens: int) -> Iterator[Batch]:
    """Yield batches of groups of `copies` rows each, the longest first."""

    def context(group: list[Row]) -> int:
        """Return the number of tokens that can be read once: the last one predicts."""
        return len(group[0].tokens) - group[0].predicted - 1 if copies > 1 else 0

    batch, T = list[list[Row]](), 0
    for group in sorted(groups, key=lambda one: (context(one), length(one)), reverse=True):
        T = max(T, length(group))
        if batch and (len(batch) + 1) * copies * T > tokens:
            yield join(batch, copies, context(batch[-1]))
            batch, T = [], length(group)
        batch.append(group)
    if batch:
        yield join(batch, copies, context(batch[-1]))  # the shortest of the contexts


def length(rows: list[Row]) -> int:
    """Return the number of inputs of the longest row."""
    return max(len(row.tokens) - 1 for row in rows)


def join(groups: list[list[Row]], copies: int, shared: int) -> Batch:
    """Return the batch of these groups."""
    return Batch([row for group in groups for row in group], copies, shared)
