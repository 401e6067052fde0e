"""Logit lens: the next token that the stream before each block, and after the last, would predict.

The last LayerNorm and the output head read the stream in the middle, as if the blocks above were
left out. nostalgebraist 2020, "interpreting GPT: the logit lens".
"""

from typing import Any, NamedTuple

import numpy as np

from npgpt.arrays import Array
from npgpt.explain.readout import read
from npgpt.explain.stream import check_text, streams
from npgpt.gpt import GPT


class Lens(NamedTuple):
    tokens: Array  # (T,) int64
    ids: Array  # (L + 1, T, k) int64: row l reads the stream before block l; the last, the output
    probs: Array  # (L + 1, T, k)
    entropy: Array  # (L + 1, T), in nats
    surprise: Array  # (L + 1, T), of the token that follows, in nats; nan at the last position
    rank: Array  # (L + 1, T) int64, of the token that follows, from 0; -1 at the last position
    answer: Array  # (L + 1, T), the probability of the token that the output holds likeliest


def lens(model: GPT, tokens: Any, *, count: int = 5) -> Lens:
    """(T,) -> Lens. Each position has its `count` most likely next tokens, per layer."""
    ids = check_text(model, tokens)
    targets = np.append(ids[1:], -1)
    *below, last = streams(model, ids)
    output = read(model, last[0], count=count, targets=targets)
    answers = output.ids[:, 0]
    found = [
        *(read(model, x[0], count=count, targets=targets, answers=answers) for x in below), output,
    ]  # fmt: skip
    return Lens(ids, *(np.stack(one) for one in zip(*found, strict=True)))
