"""Statistics of one tensor: mean, standard deviation, extremes, and the count of nan and inf."""

import math
from typing import NamedTuple

import numpy as np

from npgpt.weights.mapped import MappedTensor

CHUNK = 1 << 18  # numbers at once: as float64 they fit into a core's cache


class Statistics(NamedTuple):
    """Statistics of the finite numbers, nan if there are none."""

    mean: float
    std: float  # of the population, not of a sample
    min: float
    max: float
    nan: int  # how many numbers are nan
    inf: int  # how many numbers are infinite


def statistics(tensor: MappedTensor) -> Statistics:
    """Compute the statistics in float64, reading the tensor once, in chunks.

    Chunks are combined as in Chan, Golub, LeVeque 1979, "Updating formulae and a pairwise
    algorithm for computing sample variances".
    """
    count, mean, squares, low, high, nan, inf = 0, 0.0, 0.0, math.inf, -math.inf, 0, 0
    for chunk in tensor.chunks(CHUNK):
        x = chunk.astype(np.float64)
        least, most = x.min(), x.max()
        if not (math.isfinite(least) and math.isfinite(most)):  # both are nan if any number is
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
