"""Where do two models first differ? Parameter by parameter, then layer by layer on a prompt."""

from collections.abc import Iterator
from itertools import permutations
from typing import NamedTuple

import numpy as np

from npgpt.arrays import Array
from npgpt.errors import InputError
from npgpt.gpt import GPT
from npgpt.model import block, transformer
from npgpt.model.params import named
from npgpt.ops.embedding import Params as Embedding
from npgpt.quantized_matrix import QuantizedMatrix

ROWS = 4096  # rows of a matrix compared at once
CLOSE = 1e-5  # relative: how near a transposed or reordered matrix has to come


class Difference(NamedTuple):
    """Between two arrays of one name."""

    name: str
    largest: float  # |a - b|; nan if one of the two has a nan there
    relative: float  # the same over the largest |a|
    note: str = ""  # what one would have to do to the second to get the first


def parameters(a: GPT, b: GPT) -> Iterator[Difference]:
    """One Difference for every parameter that either has.

    Raises InputError where the two have not the same sizes.
    """
    ours, theirs = dict(named(a.params)), dict(named(b.params))  # in fewer bits, maybe
    for name in ("vocab_size", "context_length", "n_layer", "n_head", "n_embd"):
        one, other = getattr(a.config, name), getattr(b.config, name)
        if one != other:
            raise InputError(f"the first model's {name} is {one}, the second's {other}")
    for name in [*ours, *(name for name in theirs if name not in ours)]:
        if name in ours and name in theirs:
            one, other = wide(ours[name]), wide(theirs[name])
            found = difference(name, one, other)
            yield found if found.largest == 0 else found._replace(note=guess(one, other))
        else:
            there = wide(ours.get(name, theirs.get(name)))
            largest = float(np.abs(there).max())
            who = "first" if name in ours else "second"
            yield Difference(name, largest, 1.0 if largest else 0.0, f"only the {who} has it")


def wide(leaf) -> Array:
    """A parameter as the float32 numbers that it stands for."""
    return leaf.widen() if isinstance(leaf, QuantizedMatrix) else leaf


def layers(a: GPT, b: GPT, tokens: Array) -> Iterator[Difference]:
    """(1, T) -> one Difference for the output of every layer, in the order of computation."""
    for (name, one), (_, other) in zip(trace(a, tokens), trace(b, tokens), strict=True):
        yield difference(name, one, other)


def trace(gpt: GPT, tokens: Array) -> Iterator[tuple[str, Array]]:
    """(1, T) -> the name and the output of every layer."""
    p, config, ops = gpt.params, gpt.config, gpt.ops
    x, _ = ops.embedding.forward(tokens, Embedding(p.wte.weight, p.wpe.weight))
    yield "wte + wpe", x
    for i, p_block in enumerate(p.h):
        x, c = block.forward(x, p_block, n_head=config.n_head, ops=ops)
        yield f"h.{i}.ln_1", c.c_attn.x
        yield f"h.{i}.attn.c_attn", c.attn.qkv
        yield f"h.{i}.attn, heads", c.attn_proj.x
        yield f"h.{i} after attention", c.ln_2.x
        yield f"h.{i}.ln_2", c.c_fc.x
        yield f"h.{i}.mlp.c_fc", c.gelu.x
        yield f"h.{i}.mlp, gelu", c.mlp_proj.x
        yield f"h.{i} after mlp", x
    x, _ = ops.layernorm.forward(x, p.ln_f)
    yield "ln_f", x
    yield "logits", transformer.scores(p, x, ops=ops)


def difference(name: str, a: Array, b: Array) -> Difference:
    """How far two arrays of one shape are apart."""
    largest = size = 0.0
    for start in range(0, len(a), ROWS):  # a piece at a time, because wte is large
        one, other = a[start : start + ROWS], b[start : start + ROWS]
        largest = np.maximum(largest, np.abs(one - other).max(initial=0))  # keeps a nan
        size = np.maximum(size, np.abs(one).max(initial=0))
    if np.isnan(largest) and np.array_equal(a, b, equal_nan=True):
        largest = 0.0
    return Difference(name, float(largest), float(largest / size) if size else float(largest > 0))


def guess(a: Array, b: Array) -> str:
    """What may have been done to `a` to make `b` of it."""
    if a.shape == b.shape[::-1] and a.ndim == 2 and close(a, b.T):
        return "transposed"
    for order in permutations(range(3)):
        if a.shape[-1] % 3 == 0 and order != (0, 1, 2):
            parts = np.split(b, 3, -1)
            if close(a, np.concatenate([parts[i] for i in order], -1)):
                return "its three thirds (query, key, value) are in another order"
    scale = float(a.reshape(-1)[:ROWS] @ b.reshape(-1)[:ROWS])
    scale /= float(a.reshape(-1)[:ROWS] @ a.reshape(-1)[:ROWS]) or 1.0
    if scale and abs(scale - 1) > CLOSE and close(a * np.asarray(scale, a.dtype), b):
        return f"{scale:.4g} times the first"
    return ""


def close(a: Array, b: Array) -> bool:
    """Are they the same but for rounding?"""
    few = a[:16], b[:16]  # which settles it nearly always
    return all(difference("", *pair).relative <= CLOSE for pair in (few, (a, b)))
