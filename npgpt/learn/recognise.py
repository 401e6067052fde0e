"""Find the cause of a wrong answer: rules in a fixed order, of which the first that fits is told.

    known       the answer equals that of a known mistake
    observed    a rule of the exercise's own
    constant    all wrong numbers are one number, where another one is right
    written     `=` where `+=` is right, or the other way round
    factor      it is c times the right one, c = <G, T> / <T, T>
    repeated    it does not change along an axis
    quantity    it is off by a factor per row or per column
    order       it equals the right one with axes exchanged, or q, k, v in another order
    summand     a named term is missing, doubled, has the wrong sign or lacks a factor
    rounded     the numbers are those of float32, or right to a few digits
    regions     all wrong numbers have one region with a name

G is the answer, T the right one. A rule returns a sentence, or None.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from npgpt.arrays import Array
from npgpt.learn import sizes
from npgpt.learn.exercise import Case, Exercise

Answers = Mapping[str, Array]
LARGE = 710.0  # exp of it overflows


class Mistaken(NamedTuple):
    """A known mistake and its answers to one case.

    `possible` says if it lets pass the calls that pass, `gives_all` if it gives all answers.
    """

    says: str
    answers: Answers
    possible: Callable[[], bool]
    gives_all: Callable[[], bool]


class Question(NamedTuple):
    """One wrong result of one case."""

    exercise: Exercise
    case: Case
    name: str  # of the result: "dx"
    got: Array  # G
    right: Array  # T
    mistaken: Callable[[], Iterator["Mistaken"]]  # all known mistakes
    answers: Answers  # all results of the case
    expected: Answers  # all right ones

    @property
    def is_first(self) -> bool:
        """If no call of this function has passed. A later one can rule a cause out."""
        return not self.case.about

    @property
    def everything(self) -> dict[str, Any]:
        """The arguments, and what only the forward pass needs."""
        return self.case.extra | self.case.arguments

    @property
    def axes(self) -> list[str]:
        """The names of the result's axes."""
        return self.exercise.axes.get(self.name, "").split()

    def equal(self, a: Array, b: Array) -> bool:
        """Return True if two arrays agree within the exercise's tolerance."""
        return agree(a, b, self.exercise.tolerance)


def agree(a: Array, b: Array, tolerance: float) -> bool:
    """Return True if two arrays have one shape, and no number is further away than rounding."""
    if a.shape != b.shape:
        return False
    return not wrong_elements(a, b, tolerance).any()


def wrong_elements(got: Array, right: Array, tolerance: float) -> Array:
    """Return a mask of the numbers that differ by more than `tolerance` of the largest one."""
    finite = np.abs(right[np.isfinite(right)])
    scale = finite.max() if finite.size and finite.max() > 0 else 1.0
    with np.errstate(invalid="ignore"):
        close = np.abs(got - right) <= tolerance * scale
    return ~(close | (got == right) | (np.isnan(got) & np.isnan(right)))


def cause(question: Question) -> str | None:
    """Return the cause of a wrong result in a sentence, or None."""
    return next((said for rule in RULES if (said := rule(question))), None)


def repeated(q: Question) -> str | None:
    """Find axes along which the answer does not change, though the right one does."""
    if q.got.ndim < 2 or len(q.axes) != q.got.ndim:
        return None
    axes = [
        name
        for i, name in enumerate(q.axes)
        if q.got.shape[i] > 1 and not np.ptp(q.got, axis=i).any() and np.ptp(q.right, axis=i).any()
    ]
    if not axes or not q.got.any():
        return None
    which = " and ".join(axes)
    said = f"the answer does not change along {which}"
    return f"{said}: it is summed or averaged over {which}" if q.is_first else said


def known(q: Question) -> str | None:
    """Compare with the answers of all known mistakes: to all cases, to this one, to one result."""
    same = [one for one in q.mistaken() if q.name in one.answers]
    same = [one for one in same if q.equal(q.got, one.answers[q.name])]
    same = [one for one in same if not q.equal(q.right, one.answers[q.name])]
    same = [one for one in same if one.possible()]
    whole = [
        one
        for one in same
        if all(q.equal(q.answers[name], value) for name, value in one.answers.items())
    ]
    best = [one for one in whole if one.gives_all()] or whole
    right = [name for name, value in q.expected.items() if q.equal(q.answers[name], value)]
    best += [
        one
        for one in same
        if all(
            q.equal(one.answers[name], q.expected[name]) for name in right if name in one.answers
        )
    ]
    return best[0].says if best else None


