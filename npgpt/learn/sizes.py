"""Sizes that tell causes apart, and what follows from them: factors, orders of axes, edges.

All sizes are different, no number is zero, tokens repeat, and two targets are ignored. A factor of
3 can then only be B, and a factor of 13 / 15 only the ignored targets.
"""

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from npgpt.arrays import Array


class Sizes(NamedTuple):
    """The sizes of a call."""

    B: int
    T: int
    H: int
    D: int
    V: int
    O: int  # outputs of a linear layer
    T_MAX: int  # positions of wpe

    @property
    def C(self) -> int:
        """Channels: H heads of D."""
        return self.H * self.D


USUAL = Sizes(B=3, T=5, H=2, D=7, V=11, O=6, T_MAX=8)
OTHER = Sizes(B=2, T=4, H=3, D=5, V=9, O=8, T_MAX=6)  # of one more call: a size may be hard-coded
B, T, H, D, V, O, T_MAX = USUAL
C = USUAL.C
VALID = 13  # targets of B * T = 15 that are not ignored
RATE = 0.3  # of dropout
EPS = 0.1  # of LayerNorm: large enough to be seen
IGNORED = -100

LETTERS = {"B": B, "T": T, "H": H, "D": D, "C": C, "V": V, "O": O, "B*T": B * T, "T_max": T_MAX}


def rng(name: str) -> np.random.Generator:
    """Return the generator of an exercise's numbers, the same in every check."""
    return np.random.default_rng(list(name.encode()))


def normal(rng: np.random.Generator, *shape: int) -> Array:
    """Return numbers of both signs, none of them near zero."""
    drawn = rng.normal(size=shape)
    return drawn + 0.05 * np.sign(drawn)


def positive(rng: np.random.Generator, *shape: int) -> Array:
    """Return numbers between 0.5 and 2, such as LayerNorm's weights."""
    return rng.uniform(0.5, 2, shape)


def tokens(rng: np.random.Generator, s: Sizes = USUAL) -> Array:
    """(B, T): ids below V, of which several occur twice, in one row and in two. One is 0."""
    ids = rng.integers(0, s.V, (s.B, s.T))
    ids[0, 3], ids[-1, 1] = ids[0, 1], ids[0, 1]
    ids[1, -1] = ids[1, 0]
    ids[1, 1] = 0
    return ids


def targets(rng: np.random.Generator, s: Sizes = USUAL) -> Array:
    """(B, T): ids below V, of which one is 0, and two of them IGNORED, both in one row."""
    ids = rng.integers(0, s.V, (s.B, s.T))
    ids[0, 0] = 0
    ids[1, 2] = ids[1, -1] = IGNORED
    return ids


def letter(size: int) -> str:
    """Return the name of an axis of this length."""
    return next((name for name, value in LETTERS.items() if value == size), f"an axis of {size}")


def apart(count: int) -> Array:
    """(count,): numbers 2000 apart, the first one between the others."""
    return 2000.0 * ((np.arange(count) + 1) % count)


# Factors


def say_factor(c: float, letters: str, any_factor: bool) -> str | None:
    """Return the sentence about an answer that is c times the right one.

    `any_factor`: also about a factor without a known cause. A single number always has one.
    """
    if np.isclose(c, -1):
        return "the sign is wrong: the answer is -1 times the right one"
    sign = "minus " if c < 0 else ""
    for name, value in known_factors(letters):
        if np.isclose(abs(c), value, rtol=1e-5):
            return f"the answer is {sign}{name} times the right one; {advice(name)}"
        if np.isclose(abs(c), 1 / value, rtol=1e-5):
            return f"the answer is the right one divided by {sign}{name}; {advice('1/' + name)}"
    return f"the answer is {c:.6g} times the right one, everywhere" if any_factor else None


def known_factors(letters: str) -> Iterator[tuple[str, float]]:
    """Yield the names and values of factors: the sizes in `letters`, and 2."""
    for name in letters.split():
        yield name, factor_value(name)
    yield "2", 2.0


def factor_value(name: str) -> float:
    """Return the value of a factor's name."""
    special = {
        "sqrt(D)": D**0.5,
        "1 - rate": 1 - RATE,
        "13/15": VALID / (B * T),
        "13": float(VALID),
    }
    return special[name] if name in special else float(LETTERS[name])


