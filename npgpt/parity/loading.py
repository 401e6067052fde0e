"""Parameters that a port has loaded wrongly: which numbers of the probe they have instead."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import permutations

import numpy as np

from npgpt.arrays import Array
from npgpt.config import Config
from npgpt.model.params import map_leaves, named, shapes, size
from npgpt.parity.budget import Layouts, closest, largest_of
from npgpt.parity.mistakes import MISTAKES, VARIANTS, Mistake
from npgpt.parity.port import RIGHT
from npgpt.parity.probe import Probe
from npgpt.parity.rounding import EPS, ROUND

KNOWN = 1 << 20  # parameters of a model that is loaded with every mistake, at most
TIE = "npgpt.parity.steps:tie"
PARTS = "qkv"
CLOSE = 4 * EPS["float32"]  # relative to the largest number
ROUGH = 2.0**-8
FEW = 0.9  # of the numbers are right where the others are counted
TRANSPOSED = "transposed"
RESHAPED = "reshaped from (in, out) to (out, in) in place of transposed"
LIKE = "the numbers of "


@dataclass(frozen=True)
class Loaded:
    """Parameters of the port that are not the probe's, and a phrase about their numbers."""

    names: tuple[str, ...]  # canonical, without the kind
    says: str  # "transposed"


def explain(wrong: Sequence[str], own: Mapping[str, Layouts], probe: Probe) -> tuple[Loaded, ...]:
    """Return what the port's wrong parameters are. `wrong`: names, without the kind."""
    expected = dict(named(probe.params))
    groups: dict[str, list[str]] = {}
    for name in wrong:
        found = closest(own[f"param/{name}"], expected[name])
        says = describe(name, found, expected, probe)
        groups.setdefault(says, []).append(name)
    if RESHAPED in groups and TRANSPOSED in groups:  # of a square matrix, the two are the same
        groups[RESHAPED] += groups.pop(TRANSPOSED)
    return tuple(Loaded(tuple(names), says) for says, names in groups.items())


def describe(name: str, x: Array, expected: Mapping[str, Array], probe: Probe) -> str:
    """Return a phrase: what a parameter `x` of the port is, by the probe's parameters."""
    right, config = expected[name], probe.config
    for says, candidate in candidates(name, expected, config):
        rounded = is_rounded(x, candidate)
        if rounded is not None:
            return ", ".join(filter(None, (says, rounded)))
    if "c_attn" in name:
        return by_parts(name, x, expected, config)
    return by_numbers(x, right, probe)


def is_rounded(x: Array, candidate: Array) -> str | None:
    """Return "" if two arrays are equal, "rounded to float16" if that makes them so, or None."""
    if x.shape != candidate.shape or not is_near(x[:1], candidate[:1]):
        return None
    scale = CLOSE * largest_of(candidate)
    if (np.abs(x - candidate) <= scale).all():
        return ""
    for kind, rounds in ROUND.items():
        if (np.abs(x - rounds(candidate.astype(np.float32))) <= scale).all():
            return f"rounded to {kind}"
    return None


def is_near(x: Array, candidate: Array) -> bool:
    """Return True if two arrays are equal in 16 bits: a few rows reject most candidates."""
    return bool((np.abs(x - candidate) <= ROUGH * largest_of(candidate)).all())


def candidates(
    name: str, expected: Mapping[str, Array], config: Config
) -> Iterator[tuple[str, Array]]:
    """Yield what may stand in the place of a parameter, each with a phrase."""
    right = expected[name]
    yield "", right
    yield "0 everywhere: not loaded", np.zeros_like(right)
    yield "1 everywhere: not loaded", np.ones_like(right)
    if right.ndim == 2 and name.startswith("h."):
        if right.shape[0] == right.shape[1]:
            yield TRANSPOSED, right.T
        yield RESHAPED, right.reshape(right.shape[::-1]).T
    if "c_attn" in name:
        yield from columns(right, config.n_head)
    for other, array in expected.items():
        if other != name and array.shape == right.shape:
            yield LIKE + relation(name, other), array
    yield "1 more than the right numbers", right + 1
    yield "1 less than the right numbers", right - 1
    yield "the right numbers with the other sign", -right


