"""Token embedding plus position embedding.

    out[b, t] = wte[tokens[b, t]] + wpe[start + t]

Like torch.nn.functional.embedding twice, added. Derivation: docs/ops/embedding.md
"""

from typing import NamedTuple

import numpy as np

from npgpt.arrays import Array, check_ids, into


class Params(NamedTuple):
    wte: Array  # (V, C)
    wpe: Array  # (T_max, C)


class Cache(NamedTuple):
    tokens: Array  # (B, T) int


def forward(tokens: Array, p: Params, *, start: int = 0, out: Array | None = None):
    """(B, T) integers below V -> (B, T, C). `start` is the position of the first token."""
    T = tokens.shape[-1]
    check(tokens, p, start)
    return into(out, p.wte[tokens] + p.wpe[start : start + T]), Cache(tokens)


def backward(dout: Array, cache: Cache, g: Params) -> None:
    """(B, T, C) -> None. Write `g.wpe` and *add* to `g.wte`.

    The output head of GPT-2 is the same matrix. The head is first in backward, so its gradient is
    already in `g.wte`. Positions start at 0, as always in training.
    """
    (tokens,) = cache
    T = tokens.shape[-1]
    np.add.at(g.wte, tokens, dout)  # repeated tokens add up; `+=` would keep one of them
    g.wpe[:T] = dout.sum(0)
    g.wpe[T:] = 0


def check(tokens: Array, p: Params, start: int) -> None:
    """Raise IndexError for a token or a position that has no row."""
    check_ids(tokens, len(p.wte), "token id")
    T, T_max = tokens.shape[-1], len(p.wpe)
    if start < 0 or start + T > T_max:
        raise IndexError(f"positions {start} to {start + T - 1} are not in the context of {T_max}")