def constant(q: Question) -> str | None:
    """Find one number in all places where another one is right: -1e9 for -inf."""
    wrong = wrong_elements(q.got, q.right, q.exercise.tolerance)
    got, right = q.got[wrong], q.right[wrong]
    if wrong.sum() < 2 or wrong.all() or np.isnan(got[0]) or (got != got[0]).any():
        return None
    if (right != right[0]).any():
        return None
    named = q.exercise.regions(q.everything).get(q.name, []) if q.exercise.regions else []
    says = (one.says for one in named if (np.broadcast_to(one.mask, wrong.shape) == wrong).all())
    told = f"{got[0]:g}".replace("e+0", "e").replace("e+", "e")
    return f"{next(says, 'the wrong numbers')} are {told}; they must be {right[0] + 0:g}"


def observed(q: Question) -> str | None:
    """Apply the exercise's own rule."""
    return q.exercise.observe(q.everything, q.got) if q.exercise.observe else None


def not_finite(q: Question) -> str | None:
    """Say that numbers are nan or inf. No other rule can use them."""
    bad = ~np.isfinite(q.got) & np.isfinite(q.right)
    if not bad.any():
        return None
    given = [one for one in q.case.arguments.values() if isinstance(one, np.ndarray)]
    if any(one.dtype.kind == "f" and one.size and one.min() > LARGE for one in given):
        return "exp overflows for large numbers: subtract the largest number of the row first"
    which = f"{bad.sum()} of {bad.size} numbers are" if bad.size > 1 else f"{q.name} is"
    if not np.isnan(q.got[bad]).any():
        return f"{which} inf: of a division by zero, or an overflow"
    return f"{which} nan: of 0 / 0, 0 * inf or inf - inf, or of inf / inf after an overflow"


def written(q: Question) -> str | None:
    """Look for `=` in place of `+=`, and for an argument that was never written."""
    before = q.case.arguments.get(q.name)
    if q.name not in q.exercise.changes or not isinstance(before, np.ndarray):
        return None
    if q.equal(q.got, before):
        return (
            f"{q.name} is unchanged. Write into the array itself ({q.name}[...] = or +=); "
            f"a line `{q.name} = ...` only gives a new array that name"
        )
    wrong = wrong_elements(q.got, q.right, q.exercise.tolerance)
    got, right, before = q.got[wrong], q.right[wrong], before[wrong]
    if q.name in q.exercise.adds and q.equal(got + before, right):
        return f"what was in {q.name} before is lost: add to it (+=) instead of overwriting it (=)"
    if q.name not in q.exercise.adds and q.equal(got - before, right):
        return f"the result is added to {q.name}, which must be overwritten: use = instead of +="
    return None


def factor(q: Question) -> str | None:
    """Find a constant factor, and its cause."""
    got, right = q.got.astype(np.float64), q.right.astype(np.float64)
    base = np.asarray(q.case.arguments[q.name], np.float64) if q.name in q.exercise.adds else 0.0
    got, right = got - base, right - base
    if not right.any():
        return None
    if not got.any():
        return "all numbers are 0"
    c = float((got * right).sum() / (right * right).sum())
    if not q.equal(got, c * right):
        return None
    if not q.is_first:
        return f"the answer is {c:.6g} times the right one, everywhere" if got.size > 1 else None
    for value, says in q.exercise.causes.items():
        if np.isclose(c, value, rtol=1e-5):
            return says
    return sizes.say_factor(c, q.exercise.factors, any_factor=got.size > 1)


def quantity(q: Question) -> str | None:
    """Find a factor that is constant along at least one axis."""
    if q.got.ndim < 2 or (np.abs(q.right) < 1e-9).any():
        return None
    ratio = q.got / q.right
    if np.isin(ratio, (0, 1)).all():  # a part is missing: its region says more
        return None
    constant = [
        axis
        for axis, size in enumerate(ratio.shape)
        if size > 1 and q.equal(ratio, np.broadcast_to(ratio.take([0], axis), ratio.shape))
    ]
    if not constant:
        return None
    named = q.exercise.quantities(q.everything) if q.exercise.quantities else {}
    powers = {
        1: "one factor {} too many",
        -1: "the factor {} is missing",
        -2: "it is divided by {}, which must multiply it",
        2: "it is multiplied with {}, which must divide it",
    }
    for name, value in named.items():
        for power, says in powers.items():
            if q.equal(ratio, np.broadcast_to(value**power, ratio.shape)):
                return says.format(name)
    named_axes = ["row", "column"] if q.axes[-2:] == ["T", "T"] else q.axes[-2:]
    axes = [*q.axes[:-2], *named_axes]
    left = [name for i, name in enumerate(axes) if i not in constant and ratio.shape[i] > 1]
    return f"each number is off by a factor that depends only on its {' and '.join(left)}"


