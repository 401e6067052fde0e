"""A large matrix as the means of its blocks, for a picture of few pixels."""

import numpy as np

from npgpt.arrays import Array


def means(values: Array, rows: int, columns: int) -> Array:
    """(I, O) -> at most (rows, columns): return the means of blocks.

    The means of an outer product are the outer product of the means.
    """
    for axis, most in ((0, rows), (1, columns)):
        size = values.shape[axis]
        if size > most:
            starts = np.linspace(0, size, most, endpoint=False).astype(int)
            counts = np.diff([*starts, size])
            sums = np.add.reduceat(values, starts, axis)
            values = sums / (counts[:, None] if axis == 0 else counts)
    return values
