"""Locate the first difference of two models: by parameter, and by layer output on a prompt."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import permutations

import numpy as np

from npgpt import ops as numpy_ops
from npgpt.arrays import Array
from npgpt.errors import InputError
from npgpt.gpt import GPT
from npgpt.model import block, finite, transformer
from npgpt.model.params import head, map_leaves, named
from npgpt.model.trace import Recorder
from npgpt.ops.embedding import Params as Embedding
from npgpt.quantized_matrix import QuantizedMatrix, from_bfloat16, to_bfloat16

ROWS = 4096  # rows of a matrix compared at once
LAST_BITS = 2.0**-22  # relative: two ulp of float32, of a parameter that was written as a text
MULTIPLE = 8  # of the measured rounding error of a layer: as in budget.py
TOLERANCE = 1e-5  # relative, of a transposed, reordered or scaled matrix

ROUNDED: dict[str, Callable[[Array], Array]] = {
    "bfloat16": lambda x: from_bfloat16(to_bfloat16(x)),
    "float16": lambda x: x.astype(np.float16),
}


@dataclass(frozen=True)
class Difference:
    """The difference of two arrays with the same name."""

    name: str
    largest: float  # |a - b|
    relative: float  # the same over the largest |a|
    note: str = ""  # how the second array may have been made from the first
    is_rounding: bool = False  # no number differs by more than rounding explains


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
                rounding = differs_in_last_bits(one, other)
                note = "" if rounding else explain(one, other)
                found = replace(found, note=note, is_rounding=rounding)
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

    One block at a time: `GPT.trace` would hold those of all blocks in memory.
    """
    p, config = gpt.params, gpt.config
    recorder = Recorder(gpt.ops, config, embedding_drops=False)
    ops = recorder.backend
    x, _ = ops.embedding.forward(tokens, Embedding(p.wte.weight, p.wpe.weight))
    for p_block in p.h:
        x, _ = block.forward(x, p_block, n_head=config.n_head, ops=ops)
        yield from take(recorder)
    x, _ = ops.layernorm.forward(x, p.ln_f)
    yield from take(recorder)
    yield "logits", transformer.scores(p, x, ops=gpt.ops)


def take(recorder: Recorder) -> list[tuple[str, Array]]:
    """Return what was recorded since the last call, and forget it with its caches."""
    found = list(recorder.found.items())
    recorder.found.clear()
    recorder.caches.clear()
    return found


def exact_trace(gpt: GPT, tokens: Array) -> Iterator[tuple[str, Array]]:
    """(1, T) -> yield the same as `trace`, in float64. Parameters are widened block by block."""
    p, config = gpt.params, gpt.config

    def widen(leaf: Array | QuantizedMatrix) -> Array:
        return as_float(leaf).astype(np.float64)

    recorder = Recorder(numpy_ops, config, embedding_drops=False)
    ops = recorder.backend
    rows = p.wte.weight
    found = rows.rows(tokens) if isinstance(rows, QuantizedMatrix) else rows[tokens]
    x = found.astype(np.float64) + as_float(p.wpe.weight)[: tokens.shape[1]]
    for p_block in p.h:
        wide = map_leaves(p_block, widen)
        x, _ = block.forward(x, wide, n_head=config.n_head, ops=ops)
        yield from take(recorder)
    x, _ = ops.layernorm.forward(x, map_leaves(p.ln_f, widen))
    yield from take(recorder)
    matrix = as_float(head(p))
    parts = (matrix[i : i + ROWS].astype(np.float64) for i in range(0, len(matrix), ROWS))
    yield "logits", np.concatenate([x @ part.T for part in parts], -1)


def with_budgets(layers: list[Difference], gpt: GPT, tokens: Array) -> list[Difference]:
    """Return the differences of layers from those of `gpt`, with `is_rounding` where it is so.

    The budget of a layer is a multiple of its measured error: its distance from float64.
    """
    found = []
    pairs = zip(layers, trace(gpt, tokens), exact_trace(gpt, tokens), strict=True)
    for one, (_, rounded), (_, exact) in pairs:
        error = float(np.abs(rounded - exact).max(initial=0))
        smallest = float(np.finfo(np.float32).epsneg * np.abs(exact).max(initial=0))
        found.append(replace(one, is_rounding=one.largest <= MULTIPLE * max(error, smallest)))
    return found


@finite.ignore_overflow()
def differs_in_last_bits(a: Array, b: Array) -> bool:
    """Return True if every number differs by at most the last bits of float32."""
    return all((np.abs(x - y) <= LAST_BITS * np.abs(x)).all() for x, y in in_rows(a, b))


def in_rows(a: Array, b: Array) -> Iterator[tuple[Array, Array]]:
    """Yield pairs of at most ROWS rows: wte is large."""
    for start in range(0, len(a), ROWS):
        yield a[start : start + ROWS], b[start : start + ROWS]


@finite.ignore_overflow()
def difference(name: str, a: Array, b: Array) -> Difference:
    """Return the difference of two arrays of the same shape."""
    largest = size = 0.0
    for one, other in in_rows(a, b):
        largest = np.maximum(largest, np.abs(one - other).max(initial=0))  # propagates nan
        size = np.maximum(size, np.abs(one).max(initial=0))
    return Difference(name, float(largest), float(largest / size) if size else float(largest > 0))


def explain(a: Array, b: Array) -> str:
    """Return how `b` may have been made from `a`, or nothing if no simple change explains it."""
    if a.shape == b.shape[::-1] and a.ndim == 2 and close(a, b.T):
        return "transposed"
    for kind, rounded in ROUNDED.items():
        if all((rounded(x) == y).all() for x, y in in_rows(a, b)):
            return f"rounded to {kind}"
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