def order(q: Question) -> str | None:
    """Find the right numbers in another order: of axes, of heads, of q, k and v."""
    if q.got.size < 3 or not q.equal(np.sort(q.got.ravel()), np.sort(q.right.ravel())):
        return None
    for says, other in sizes.reorderings(q.right, q.axes):
        if q.equal(q.got, other):
            return says
    return "the numbers are right, but in another order"


def zero_part(q: Question) -> str | None:
    """Find one of q, k and v whose gradient is 0."""
    if not q.axes or not q.axes[-1].startswith("3*") or not np.isfinite(q.got).all():
        return None
    parts = zip("qkv", np.split(q.got, 3, -1), np.split(q.right, 3, -1), strict=True)
    zero = [f"d{name}" for name, got, right in parts if not got.any() and right.any()]
    return f"all numbers of {' and '.join(zero)} are 0" if zero else None


def summand(q: Question) -> str | None:
    """Find the terms of the right answer that are missing or have another factor."""
    if not q.exercise.summands:
        return None
    named = q.exercise.summands(q.everything).get(q.name)
    if not named:
        return None
    difference = (q.got - q.right).ravel().astype(np.float64)
    count = range(1, len(named) + 1)
    for chosen in itertools.chain.from_iterable(itertools.combinations(named, n) for n in count):
        arrays = (np.broadcast_to(named[name], q.right.shape).ravel() for name in chosen)
        columns = np.stack(list(arrays), -1)
        solved, *_ = np.linalg.lstsq(columns, difference, rcond=None)
        if np.abs(solved).min() < 1e-6:
            continue
        if q.equal((columns @ solved).reshape(q.right.shape) + q.right, q.got):
            pairs = zip(chosen, solved, strict=True)
            return "; ".join(sizes.say_coefficient(name, float(c)) for name, c in pairs)
    return None


def summand_factor(q: Question) -> str | None:
    """Find a term of the right answer that lacks a factor, or has one too many."""
    if not q.exercise.summands or not q.exercise.quantities:
        return None
    summands = q.exercise.summands(q.everything).get(q.name, {})
    for factor_name, value in q.exercise.quantities(q.everything).items():
        for name, term in summands.items():
            for power, says in {-1: "is missing", 1: "is one too many"}.items():
                if q.equal(q.right + term * (value**power - 1), q.got):
                    return f"in {name}, a factor {factor_name} {says}"
    return None


def rounded(q: Question) -> str | None:
    """Recognise float32 or float16 by the bits of the numbers, and a small error by its size."""
    if q.right.dtype != np.float64 or not agree(q.got, q.right, 3e-3):
        return None
    for name in ("float16", "float32"):
        if (q.got.astype(name) == q.got).all():
            return f"the numbers are those of {name}: does a line change the dtype?"
    error = np.abs(q.got - q.right).max() / np.abs(q.right).max()
    if error > 1e-3:
        return None
    digits = int(-np.log10(error))
    return f"the numbers are right to {digits} digits: is a constant rounded, or a part float32?"


def regions(q: Question) -> str | None:
    """Find the smallest region with a name that has all wrong numbers, if it is not everything."""
    wrong = wrong_elements(q.got, q.right, q.exercise.tolerance)
    found: list[tuple[int, str]] = []
    named = q.exercise.regions(q.everything).get(q.name, []) if q.exercise.regions else []
    for says, mask in [*named, *sizes.edges(q.right.shape, q.axes)]:
        mask = np.broadcast_to(mask, wrong.shape)
        if not mask.all() and not (wrong & ~mask).any():
            found.append((int(mask.sum()), says))
    if not found:
        return None
    says = min(found)[1]
    return f"only {says} {'is' if says.startswith('the rate ') else 'are'} wrong"


RULES = (
    known, observed, constant, not_finite, written, factor, repeated, quantity, order, zero_part,
    summand, summand_factor, rounded, regions,
)  # fmt: skip
