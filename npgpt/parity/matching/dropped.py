"""Dropout, recognized by its result: some numbers are 0, and all others have one factor."""

import numpy as np

from npgpt.arrays import Array

CLOSE = 1e-4  # relative: how well the numbers that are kept have one factor
LEAST = 1 + 1e-6  # the factor of a dropout rate above 0


def factor_of(before: Array, after: Array) -> float | None:
    """Return the factor of the numbers that dropout has kept, None if this is no dropout.

    `after` may be a difference, which has the rounding of larger numbers.
    """
    if before.shape != after.shape or not before.size:
        return None
    scale = float(np.abs(before).max())
    counts = np.abs(before) > 10 * CLOSE * scale
    lost = counts & (np.abs(after) <= CLOSE * scale)
    kept = counts & ~lost
    if not lost.any() or not kept.any():
        return None
    factor = float(np.median(after[kept] / before[kept]))
    close = np.abs(after[kept] - factor * before[kept]) <= CLOSE * scale * max(1.0, abs(factor))
    return factor if factor > LEAST and close.all() else None
