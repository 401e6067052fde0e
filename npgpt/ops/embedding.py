"""Token embedding plus position embedding.

    out[b, t] = wte[tokens[b, t]] + wpe[start + t]      start may differ for each b

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


def forward(tokens: Array, p: Params, *, start: int | Array = 0, out: Array | None = None):
    """(B, T) integers below V -> (B, T, C). `start` is the position of the first token, or (B,) of
    each row's."""
    T = tokens.shape[-1]
    check(tokens, p, start)
    if np.ndim(start):
        rows = [
            forward(row, p, start=first)[0]
            for row, first in zip(tokens, np.atleast_1d(start), strict=True)
        ]
        return into(out, np.stack(rows)), Cache(tokens)
    return into(out, p.wte[tokens] + p.wpe[start : start + T]), Cache(tokens)


def backward(dout: Array, cache: Cache, g: Params) -> None:
    """(B, T, C) -> None. Write `g.wpe` and *add* to `g.wte`.

    The output head of GPT-2 is the same matrix. The head is first in backward, so its gradient is
    already in `g.wte`. Positions start at 0, as always in training.
    """
    (tokens,) = cache
    T = tokens.shape[-1]
    if g.wte is not None:  # None: frozen
        np.add.at(g.wte, tokens, dout)  # repeated tokens add up; `+=` would keep one of them
    if g.wpe is not None:
        g.wpe[:T] = dout.sum(0)
        g.wpe[T:] = 0


def check(tokens: Array, p: Params, start: int | Array) -> None:
    """Raise IndexError for a token or a position that has no row."""
    check_ids(tokens, len(p.wte), "token id")
    first, end, T_max = np.min(start), np.max(start) + tokens.shape[-1], len(p.wpe)
    if first < 0 or end > T_max:
        raise IndexError(f"positions {first} to {end - 1} are not in the context of {T_max}")
