"""The slope of the loss at one element, measured by finite differences of the forward pass."""

from typing import Any

import numpy as np

from npgpt.learn.exercise import Case, Exercise

STEP = 1e-5


def slope(exercise: Exercise, case: Case, result: str, index: tuple[int, ...]) -> float | None:
    """Return the derivative of the loss at `index`; None if the result is not a gradient."""
    name = exercise.inputs.get(result)
    if name is None or exercise.loss is None:
        return None
    everything: dict[str, Any] = case.extra | case.arguments
    if everything[name].dtype != np.float64:
        return None
    values = []
    for step in (STEP, -STEP):
        moved = everything[name].copy()
        moved[index] += step
        values.append(float(exercise.loss(everything | {name: moved})))
    return (values[0] - values[1]) / (2 * STEP)
