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
from npgpt.explain.precision import cast
from npgpt.explain.step import check_index, find
from npgpt.explain.stream import check_text
from npgpt.gpt import GPT
from npgpt.model import finite, transformer
from npgpt.model.params import zeros_like

FIRST = 1e-2  # the largest h, of a parameter's root mean square
SHRINK = 2.0
MOST = 6  # values of h
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
    points: int = 9, ops: Backend | None = None, progress: Progress | None = None,
) -> Nudge:  # fmt: skip
    """(T + 1,) -> Nudge: the slope of the loss at one number of a parameter, in float64.

    reach : the largest of the `points` offsets at which the loss is measured for a picture;
        by default the parameter's root mean square
    ops : the backend that computes, by default the model's own
    progress : called with the number of passes done, and of all passes
    The model is not changed. Raises RunError if the loss is not finite.
    """
    with finite.ignore_overflow(), threads.limit(model):
        return measure_in_float64(model, tokens, name, index, reach, points, ops, progress)


def measure_in_float64(
    model: GPT, tokens: Any, name: str, index: tuple[int, ...], reach: float | None, points: int,
    ops: Backend | None, progress: Progress | None,
) -> Nudge:  # fmt: skip
    """Return the slope, measured on a copy of the model."""
    ids = check_text(model, tokens, least=2, targeted=True)
    twin = cast(model, ops=ops)
    parameter = find(twin.params, name)
    index = check_index(name, index, parameter.shape)
    value, texts, targets = float(parameter[index]), ids[None, :-1], ids[None, 1:]
    g = zeros_like(twin.params)
    loss, cache = transformer.loss(twin.params, texts, targets, twin.config, g=g, ops=twin.ops)
    if not np.isfinite(loss):
        raise finite.error(f"the loss is {loss}", model.params, model.path)
    transformer.backward(cache, g, ops=twin.ops)

    done, passes = 1, 1 + 2 * MOST + points

    def evaluate(offset: float) -> float:
        nonlocal done
        if progress is not None:
            progress(done, passes)
        done += 1
        parameter[index] = value + offset
        return float(transformer.evaluate(twin.params, texts, targets, twin.config, ops=twin.ops))

    typical = float(np.sqrt(np.mean(parameter**2))) or 1.0
    slope, error, h = ridders(evaluate, FIRST * typical)
    error = max(error, np.finfo(np.float64).eps * abs(loss) / h)  # that of rounding
    done = 1 + 2 * MOST  # fewer were needed, if the slope was found earlier
    reach = typical if reach is None else reach
    if not 0 < reach < np.inf:
        raise InputError(f"reach is {reach}, but must be above 0 and finite")
    offsets = np.linspace(-reach, reach, points)
    losses = np.array([evaluate(offset) for offset in offsets])
    gradient = float(find(g, name)[index])
    return Nudge(name, index, value, float(loss), gradient, slope, error, h, offsets, losses)


def ridders(function: Callable[[float], float], h: float) -> tuple[float, float, float]:
    """Return the slope of a function at 0, an estimate of its error, and the smallest h."""
    best, error, table = 0.0, np.inf, list[float]()
    for _ in range(MOST):
        row = [(function(h) - function(-h)) / (2 * h)]
        for power, before in enumerate(table, 1):
            row.append(row[-1] + (row[-1] - before) / (SHRINK ** (2 * power) - 1))
            doubt = max(abs(row[-1] - row[-2]), abs(row[-1] - before))
            if doubt <= error:
                best, error = row[-1], doubt
        if error <= ENOUGH * abs(best) or (table and abs(row[-1] - table[-1]) >= 2 * error):
            break
        table, h = row, h / SHRINK
    return best, float(error), h
