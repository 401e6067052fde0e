"""Muon's five steps, seen in the singular values of a matrix.

Each step x <- a x + (b A + c A^2) x with A = x x^T keeps the singular vectors of x, and changes
each singular value by itself:

    s <- a s + b s^3 + c s^5
"""

from typing import NamedTuple

import numpy as np

from npgpt.arrays import Array
from npgpt.errors import InputError
from npgpt.ops import muon


class MuonSteps(NamedTuple):
    singular: Array  # (6, r), in the order of the first row: before, and after each step
    matrix: Array  # (I, O), the matrix after the last step


def steps(u: Array) -> MuonSteps:
    """(I, O) -> MuonSteps, r = min(I, O). The matrix is divided by its Frobenius norm first."""
    if u.ndim != 2 or not u.size or not np.isfinite(u).all():
        raise InputError(f"the matrix must be (I, O) and finite; it is of shape {u.shape}")
    u = u.astype(np.float64)
    x = u / max(np.linalg.norm(u), muon.MIN_NORM)
    values = [np.linalg.svd(x, compute_uv=False)]
    for _ in range(muon.ITERATIONS):
        values.append(curve(values[-1]))
    return MuonSteps(np.stack(values), muon.orthogonalize(u))


def curve(s: Array) -> Array:
    """Return the singular values after one step."""
    return muon.a * s + muon.b * s**3 + muon.c * s**5
