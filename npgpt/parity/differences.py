"""Gradients by finite differences: those of an op whose forward is changed and has no backward."""

from collections.abc import Callable

import numpy as np

from npgpt.arrays import Array

STEP = 1e-5


def gradient(function: Callable[[Array], Array], x: Array, dout: Array, axes: int) -> Array:
    """Return the gradient of sum(function(x) * dout) with respect to x, of its shape and dtype.

    axes : the number of x's last axes within which its elements depend on each other. Along the
    axes before, all elements are moved at once.
    """
    wide, lead = x.astype(np.float64), x.ndim - axes
    found = np.empty(x.shape, x.dtype)
    for index in np.ndindex(x.shape[lead:]):
        at = (..., *index)
        values = []
        for step in (STEP, -STEP):
            moved = wide.copy()
            moved[at] += step
            values.append(function(moved))
        slope = (values[0] - values[1]) * (dout / (2 * STEP))
        found[at] = slope.sum(tuple(range(lead, slope.ndim)))
    return found
