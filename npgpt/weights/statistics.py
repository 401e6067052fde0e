"""The numbers of one tensor in a few: mean, spread, extremes, and what is no number."""

import math
from typing import NamedTuple

import numpy as np

from npgpt.weights.mapped import MappedTensor

CHUNK = 1 << 18  # numbers at once: as float64 they fit into a core's cache


class Statistics(NamedTuple):
    """Of the finite numbers; nan where there are none."""

    mean: float
    std: float  # of all of them, not of a sample
    min: float
    max: float
    nan: int  # how many are none
    inf: int  # how many are infinite


def statistics(tensor: MappedTensor) -> Statistics:
    """Reads the tensor once, a piece at a time, in float64.

    Pieces are put together as in Chan, Golub, LeVeque 1979, "Updating formulae and a pairwise
    algorithm for computing sample variances".
    """
    count, mean, squares, low, high, nan, inf = 0, 0.0, 0.0, math.inf, -math.inf, 0, 0
    for chunk in tensor.chunks(CHUNK):
        x = chunk.astype(np.float64)
        least, most = x.min(), x.max()
        if not (math.isfinite(least) and math.isfinite(most)):  # nan comes out of both
            nan += int(np.isnan(x).sum())
            inf += int(np.isinf(x).sum())
            x = x[np.isfinite(x)]
            if not x.size:
                continue
            least, most = x.min(), x.max()
        low, high = min(low, least), max(high, most)
        middle = x.mean()
        x -= middle
        shift, total = middle - mean, count + x.size
        squares += x @ x + shift * shift * count * x.size / total
        mean += shift * x.size / total
        count = total
    if not count:
        return Statistics(math.nan, math.nan, math.nan, math.nan, nan, inf)
    return Statistics(float(mean), math.sqrt(squares / count), float(low), float(high), nan, inf)