def columns(right: Array, n_head: int) -> Iterator[tuple[str, Array]]:
    """Yield c_attn with its columns in another order than (3, H, D): q, k, v, head, channel."""
    lead, C = right.shape[:-1], right.shape[-1] // 3
    axes, sizes = ("3", "H", "D"), (3, n_head, C // n_head)
    parts = np.split(right, 3, -1)
    for order in permutations(range(3)):
        if order != (0, 1, 2):
            said = ", ".join(PARTS[i] for i in order)
            yield f"q, k, v are {said} of the probe", np.concatenate([parts[i] for i in order], -1)
    if right.ndim == 2:
        yield "each of q, k, v transposed", np.concatenate([part.T for part in parts], -1)
        thirds = right.reshape(3, C, C)
        yield "cut into q, k, v by rows, not by columns", np.concatenate([*thirds], 1)
    n = len(lead)
    for order in permutations(range(3)):
        if order == (0, 1, 2):
            continue
        said, usual = f"({', '.join(axes[i] for i in order)})", "(3, H, D)"
        there = [*range(n), *(n + i for i in order)]
        back = [*range(n), *(n + order.index(i) for i in range(3))]
        laid = right.reshape(*lead, *sizes).transpose(there)
        yield f"columns in the order {said} in place of {usual}", laid.reshape(right.shape)
        read = right.reshape(*lead, *(sizes[i] for i in order)).transpose(back)
        yield f"columns read as {said} in place of {usual}", read.reshape(right.shape)


def relation(name: str, other: str) -> str:
    """Return the name of another parameter as seen from one: "ln_2.weight of the same block"."""
    block, leaf = split(name)
    other_block, other_leaf = split(other)
    if other_block is None:
        return other
    if leaf == other_leaf:
        return f"the same parameter of {other_block}"
    return f"{other_leaf} of " + ("the same block" if block == other_block else other_block)


def split(name: str) -> tuple[str | None, str]:
    """Return the block and the rest of a name: ("h.0", "ln_1.weight")."""
    if not name.startswith("h."):
        return None, name
    _, number, leaf = name.split(".", 2)
    return f"h.{number}", leaf


def by_parts(name: str, x: Array, expected: Mapping[str, Array], config: Config) -> str:
    """Return what q, k and v are, of those that are wrong. `x`: of c_attn."""
    known = {
        f"{part} of {relation(name, other)}": piece
        for other, array in expected.items()
        if array.shape == x.shape
        for part, piece in zip(PARTS, np.split(array, 3, -1), strict=True)
    }
    own = dict(zip(PARTS, np.split(expected[name], 3, -1), strict=True))
    said = []
    for part, piece in zip(PARTS, np.split(x, 3, -1), strict=True):
        if is_rounded(piece, own[part]) == "":
            continue
        others = {f"{LIKE}{one}": array for one, array in own.items() if one != part}
        more = {"0: not loaded": np.zeros_like(piece)}
        if piece.ndim == 2:
            more |= {f"{one} transposed": array.T for one, array in own.items() if one != part}
            more["transposed"] = own[part].T
        every = {**others, **more, **{LIKE + one: array for one, array in known.items()}}
        found = next((says for says, array in every.items() if is_rounded(piece, array) == ""), "")
        said.append(f"{part} is {found or 'not of the probe'}")
    return "; ".join(said)


def by_numbers(x: Array, right: Array, probe: Probe) -> str:
    """Return what numbers say of a parameter that is none of the probe's in any layout."""
    differs = np.abs(x - right) > CLOSE * largest_of(right)
    if x.size > 1 and x.min() == x.max():
        return f"{float(x.flat[0]):.4g} everywhere: not loaded"
    if x.ndim == 2 and is_rounded(x[:-1], right[1:]) == "":
        return "shifted: row i is row i + 1 of the right ones"
    if x.ndim == 2 and is_rounded(x[1:], right[:-1]) == "":
        return "shifted: row i is row i - 1 of the right ones"
    if differs.mean() <= 1 - FEW:
        return f"{np.count_nonzero(differs):,} of {x.size:,} numbers differ"
    if is_rounded(np.sort(x, None), np.sort(right, None)) == "":
        return "the right numbers in another order"
    factor = float(np.vdot(right, x) / np.vdot(right, right))
    if is_rounded(x, factor * right) == "":
        return f"the right numbers times {factor:.4g}"
    steps = probe.settings.lr * max(1, probe.settings.steps)
    if np.abs(x - right).max() <= 1.5 * steps:
        return "close to the right numbers: dumped after a step of the optimizer?"
    return "no numbers of the probe: not loaded?"


def known(wrong: Sequence[str], own: Mapping[str, Layouts], probe: Probe) -> Mistake | None:
    """Return the mistake of the catalogue that loads all parameters as the port has, or None.

    wrong : names of the port's wrong parameters, without the kind
    own : the port's parameters, among others
    probe : with the parameters as they should be
    """
    loads = [one for one in (*MISTAKES, *VARIANTS) if all(edit.where == TIE for edit in one.edits)]
    if size(probe.config) > KNOWN:
        changed = changes(probe.config)
        loads = [one for one in loads if changed[one] >= {*wrong}]
    right = dict(named(probe.params))
    for one in loads:
        tree = loaded(one, probe)
        if tree and all(
            agrees(own[full], tree.get(name, tree["wte.weight"]))  # of a tree without a head
            for name in right
            if (full := f"param/{name}") in own
            and (name in wrong or tree.get(name) is not right[name])
        ):
            return one
    return None


def loaded(mistake: Mistake, probe: Probe) -> dict[str, Array]:
    """Return the parameters of a probe as a mistake loads them, none if it does not fit."""
    try:
        load = mistake.change(RIGHT).modules()["npgpt.parity.steps"].tie
        return dict(named(load(probe.params, probe.config.n_head)))
    except MemoryError:  # is no property of the mistake
        raise
    except Exception:
        return {}


@cache
def changes(config: Config) -> dict[Mistake, set[str]]:
    """Return the parameters that each mistake changes, by those of a small model like a large one.

    Most mistakes change others than a port has wrong, and a large model need not be loaded so.
    """
    small = replace(config, vocab_size=5, context_length=3, n_embd=2 * config.n_head)
    rng = np.random.default_rng(0)
    tree = map_leaves(shapes(small), lambda shape: rng.normal(size=shape))
    tokens = np.zeros((1, 3), np.int64)
    probe = Probe(config=small, params=tree, tokens=tokens, targets=tokens)
    found = {}
    for one in (*MISTAKES, *VARIANTS):
        if all(edit.where == TIE for edit in one.edits):
            other, right = loaded(one, probe), dict(named(tree))
            same = (
                np.array_equal(other.get(name, tree.wte.weight), x) for name, x in right.items()
            )
            found[one] = {name for name, is_same in zip(right, same, strict=True) if not is_same}
    return found


def agrees(own: Layouts, exact: Array) -> bool:
    """Return True if rounding in float32 explains all differences."""
    return is_rounded(closest(own, exact), exact) == ""
