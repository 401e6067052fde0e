"""Errors of 16 bits that no known mistake has: of all products, or of a part of the model.

Two programs that round the same part do not round at the same points, so that their numbers differ
by more than the budgets of float32. Most of their errors are the same: those of the numbers that
enter the part. So the errors of a port are compared with those of the part in 16 bits, by their
correlation.
"""

from collections.abc import Iterator

import numpy as np

from npgpt.arrays import Array
from npgpt.model.params import size
from npgpt.parity.budget import LARGE, MULTIPLE, Run, closest, largest_of
from npgpt.parity.causes import Own
from npgpt.parity.mistakes import Mistake
from npgpt.parity.mistakes.regions import REGIONS
from npgpt.parity.order import step_of
from npgpt.parity.port import RIGHT
from npgpt.parity.rounding import ENOUGH

LEAST = 0.4  # correlation of the errors of a port with those of a part in 16 bits
LARGEST = 2.0**-4  # error of the first wrong tensor, relative to its largest number
# Median error of the tensors, in errors of the run that measures the budgets: 1 to 2 in 16 bits,
# 0.2 with the products of float16 in the budgets of bfloat16
SMALLEST = 1 / 3
SHOWN = 2  # budgets of the right port's: an error that is no rounding of float32


def arithmetic(exact: Run, own: Own, first: str) -> str:
    """Return the 16 bits whose rounding in all products explains every tensor, "" if neither does.

    The bits of sums do not tell which operands were rounded. `exact`: of the right port. `first`:
    the first wrong tensor.
    """
    for kind in ("float16", "bfloat16"):  # the finer one first
        for names in ((first,), exact.task.names):  # most fail the first wrong one, which is cheap
            run = exact.rounded(kind, names)
            if any(run.factor(name, own[name]) > 1 for name in names):
                break
        else:
            return kind if is_as_coarse(run, own) else ""
    return ""


def is_as_coarse(run: Run, own: Own) -> bool:
    """Return True if a port's errors are as large as those of a run in 16 bits, not only within.

    A small mistake is within the budgets of 16 bits too. Where LayerNorm takes out a factor, a
    scaled residual stream changes the loss and the gradients by no more than eps does.
    """
    sizes = [MULTIPLE * run.factor(name, own[name])
             for name, exact in run.exact.items()
             if not step_of(name) and exact.size >= ENOUGH]  # fmt: skip
    return not sizes or float(np.median(sizes)) >= SMALLEST


def part(exact: Run, own: Own, first: str) -> Mistake | None:
    """Return the part whose computation in 16 bits explains every tensor, None if none does."""
    right = exact.exact[first]
    error = largest_of(closest(own[first], right) - right)
    if size(exact.task.probe.config) > LARGE or not error <= LARGEST * largest_of(right):
        return None
    scores = {one: correlation(exact, Run(one.change(RIGHT), exact.task), own) for one in REGIONS}
    for one in sorted(scores, key=lambda one: -scores[one]):
        if scores[one] < LEAST:
            return None
        run = exact.beside(one.change(RIGHT))
        if all(run.factor(name, own[name]) <= 1 for name in exact.task.names):
            return one
    return None


def correlation(exact: Run, run: Run, own: Own) -> float:
    """Return the mean correlation of a port's errors with those of a run, tensor by tensor."""
    found = [float(np.vdot(a, b) / norm) if (norm := np.linalg.norm(a) * np.linalg.norm(b)) else 0.0
             for a, b in errors(exact, run, own)]  # fmt: skip
    return float(np.mean(found)) if found else 0.0


def errors(exact: Run, run: Run, own: Own) -> Iterator[tuple[Array, Array]]:
    """Yield the errors of each tensor of which one of the two has more than rounding's."""
    others = dict(run.try_stream())
    for name, right in exact.exact.items():
        if step_of(name) or name not in others or others[name].shape != right.shape:
            continue
        pair = closest(own[name], right) - right, others[name] - right
        if max(map(largest_of, pair)) > SHOWN * float(np.max(exact.budgets[name])):
            yield pair
