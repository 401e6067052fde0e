"""The distribution of the next token: before and after each filter, and draws from it.

The order is that of npgpt/inference/sampling.py: top-k, temperature, top-p, then one draw.
"""

from typing import Any, NamedTuple

import numpy as np

from npgpt.arrays import Array
from npgpt.explain.readout import slices
from npgpt.explain.stream import check_text
from npgpt.gpt import GPT
from npgpt.inference import sampling
from npgpt.model import finite
from npgpt.rng import Generator

MOST_DRAWN = 1 << 20  # random numbers drawn at a time


class Filters(NamedTuple):
    plain: Array  # (V,), softmax(logits)
    top_k: Array  # (V,), of the k largest logits
    temperature: Array  # (V,), of these, divided by the temperature
    top_p: Array  # (V,), the probabilities that a token is drawn with


# The logits of the book's example, chapter 5, and its vocabulary
BOOK_WORDS = "closer", "every", "effort", "forward", "inches", "moves", "pizza", "toward", "you"
BOOK_LOGITS = np.array([4.51, 0.89, -1.90, 6.75, 1.63, -1.62, -1.89, 6.28, 1.79], np.float32)


@finite.ignore_overflow()
def logits(model: GPT, tokens: Any) -> Array:
    """(T,) -> (V,): return the logits of the token after a text.

    Raises RunError if one is nan, or the largest infinite.
    """
    found = model.next_logits(check_text(model, tokens)[None])[0]
    if not np.isfinite(largest := found.max()):
        raise finite.error(f"the logits are {largest}", model.params, model.path)
    return found


def filters(
    logits: Array, *, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None
) -> Filters:
    """(V,) -> Filters: return the distribution before and after each filter, in their order.

    Temperature 0 is greedy: the first of the largest logits has probability 1.
    """
    sampling.Sampling(temperature, top_k, top_p)  # checks them
    row = logits[None]
    plain = sampling.probabilities(row, 1.0)[0]
    kept = sampling.probabilities(row, 1.0, top_k=top_k)[0]
    if temperature == 0:
        greedy = np.zeros_like(plain)
        greedy[sampling.next_token(row)[0]] = 1
        return Filters(plain, kept, greedy, greedy)
    return Filters(
        plain,
        kept,
        sampling.probabilities(row, temperature, top_k=top_k)[0],
        sampling.probabilities(row, temperature, top_k=top_k, top_p=top_p)[0],
    )


def draws(probs: Array, count: int, rng: Generator) -> Array:
    """(V,) -> (count,) int64: draw tokens one after the other, as `npgpt.generate` draws one."""
    return np.concatenate([
        rng.multinomial(np.broadcast_to(probs, (len(range(count)[rows]), len(probs))))
        for rows in slices(count, MOST_DRAWN // len(probs))
    ])  # fmt: skip
