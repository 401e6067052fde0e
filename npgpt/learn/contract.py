"""The contract of an answer: what is returned, of which shape and dtype, and what stays unchanged.

An answer is never broadcast: a right number in a wrong shape is wrong.
"""

import itertools
from typing import Any

import numpy as np

from npgpt.arrays import Array
from npgpt.learn.exercise import Case, Exercise
from npgpt.learn.recognise import agree
from npgpt.learn.runner import LinearMap, Unknown
from npgpt.learn.sizes import letter

MAX_AXES = 6  # of an answer whose sums are tried


def when(about: str) -> str:
    """Return the case in which something happened, before "with" and the arguments."""
    return f"for {about}, " if about else ""


def signature(case: Case) -> str:
    """Return the arguments of a call: the shapes of arrays, and other values."""
    told = {name: argument(value) for name, value in case.arguments.items()}
    if case.each:
        values = case.arguments[case.each]
        told[case.each] = f"from {values[0]} to {values[-1]}"
    return ", ".join(f"{name} {value}" for name, value in told.items())


def argument(value: Any) -> str:
    """Return the shape of an array, or another value."""
    if isinstance(value, np.ndarray):
        return str(value.shape)
    if isinstance(value, LinearMap):
        return "(a function)"
    if isinstance(value, dict):
        return f"(a dict of {len(value)} arrays)"
    if isinstance(value, list):
        return f"(a list of {len(value)})"
    return f"= {value!r}"


def read_answer(exercise: Exercise, case: Case, answer: Any) -> dict[str, Array] | str:
    """Return all results by name, or a sentence about the one that is none."""
    returned, arguments = answer
    function = exercise.function_of(case)
    expected = exercise.results[function]
    if case.each and isinstance(returned, dict):
        call = f"{case.each} = {returned['each']}"
        return f"{function} returns {kind(returned['returned'])} for {call}; return a number."
    by_return = [name for name in expected if name not in exercise.changes]
    results = {name: arguments[name] for name in expected if name in exercise.changes}
    if len(by_return) == 1:
        results[by_return[0]] = returned
    elif by_return:
        if not isinstance(returned, list) or len(returned) != len(by_return):
            return f"{function} returns {kind(returned)}, but must return {', '.join(by_return)}."
        results |= dict(zip(by_return, returned, strict=True))
    found: dict[str, Array] = {}
    for name in expected:
        wanted = exercise.kinds.get(name, "an array of numbers")
        if said := collect(name, results[name], found, wanted):
            return f"{function}: {said}"
    return found


def collect(name: str, value: Any, found: dict[str, Array], wanted: str) -> str | None:
    """Put the arrays of a result into `found`. Return a sentence about what is no array."""
    if isinstance(value, dict) and value:
        pairs = [(f"{name}[{key!r}]", one) for key, one in value.items()]
    elif isinstance(value, list) and value and all(isinstance(one, np.ndarray) for one in value):
        pairs = [(f"{name}[{i}]", one) for i, one in enumerate(value)]
    elif isinstance(value, np.ndarray | np.generic | int | float):
        found[name] = np.asarray(value)
        return None
    elif value is None:
        return f"{name} is None; return it."
    else:
        return f"{name} is {kind(value)}, but must be {wanted}."
    return next((said for key, one in pairs if (said := collect(key, one, found, wanted))), None)


def kind(value: Any) -> str:
    """Return the type of a result in words."""
    if value is None:
        return "None"
    if isinstance(value, Unknown):
        return value.type if value.type.startswith("an ") else f"an object of type {value.type}"
    if isinstance(value, list):
        return f"a list or tuple of {len(value)}"
    if isinstance(value, np.ndarray):
        return f"one array of shape {value.shape}"
    return f"a {type(value).__name__}"


def changed_argument(exercise: Exercise, case: Case, after: dict[str, Any]) -> str | None:
    """Return a sentence about an argument that the function has written to, though it must not."""
    for name, before in case.arguments.items():
        if name not in exercise.changes and not same(before, after[name]):
            return (
                f"the function changes its argument {name}; work on a copy, because the caller "
                "needs it"
            )
    return None


def same(before: Any, after: Any) -> bool:
    """Return True if an argument is as it was, in every bit."""
    if isinstance(before, dict):
        return before.keys() == after.keys() and all(same(before[k], after[k]) for k in before)
    if isinstance(before, LinearMap):
        return isinstance(after, LinearMap) and same(before.matrix, after.matrix)
    if isinstance(before, list):
        return len(before) == len(after) and all(map(same, before, after))
    if isinstance(before, np.ndarray):
        return (
            isinstance(after, np.ndarray)
            and before.shape == after.shape
            and bool(np.array_equal(before, after, equal_nan=before.dtype.kind == "f"))
        )
    return True


def structure(told: dict[str, Array], expected: dict[str, Array], tolerance: float) -> str | None:
    """Return a sentence about results that are missing, too many, or in another order."""
    for name in expected:
        whole, bracket, _ = name.partition("[")
        if bracket and whole in told:
            count = sum(one.startswith(f"{whole}[") for one in expected)
            return f"{whole} is {kind(told[whole])}, but must be a list of {count} arrays."
        if not bracket and f"{name}[0]" in told:
            count = sum(one.startswith(f"{name}[") for one in told)
            return f"{name} is a list or tuple of {count}, but must be one array."
    if missing := [name for name in expected if name not in told]:
        return f"{', '.join(missing[:6])} is missing from the result."
    if more := [name for name in told if name not in expected]:
        return f"{', '.join(more[:6])} is in the result, but is no part of it."
    found = [
        next((name for name, right in expected.items() if agree(one, right, tolerance)), None)
        for one in told.values()
    ]
    if None not in found and found != list(expected) and len(set(found)) == len(found):
        order = ", ".join(map(str, found))
        return f"The results are right, but in the order {order}; {', '.join(expected)} is right."
    return None