ADVICE = {
    "B": "it is summed over the batch where a mean is right, or one division by B is missing",
    "T": "one division by T, the number of positions, is missing",
    "B*T": "the mean over all B * T positions is a sum here",
    "C": "a mean over C is a sum here",
    "13": "the mean over the targets that count is a sum here",
    "1/13": "it is divided by the number of targets twice",
    "13/15": "a division by the number of targets is wrong: the ignored ones count, or do not",
    "sqrt(D)": "the division by sqrt(D) is missing",
    "D": "it is multiplied by sqrt(D), which must divide it",
    "1 - rate": "the division by 1 - rate is missing",
    "1/B": "a mean over the batch is taken where the sum is right",
    "1/T": "a mean over the positions is taken where the sum is right",
    "1/B*T": "a mean over all B * T positions is taken where the sum is right",
    "1/C": "a mean over C is taken where the sum is right",
    "1/13/15": "the mean's denominator is wrong: ignored targets do not count",
    "1/sqrt(D)": "it is divided by sqrt(D) once too often",
    "1/D": "it is divided by D; the scale is 1 / sqrt(D)",
    "1/1 - rate": "it is divided by 1 - rate twice",
    "2": "a term or a sum is counted twice",
    "1/2": "a factor of 2 is missing",
}


def advice(name: str) -> str:
    """Return the likely cause of a factor."""
    return ADVICE.get(name, f"a factor of {name.removeprefix('1/')} is too much or missing")


def say_coefficient(name: str, c: float) -> str:
    """Return the sentence about a term that is in the answer with the factor 1 + c."""
    known = {-1: "{} is missing", -2: "{} has the wrong sign", 1: "{} is counted twice"}
    for value, says in known.items():
        if np.isclose(c, value, atol=1e-5):
            return says.format(name)
    return f"{name} has the factor {1 + c:.4g}, where 1 is right"


# Orders


def reorderings(right: Array, axes: list[str]) -> Iterator[tuple[str, Array]]:
    """Yield the right numbers in other orders, and the sentence about each.

    An axis "3*H*D" is split into its parts before axes are exchanged.
    """
    parts = [part for axis in axes for part in axis.split("*")]
    shape = [3 if part == "3" else size_of(part, right, axes) for part in parts]
    if np.prod(shape) != right.size:
        parts, shape = axes, list(right.shape)
    whole = right.reshape(shape)
    if "3" in parts:
        axis = parts.index("3")
        for chosen in itertools.permutations(range(3)):
            said = ", ".join("qkv"[i] for i in chosen)
            other = whole.take(list(chosen), axis).reshape(right.shape)
            yield f"the three parts stand in the order {said}; q, k, v is right", other
    for chosen in itertools.permutations(range(whole.ndim)):
        if chosen != tuple(range(whole.ndim)):
            shown = " ".join(parts[i] for i in chosen)
            says = f"axes are exchanged: the numbers stand in the order ({shown})"
            yield f"{says}, not ({' '.join(parts)})", whole.transpose(chosen).reshape(right.shape)
    for i, part in enumerate(parts):
        yield f"the order along {part} is reversed", np.flip(whole, i).reshape(right.shape)
        for step in range(1, whole.shape[i]):
            shifted = np.roll(whole, step, i).reshape(right.shape)
            yield f"the numbers are shifted along {part}, by {step} of {whole.shape[i]}", shifted


def size_of(part: str, right: Array, axes: list[str]) -> int:
    """Return the length of a part of an axis: of a whole axis from the array, else by its name."""
    return right.shape[axes.index(part)] if part in axes else LETTERS.get(part, 0)


# Edges


def edges(shape: tuple[int, ...], axes: list[str]) -> Iterator[tuple[str, Array]]:
    """Yield the first and last index along each axis, all but these, and one of q, k, v."""
    for i, (size, name) in enumerate(zip(shape, axes, strict=False)):
        if name == "step":  # the regions of the schedule name its parts
            continue
        index = np.arange(size).reshape([-1 if j == i else 1 for j in range(len(shape))])
        what = {"T": "position", "B": "sequence" if "T" in axes else "row"}.get(name)
        if size > 2 and what:
            yield f"the numbers of the first {what}", index == 0
            yield f"the numbers of the last {what}", index == size - 1
            yield f"the numbers after the first {what}", index > 0
            yield f"the numbers before the last {what}", index < size - 1
        elif size > 2:
            yield f"the numbers at index 0 along {name}", index == 0
            yield f"the numbers at index {size - 1} along {name}", index == size - 1
            yield f"the numbers from index 1 along {name}", index > 0
            yield f"the numbers up to index {size - 2} along {name}", index < size - 1
        if name.startswith("3*"):
            for part in range(3):
                says = f"the numbers of d{'qkv'[part]}"
                yield says, index * 3 // size == part
                others = " and ".join(f"d{one}" for one in "qkv" if one != "qkv"[part])
                yield f"the numbers of {others}", index * 3 // size != part
