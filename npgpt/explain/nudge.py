"""Nudge one parameter, measure the slope of the loss, and set it beside the gradient.

    slope(h) = (loss(p + h) - loss(p - h)) / 2h

h is halved until Richardson's extrapolation to h = 0 no longer improves. Ridders 1982, "Accurate
computation of F'(x) and F'(x) F''(x)"; Numerical Recipes, section 5.7.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from npgpt.arrays import Array
from npgpt.backends import Backend
from npgpt.errors import InputError
from npgpt.explain import threads
from npgpt.explain.backward import Progress
from npgpt.explain.passes import Passes
from npgpt.explain.step import check_index, find
from npgpt.gpt import GPT
from npgpt.model import finite

FIRST = 1e-2  # the largest h, of a parameter's root mean square
SHRINK = 2.0
AT_ONCE = 3  # values of h that are measured together
MOST = 2 * AT_ONCE
AGREE = 1e-5  # relative
ENOUGH = 1e-9  # relative error at which no smaller h is tried


class Nudge(NamedTuple):
    name: str
    where: tuple[int, ...]  # the index of the number
    value: float  # of the parameter
    loss: float
    gradient: float  # of backward, in float64
    slope: float  # measured, in float64
    error: float  # estimate of the slope's own, absolute
    h: float  # the smallest nudge
    offsets: Array  # (n,), added to the parameter, in ascending order
    losses: Array  # (n,), measured at these

    @property
    def agrees(self) -> bool:
        """True if slope and gradient differ by at most 1e-5 of the gradient, or by the error."""
        return bool(abs(self.slope - self.gradient) <= max(AGREE * abs(self.gradient), self.error))


def measure(
    model: GPT, tokens: Any, name: str, index: tuple[int, ...], *, reach: float | None = None,
    points: int = 9, ops: Backend | None = None,
) -> Nudge:  # fmt: skip
    """(T + 1,) -> Nudge: the slope of the loss at one number of a parameter, in float64.

    reach : the largest of the `points` offsets at which the loss is measured for a picture;
        by default the parameter's root mean square
    ops : the backend that computes, by default the model's own
    The model is not changed. Raises RunError if the loss is not finite.
    """
    passes = Passes(model, tokens, ops=ops)
    return measure_in(passes, name, index, reach=reach, points=points)


def measure_in(
    passes: Passes, name: str, index: tuple[int, ...], *, reach: float | None = None,
    points: int = 9, progress: Progress | None = None,
) -> Nudge:  # fmt: skip
    """Return the slope, as `measure` does, in passes that are used again for other numbers.

    progress : called with the number of layers computed, and of all; what it raises ends it
    """
    parameter = find(passes.model.params, name)
    index = check_index(name, index, parameter.shape)
    flat = parameter.reshape(-1)
    typical = float(np.sqrt(np.dot(flat, flat) / flat.size)) or 1.0
    reach = typical if reach is None else reach
    if not 0 < reach < np.inf:
        raise InputError(f"reach is {reach}, but must be above 0 and finite")
    passes.watch(name, progress, calls=MOST // AT_ONCE)
    with finite.ignore_overflow(), threads.limit(passes.model):
        passes.read()
        gradient = float(passes.gradient(name)[index])

        offsets, found = np.linspace(-reach, reach, points), np.empty(0)

        def losses(steps: Array) -> Array:
            nonlocal found
            if found.size:
                return passes.losses(name, index, steps)
            both = passes.losses(name, index, np.concatenate([offsets, steps]))
            found = both[:points]
            return both[points:]

        noise = np.finfo(np.float64).eps * abs(passes.loss)
        slope, error, h = ridders(losses, FIRST * typical, noise)
    error = max(error, noise / h)
    value = float(parameter[index])
    return Nudge(name, index, value, passes.loss, gradient, slope, error, h, offsets, found)


def ridders(
    function: Callable[[Array], Array], h: float, noise: float = 0.0
) -> tuple[float, float, float]:
    """Return the slope of a function at 0, an estimate of its error, and the smallest h.

    function : (n,) -> (n,)
    noise : the rounding error of its values, below which no smaller h is tried
    """
    best, error, table = 0.0, np.inf, list[float]()
    for step in range(MOST):
        if step % AT_ONCE == 0:
            steps = h / SHRINK ** np.arange(AT_ONCE)
            above, below = np.split(function(np.concatenate([steps, -steps])), 2)
            slopes = (above - below) / (2 * steps)
        row = [float(slopes[step % AT_ONCE])]
        for power, before in enumerate(table, 1):
            row.append(row[-1] + (row[-1] - before) / (SHRINK ** (2 * power) - 1))
            doubt = max(abs(row[-1] - row[-2]), abs(row[-1] - before))
            if doubt <= error:
                best, error = row[-1], doubt
        if error <= max(ENOUGH * abs(best), noise / h):
            break
        if table and abs(row[-1] - table[-1]) >= 2 * error:
            break
        table, h = row, h / SHRINK
    return best, float(error), h
