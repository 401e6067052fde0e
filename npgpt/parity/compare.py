"""Locate the first difference of two models: by parameter, and by layer output on a prompt."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import permutations

import numpy as np

from npgpt.arrays import Array
from npgpt.errors import InputError
from npgpt.gpt import GPT
from npgpt.model import block, finite, transformer
from npgpt.model.params import named
from npgpt.ops.embedding import Params as Embedding
from npgpt.quantized_matrix import QuantizedMatrix

ROWS = 4096  # rows of a matrix compared at once
TOLERANCE = 1e-5  # relative, of a transposed, reordered or scaled matrix


@dataclass(frozen=True)
class Difference:
    """The difference of two arrays with the same name."""

    name: str
    largest: float  # |a - b|
    relative: float  # the same over the largest |a|
    note: str = ""  # how the second array may have been made from the first


def compare_parameters(a: GPT, b: GPT) -> Iterator[Difference]:
    """Yield one Difference for every parameter that at least one of the models has.

    Raises InputError if the models differ in size, and RunError if a number is nan or infinite.
    """
    first, second = dict(named(a.params)), dict(named(b.params))
    for name in ("vocab_size", "context_length", "n_layer", "n_head", "n_embd"):
        one, other = getattr(a.config, name), getattr(b.config, name)
        if one != other:
            raise InputError(f"the models differ in size: {name} is {one} and {other}")
    for name in [*first, *(name for name in second if name not in first)]:
        if name in first and name in second:
            one, other = as_float(first[name]), as_float(second[name])
            found = difference(name, one, other)
            if found.largest != 0 and np.isfinite(found.largest):
                found = replace(found, note=explain(one, other))
        else:
            owner, tree = ("first", first) if name in first else ("second", second)
            largest = float(np.abs(as_float(tree[name])).max())
            found = Difference(name, largest, 1.0 if largest else 0.0, f"only in the {owner} model")
        if not np.isfinite(found.largest):
            require_finite("parameters", (a, first.get(name)), (b, second.get(name)))
        yield found


def as_float(leaf: Array | QuantizedMatrix) -> Array:
    """Return a parameter as a float array; a quantized matrix is widened."""
    return leaf.widen() if isinstance(leaf, QuantizedMatrix) else leaf


def compare_layers(a: GPT, b: GPT, tokens: Array) -> Iterator[Difference]:
    """(1, T) -> yield one Difference for the output of each layer, in the order of computation.

    Raises RunError if an output is nan or infinite.
    """
    for (name, one), (_, other) in zip(trace(a, tokens), trace(b, tokens), strict=True):
        require_finite(f"outputs of {name}", (a, one), (b, other))
        yield difference(name, one, other)


def require_finite(what: str, *pairs: tuple[GPT, Array | QuantizedMatrix | None]) -> None:
    """Raise RunError unless all numbers of each model's array are finite."""
    for model, array in pairs:
        if array is not None and not finite.is_finite(array):
            message = f"the models cannot be compared, because {what} are nan or infinite"
            raise finite.error(message, model.params, model.path)


def trace(gpt: GPT, tokens: Array) -> Iterator[tuple[str, Array]]:
    """(1, T) -> yield the name and the output of each layer, named as in `GPT.trace`.

    One layer at a time: `GPT.trace` would hold those of all layers in memory.
    """
    p, config, ops = gpt.params, gpt.config, gpt.ops
    x, _ = ops.embedding.forward(tokens, Embedding(p.wte.weight, p.wpe.weight))
    yield "embedding", x
    for i, p_block in enumerate(p.h):
        x, c = block.forward(x, p_block, n_head=config.n_head, ops=ops)
        yield f"h.{i}.ln_1", c.c_attn.x
        yield f"h.{i}.attn.c_attn", c.attn.qkv
        yield f"h.{i}.attn.heads", c.attn_proj.x
        yield f"h.{i}.after_attn", c.ln_2.x
        yield f"h.{i}.ln_2", c.c_fc.x
        yield f"h.{i}.mlp.c_fc", c.gelu.x
        yield f"h.{i}.mlp.gelu", c.mlp_proj.x
        yield f"h.{i}.after_mlp", x
    x, _ = ops.layernorm.forward(x, p.ln_f)
    yield "ln_f", x
    yield "logits", transformer.scores(p, x, ops=ops)


@finite.ignore_overflow()
def difference(name: str, a: Array, b: Array) -> Difference:
    """Return the difference of two arrays of the same shape."""
    largest = size = 0.0
    for start in range(0, len(a), ROWS):  # in pieces, because wte is large
        one, other = a[start : start + ROWS], b[start : start + ROWS]
        largest = np.maximum(largest, np.abs(one - other).max(initial=0))  # propagates nan
        size = np.maximum(size, np.abs(one).max(initial=0))
    return Difference(name, float(largest), float(largest / size) if size else float(largest > 0))


def explain(a: Array, b: Array) -> str:
    """Return how `b` may have been made from `a`, or nothing if no simple change explains it."""
    if a.shape == b.shape[::-1] and a.ndim == 2 and close(a, b.T):
        return "transposed"
    for order in permutations(range(3)):
        if a.shape[-1] % 3 == 0 and order != (0, 1, 2):
            parts = np.split(b, 3, -1)
            if close(a, np.concatenate([parts[i] for i in order], -1)):
                return "query, key and value in another order"
    scale = float(a.reshape(-1)[:ROWS] @ b.reshape(-1)[:ROWS])
    scale /= float(a.reshape(-1)[:ROWS] @ a.reshape(-1)[:ROWS]) or 1.0
    if scale and abs(scale - 1) > TOLERANCE and close(a * np.asarray(scale, a.dtype), b):
        return f"{scale:.4g} times the first"
    return ""


def close(a: Array, b: Array) -> bool:
    """Return True if the arrays are equal up to rounding."""
    head = a[:16], b[:16]  # cheap, and nearly always enough to tell them apart
    return all(difference("", *pair).relative <= TOLERANCE for pair in (head, (a, b)))
