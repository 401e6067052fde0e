"""The most likely next tokens of rows of the residual stream."""

from typing import NamedTuple

import numpy as np

from npgpt.arrays import Array
from npgpt.gpt import GPT
from npgpt.model import finite, transformer
from npgpt.ops.attention import softmax

MOST_LOGITS = 1 << 24  # computed at a time: 64 MB


class Readout(NamedTuple):
    ids: Array  # (N, k) int64, the most likely tokens first
    probs: Array  # (N, k)
    entropy: Array  # (N,), of the whole distribution, in nats
    surprise: Array  # (N,), -log of the probability of the row's target, in nats; nan without one
    rank: Array  # (N,) int64, how many tokens are more likely than the target; -1 without one
    answer: Array  # (N,), the probability of the row's answer; by default of its likeliest token


@finite.ignore_overflow()
def read(
    model: GPT, x: Array, *, count: int, targets: Array, answers: Array | None = None
) -> Readout:
    """(N, C), (N,) -> Readout. A row of the stream is normalized, and multiplied with the head.

    `targets` are token ids, or -1 for a row without one; `answers` are token ids. Raises RunError
    if a logit is nan.
    """
    parts = [
        read_part(model, x[rows], count, targets[rows], None if answers is None else answers[rows])
        for rows in slices(len(x), MOST_LOGITS // model.config.vocab_size)
    ]
    return Readout(*(np.concatenate(one) for one in zip(*parts, strict=True)))


def slices(N: int, size: int) -> list[slice]:
    """Return consecutive slices of at most `size` rows, and of at least one, that cover 0..N."""
    size = max(1, size)
    return [slice(start, start + size) for start in range(0, N, size)]


def read_part(model: GPT, x: Array, count: int, targets: Array, answers: Array | None) -> Readout:
    """(N, C), (N,) -> Readout, with all (N, V) logits at once."""
    x, _ = model.ops.layernorm.forward(np.ascontiguousarray(x), model.params.ln_f)
    probs = distribution(model, transformer.scores(model.params, x, ops=model.ops))
    rows, targeted = np.arange(len(x)), targets >= 0
    ids = most_likely(probs, count)
    found = probs[rows, np.where(targeted, targets, 0)]
    logs = np.log(probs, out=np.zeros_like(probs), where=probs > 0)
    return Readout(
        ids,
        np.take_along_axis(probs, ids, -1),
        -(probs * logs).sum(-1),
        np.where(targeted, -np.log(found), np.nan),
        np.where(targeted, (probs > found[:, None]).sum(-1), -1),
        probs[rows, ids[:, 0] if answers is None else answers],
    )


def distribution(model: GPT, logits: Array) -> Array:
    """(N, V) -> (N, V) float64: return softmax(logits).

    Raises RunError if the largest logit of a row is nan or infinite.
    """
    largest = logits.max(-1)  # nan if any logit is
    if not (known := np.isfinite(largest)).all():
        what = f"the logits are {largest[~known][0]}"
        raise finite.error(what, model.params, model.path)
    return softmax(logits.astype(np.float64))


def most_likely(probs: Array, count: int) -> Array:
    """(N, V) -> (N, count) int64: return the ids of the largest, in descending order."""
    count = min(count, probs.shape[-1])
    some = np.argpartition(-probs, count - 1, axis=-1)[:, :count]
    order = np.lexsort((some, -np.take_along_axis(probs, some, -1)))  # of two equals, the lower id
    return np.take_along_axis(some, order, -1)
