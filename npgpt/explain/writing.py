"""A text, token by token: the surprise of each, and the most likely tokens at each position."""

from typing import Any, NamedTuple

import numpy as np

from npgpt.arrays import Array
from npgpt.explain.readout import read
from npgpt.explain.stream import check_text, streams
from npgpt.gpt import GPT


class Reading(NamedTuple):
    tokens: Array  # (T,) int64
    surprise: Array  # (T,), -log of a token's probability after those before it, in nats
    rank: Array  # (T,) int64, how many tokens were more likely
    ids: Array  # (T + 1, k) int64: row t has the most likely tokens at position t
    probs: Array  # (T + 1, k)
    entropy: Array  # (T + 1,), of the distribution at position t, in nats


def reading(model: GPT, tokens: Any, *, count: int = 10) -> Reading:
    """(T,) -> Reading, in one forward pass.

    Row 0 is the first token, which nothing predicts: its surprise and entropy are nan, its rank is
    -1, and its `ids` are -1 with a probability of 0. Row T is the token after the last.
    """
    ids = check_text(model, tokens)
    *_, x = streams(model, ids)
    found = read(model, x[0], count=count, targets=np.append(ids[1:], -1))
    return Reading(
        ids,
        np.append(np.nan, found.surprise[:-1]),
        np.append(-1, found.rank[:-1]),
        np.pad(found.ids, ((1, 0), (0, 0)), constant_values=-1),
        np.pad(found.probs, ((1, 0), (0, 0))),
        np.append(np.nan, found.entropy),
    )