def shape(
    exercise: Exercise, name: str, got: Array, right: Array
) -> tuple[list[str], str | None] | None:
    """Return a sentence and a cause if a result has another shape than the right one."""
    if got.shape == right.shape:
        return None
    axes = exercise.axes.get(name, "")
    comma = "," if len(axes.split()) == 1 else ""
    meaning = f", which is ({', '.join(axes.split())}{comma})" if axes else ""
    line = f"{name} has the shape {got.shape}, but must have {right.shape}{meaning}."
    return [line], shape_cause(exercise, name, got, right)


def shape_cause(exercise: Exercise, name: str, got: Array, right: Array) -> str | None:
    """Return the reason for a wrong shape, where the numbers show it."""
    equal = exercise.tolerance
    if not got.size:
        return "the array is empty"
    if got.shape == right.shape[::-1] and right.ndim > 1:
        if agree(got.T, right, equal):
            return "the numbers are right, but the array is transposed"
        return "the shape is reversed: are factors exchanged, or is one not transposed?"
    if got.size == right.size:
        if agree(got.reshape(right.shape), right, equal):
            return "the numbers are right: only the shape is another"
        for chosen in itertools.permutations(range(right.ndim)):
            if agree(right.transpose(chosen), got, equal):
                names = axis_names(exercise.axes.get(name, "").split(), chosen, ", ")
                return f"the numbers are right, but the axes stand in the order ({names})"
        return "the number of elements is right: are axes split or merged in another order?"
    for count in range(1, got.ndim + 1) if got.ndim <= MAX_AXES else ():
        for axes in itertools.combinations(range(got.ndim), count):
            named = " and ".join(letter(got.shape[axis]) for axis in axes)
            for method, said in ((got.sum, "sum"), (got.mean, "mean")):
                if agree(method(axes).reshape(-1), right.reshape(-1), equal):
                    return f"the {said} over {named} is missing"
    for count in range(1, right.ndim + 1):
        for axes in itertools.combinations(range(right.ndim), count):
            for method, said in ((right.sum, "summed"), (right.mean, "averaged")):
                if agree(got.reshape(-1), method(axes).reshape(-1), equal):
                    which = axis_names(exercise.axes.get(name, "").split(), axes)
                    return f"it is {said} over {which}, which the result keeps"
    return part_cause(exercise, name, got, right) or axes_cause(exercise, name, got)


def part_cause(exercise: Exercise, name: str, got: Array, right: Array) -> str | None:
    """Return the numbers that are missing at one end of an axis."""
    if got.ndim != right.ndim:
        return None
    other = [i for i in range(got.ndim) if got.shape[i] != right.shape[i]]
    if len(other) != 1 or got.shape[other[0]] > right.shape[other[0]]:
        return None
    axis = axis_names(exercise.axes.get(name, "").split(), (other[0],))
    whole = np.moveaxis(right, other[0], 0)
    part = np.moveaxis(got, other[0], 0)
    missing = f"{len(whole) - len(part)} of {len(whole)} along {axis}"
    ends = {"first": whole[-len(part) :], "last": whole[: len(part)]}
    found = (end for end, one in ends.items() if agree(part, one, exercise.tolerance))
    return next(
        (f"the numbers are right, but those of the {end} {missing} are missing" for end in found),
        None,
    )


def axes_cause(exercise: Exercise, name: str, got: Array) -> str | None:
    """Return the axes that an answer seems to have, if a sum ran over an axis that must stay."""
    axes = exercise.axes.get(name, "").split()
    seen = [letter(size) for size in got.shape]
    known = {"B", "T", "C", "V", "O"}
    if (
        not seen
        or not known.issuperset(seen)
        or not known.issuperset(axes)
        or set(axes) & set(seen)
    ):
        return None
    left = f"the axes left are {' and '.join(seen)}" if seen[1:] else f"the axis left is {seen[0]}"
    return f"{left}; {' and '.join(axes)} must be left, and the others summed"


def axis_names(names: list[str], axes: tuple[int, ...], between: str = " and ") -> str:
    """Return the names of some axes."""
    return between.join(names[axis] if axis < len(names) else f"axis {axis}" for axis in axes)


def dtype(name: str, got: Array, right: Array, notes: list[str]) -> str | None:
    """Return a sentence if a dtype is wrong; a wider one than necessary is only noted."""
    if got.dtype.kind == right.dtype.kind and got.dtype.itemsize >= right.dtype.itemsize:
        note = f"{name} is {got.dtype} although the arguments are {right.dtype}"
        if got.dtype.itemsize > right.dtype.itemsize and got.ndim and not notes:
            notes.append(note)
        return None
    if right.dtype.kind == "f" and got.dtype.kind in "iub" and got.ndim:
        return f"{name} has the dtype {got.dtype}, which cuts numbers; it must be {right.dtype}."
    if right.dtype.kind == "f" and got.dtype.kind in "iubf" and not got.ndim:
        return None
    return f"{name} has the dtype {got.dtype}, but must have {right.dtype}."
