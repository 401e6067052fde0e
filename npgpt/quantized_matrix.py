"""A matrix stored as bfloat16 or int8, and the rounding of a float32 matrix to one.

bfloat16 is the upper half of a float32: its sign, its exponent, and 7 of its 23 fraction bits.
int8 has one `scale` per output channel, a 127th of the largest magnitude in it: each number is
rounded to the nearest multiple. The errors are measured in docs/precision.md.
"""

import numpy as np

from npgpt.arrays import Array, zeros
from npgpt.errors import InputError

CHUNK = 1 << 20  # numbers rounded at once
KINDS = "bfloat16", "int8"
MOST = 127  # -128 is not used: positive and negative numbers have the same range


class QuantizedMatrix:
    """A matrix stored as bfloat16 or int8, used in a parameter tree in place of a float32 array.

    Parameters
    ----------
    values : (I, O) uint16 or int8
        The bits of bfloat16 numbers, or integers.
    scale : (I,) or (O,) float32, or None
        One number per output channel of int8; None for bfloat16.
    axis : int
        The axis of `values` that is the output channel.
    transposed : bool, default False
        If True, represents `values.T`; `values` itself is not moved.
    """

    ndim = 2
    dtype = np.dtype(np.float32)  # of the represented matrix, and of computations with it

    def __init__(self, values: Array, scale: Array | None, axis: int, *, transposed: bool = False):
        self.values, self.scale, self.axis, self.transposed = values, scale, axis, transposed

    @property
    def kind(self) -> str:
        """Return "bfloat16" or "int8"."""
        return "bfloat16" if self.scale is None else "int8"

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the shape of the represented matrix."""
        return self.values.shape[::-1] if self.transposed else self.values.shape

    @property
    def nbytes(self) -> int:
        """Return the size of values and scales in bytes."""
        return self.values.nbytes + (0 if self.scale is None else self.scale.nbytes)

    @property
    def T(self) -> "QuantizedMatrix":
        """Return the transposed matrix, with the same values."""
        return QuantizedMatrix(self.values, self.scale, self.axis, transposed=not self.transposed)

    def __len__(self) -> int:
        return self.shape[0]

    def copy(self) -> "QuantizedMatrix":
        """Return an independent copy."""
        scale = None if self.scale is None else self.scale.copy()
        return QuantizedMatrix(self.values.copy(), scale, self.axis, transposed=self.transposed)

    def widen(self) -> Array:
        """Return the matrix as float32 of `shape`."""
        wide = widen(self.values, self.scale, self.axis)
        return wide.T if self.transposed else wide

    def rows(self, ids: Array) -> Array:
        """(...) int -> (..., C) float32: return these rows of `values`."""
        scale = self.scale
        if scale is not None and self.axis == 0:
            scale = scale[ids]
        return widen(self.values[ids], scale, self.axis)


def widen(values: Array, scale: Array | None, axis: int) -> Array:
    """(..., C) -> (..., C) float32. `scale`: one per row (`axis` 0) or column, or None."""
    if scale is None:
        return from_bfloat16(values)
    return values * (scale[..., None] if axis == 0 else scale)


def bfloat16(array: Array) -> QuantizedMatrix:
    """Return a float32 matrix rounded to bfloat16."""
    values = zeros(array.shape, np.uint16)
    for rows in slices(array):
        values[rows] = to_bfloat16(array[rows])
    return QuantizedMatrix(values, None, axis=1)


def int8(array: Array, axis: int) -> QuantizedMatrix:
    """Return a float32 matrix rounded to int8, with one scale per row (`axis` 0) or column (1).

    Raises InputError for numbers that are not finite: int8 cannot represent them.
    """
    largest = np.zeros(array.shape[axis], np.float32)
    for rows in slices(array):
        found = np.abs(array[rows]).max(1 - axis, initial=0)
        if axis == 0:
            largest[rows] = found
        else:
            np.maximum(largest, found, out=largest)
    if not np.isfinite(largest).all():
        raise InputError(
            f"a matrix {array.shape} has numbers that are nan or infinite, which int8 cannot "
            "represent"
        )
    # a 127th of a number below 1e-36 is subnormal, thus less precise, or 0
    scale = np.maximum(largest / np.float32(MOST), np.finfo(np.float32).tiny)
    scale[largest == 0] = 1
    values = zeros(array.shape, np.int8)
    for rows in slices(array):
        values[rows] = np.rint(array[rows] / (scale[rows, None] if axis == 0 else scale))
    return QuantizedMatrix(values, scale, axis)


def slices(array: Array) -> list[slice]:
    """Return slices of rows with about CHUNK numbers each, to round a matrix without a copy."""
    step = max(1, CHUNK // max(1, array.shape[1]))
    return [slice(i, min(i + step, len(array))) for i in range(0, len(array), step)]


def to_bfloat16(numbers: Array) -> Array:
    """Return the upper halves of float32 numbers as uint16, rounded to nearest even; nan stays."""
    bits = np.ascontiguousarray(numbers, np.float32).view(np.uint32)
    up = 0x7FFF + (bits >> 16 & 1)  # a tie is rounded up if the last remaining bit is 1
    rounded = (bits + up) >> 16
    return np.where(np.isnan(numbers), bits >> 16 | 0x40, rounded).astype(np.uint16)


def from_bfloat16(halves: Array) -> Array:
    """Return bfloat16 bits (uint16) as float32, exactly."""
    return (halves.astype(np.uint32) << 16).view(np.float32)
