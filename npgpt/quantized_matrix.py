"""A matrix kept in fewer bits, and the roundings that make one of a float32 matrix.

bfloat16 is the upper half of a float32: its sign, its exponent, and 7 of its 23 binary places.
int8 counts in steps: every output channel has a `scale`, a 127th of its largest number, and a
number is the whole multiple of it that is nearest. docs/precision.md says what that costs.
"""

import numpy as np

from npgpt.arrays import Array
from npgpt.errors import InputError

CHUNK = 1 << 20  # numbers rounded at once
KINDS = "bfloat16", "int8"
MOST = 127  # of an int8; -128 is left out, so that what is negative is as fine as what is not


class QuantizedMatrix:
    """A matrix in fewer bits, which stands in a tree of parameters where a float32 one would.

    `values`: uint16, the bits of bfloat16 numbers, or int8. `scale`: float32, one for each output
    channel, which is a row of `values` (`axis` 0) or a column (`axis` 1); None for bfloat16.
    `transposed`: it stands for the transposed matrix; `values` stays as it lies.
    """

    ndim = 2
    dtype = np.dtype(np.float32)  # what it stands for, and what is computed with it

    def __init__(self, values: Array, scale: Array | None, axis: int, *, transposed: bool = False):
        self.values, self.scale, self.axis, self.transposed = values, scale, axis, transposed

    @property
    def kind(self) -> str:
        """ "bfloat16" or "int8"."""
        return "bfloat16" if self.scale is None else "int8"

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the matrix that it stands for."""
        return self.values.shape[::-1] if self.transposed else self.values.shape

    @property
    def nbytes(self) -> int:
        """What its numbers take."""
        return self.values.nbytes + (0 if self.scale is None else self.scale.nbytes)

    @property
    def T(self) -> "QuantizedMatrix":
        """The transposed matrix, of the same values."""
        return QuantizedMatrix(self.values, self.scale, self.axis, transposed=not self.transposed)

    def __len__(self) -> int:
        return self.shape[0]

    def widen(self) -> Array:
        """The matrix, float32 of `shape`."""
        wide = widen(self.values, self.scale, self.axis)
        return wide.T if self.transposed else wide

    def rows(self, ids: Array) -> Array:
        """(...) integers -> (..., C) float32: these rows of `values`."""
        scale = self.scale
        if scale is not None and self.axis == 0:
            scale = scale[ids]
        return widen(self.values[ids], scale, self.axis)


def widen(values: Array, scale: Array | None, axis: int) -> Array:
    """Quantized numbers (..., C) -> float32. `scale`: one per row (`axis` 0) or column; or None."""
    if scale is None:
        return from_bfloat16(values)
    return values * (scale[..., None] if axis == 0 else scale)


def bfloat16(array: Array) -> QuantizedMatrix:
    """A float32 matrix rounded to bfloat16."""
    values = np.empty(array.shape, np.uint16)
    for some in slices(array):
        values[some] = to_bfloat16(array[some])
    return QuantizedMatrix(values, None, axis=1)


def int8(array: Array, axis: int) -> QuantizedMatrix:
    """A float32 matrix rounded to int8, with a scale for every row (`axis` 0) or column (`axis` 1).

    Raises InputError for numbers that are not finite: int8 has none such.
    """
    largest = np.zeros(array.shape[axis], np.float32)
    for some in slices(array):
        found = np.abs(array[some]).max(1 - axis, initial=0)
        if axis == 0:
            largest[some] = found
        else:
            np.maximum(largest, found, out=largest)
    if not np.isfinite(largest).all():
        raise InputError(
            f"a matrix {array.shape} has numbers that are nan or infinite: int8 has no place for "
            "them; bfloat16 has"
        )
    # a 127th of a number below 1e-36 has fewer binary places than a float32 should, or is 0
    scale = np.maximum(largest / np.float32(MOST), np.finfo(np.float32).tiny)
    scale[largest == 0] = 1
    values = np.empty(array.shape, np.int8)
    for some in slices(array):
        values[some] = np.rint(array[some] / (scale[some, None] if axis == 0 else scale))
    return QuantizedMatrix(values, scale, axis)


def slices(array: Array) -> list[slice]:
    """The rows of a matrix, some at a time: no second copy of it is ever made."""
    many = max(1, CHUNK // max(1, array.shape[1]))
    return [slice(i, min(i + many, len(array))) for i in range(0, len(array), many)]


def to_bfloat16(numbers: Array) -> Array:
    """float32 -> the upper halves as uint16, rounded to nearest even; nan stays nan."""
    bits = np.ascontiguousarray(numbers, np.float32).view(np.uint32)
    up = 0x7FFF + (bits >> 16 & 1)  # a tie goes up where the last bit that stays is 1
    rounded = (bits + up) >> 16
    return np.where(np.isnan(numbers), bits >> 16 | 0x40, rounded).astype(np.uint16)


def from_bfloat16(halves: Array) -> Array:
    """The upper halves as uint16 -> float32, exact."""
    return (halves.astype(np.uint32) << 16).view(np.float32)
