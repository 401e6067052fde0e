"""Pack operands into panels, in the order in which the microkernel reads them.

A panel holds `width` lanes for every k: the rows of the left operand, or the columns of the right
one. Lanes that are contiguous in the matrix are copied (`pack_across`). If k is contiguous they are
transposed (`pack_along`), a vector of rows at a time: hardware prefetchers follow that many
streams, and not twice as many.
"""

import numpy as np
from numba import types
from numba.extending import overload

from npgpt.arrays import LINE
from npgpt.kernels.cpu import BFLOAT16, BYTES
from npgpt.kernels.gemm_microkernel import FEW_ROWS, MR, VECTORS, microkernel
from npgpt.kernels.jit import inner
from npgpt.kernels.simd import copy, copy_pairs, prefetch_element, transpose

ROWS_AHEAD = 8  # of single lines, which hardware prefetchers do not recognise
STRIP = 8  # rows that all panels read before the next rows are read; even, for pairs


def vector_lanes(x):
    """Return the lanes of a vector of x's dtype."""
    raise NotImplementedError("only inside a Numba kernel")


@overload(vector_lanes)
def _overload_vector_lanes(x):
    if BYTES == LINE:
        return lambda x: BYTES // x.itemsize
    lanes = BYTES * 8 // x.dtype.bitwidth  # a constant: Numba divides by `itemsize` in every loop
    return lambda x: lanes


@inner
def right_width(x):
    """Return NR, the lanes of a right panel, in x's dtype."""
    return VECTORS * vector_lanes(x)


@inner
def elements_across(x, first, K, left, lanes, width, count, packed, p, stride):
    """packed[p + i stride + k width + w] = x[first + k, left + i lanes + w]

    For i < count, k < K and w < lanes, as far as x has columns. `x` is a C-contiguous matrix,
    `packed` flat. The lanes from `lanes` to `width` are undefined.
    """
    step, columns = vector_lanes(packed), x.shape[1]
    flat = x.reshape(-1)
    full = full_panels(columns - left, lanes, width, count)
    for start in range(0, K, STRIP):
        for i in range(full):
            at = (first + start) * columns + left + i * lanes
            q = p + i * stride + start * width
            for _ in range(min(STRIP, K - start)):
                if count > 1:  # a single panel is a part of a head, and in a cache already
                    for line in (0, width - 1):
                        prefetch_element(flat, at + ROWS_AHEAD * columns + line)
                copy(flat, at, packed, q)
                for w in range(step, width, step):
                    copy(flat, at + w, packed, q + w)
                at += columns
                q += width
    for i in range(full, count):
        some = min(lanes, columns - left - i * lanes)
        for k in range(K):
            for w in range(some):
                number = x[first + k, left + i * lanes + w]
                packed[p + i * stride + k * width + w] = as_packed(number, packed)


@inner
def full_panels(columns, lanes, width, count):
    """Return how many of `count` panels have all `width` lanes in a matrix of `columns`."""
    return min(count, (columns - width) // lanes + 1) if columns >= width else 0


@inner
def elements_along(x, first, K, left, lanes, width, count, packed, p, stride):
    """packed[p + i stride + k width + w] = x[left + i lanes + w, first + k]

    For i < count, k < K and w < lanes, as far as x has rows. `x` is a C-contiguous matrix,
    `packed` flat. The lanes from `lanes` to `width` are undefined.
    """
    step, (rows, columns) = vector_lanes(packed), x.shape
    flat = x.reshape(-1)
    full = K // step * step
    for i in range(count):
        top, q = left + i * lanes, p + i * stride
        some = min(lanes, rows - top)
        for w in range(0, some, step):
            at = (top + w) * columns + first
            for k in range(0, full, step):
                transpose(flat, at + k, columns, some - w, packed, q + k * width + w, width)
        for k in range(full, K):
            for w in range(some):
                packed[q + k * width + w] = as_packed(x[top + w, first + k], packed)


# The same for panels of uint32, if the CPU multiplies pairs: each step holds two values of k, as a
# pair of bfloat16.


@inner
def pairs_across(x, first, K, left, lanes, width, count, packed, p, stride):
    """packed[p + i stride + k width + w] = x[first + 2k, left + i lanes + w], and in its upper half
    x[first + 2k + 1, left + i lanes + w]"""
    step, columns = BYTES // packed.itemsize, x.shape[1]
    flat = x.reshape(-1)
    full = full_panels(columns - left, lanes, width, count)
    for start in range(0, K, STRIP):
        for i in range(full):
            at = (first + start) * columns + left + i * lanes
            q = p + i * stride + start // 2 * width
            for k in range(start, min(start + STRIP, K), 2):
                if count > 1:
                    for line in (0, width - 1):
                        prefetch_element(flat, at + ROWS_AHEAD * columns + line)
                        prefetch_element(flat, at + (ROWS_AHEAD + 1) * columns + line)
                both = k + 1 < K
                after = at + columns if both else at
                copy_pairs(flat, at, after, both, packed, q)
                for w in range(step, width, step):
                    copy_pairs(flat, at + w, after + w, both, packed, q + w)
                at += 2 * columns
                q += width
    for i in range(full, count):
        some = min(lanes, columns - left - i * lanes)
        for k in range(0, K, 2):
            for w in range(some):
                column = left + i * lanes + w
                second = bits(x[first + k + 1, column]) if k + 1 < K else np.uint32(0)
                pair = bits(x[first + k, column]) | second << np.uint32(16)
                packed[p + i * stride + k // 2 * width + w] = pair


@inner
def pairs_along(x, first, K, left, lanes, width, count, packed, p, stride):
    """packed[p + i stride + k width + w] = x[left + i lanes + w, first + 2k], and in its upper half
    x[left + i lanes + w, first + 2k + 1]"""
    step, (rows, columns) = BYTES // packed.itemsize, x.shape
    flat = x.reshape(-1)
    full = K // (2 * step) * (2 * step)
    for i in range(count):
        top, q = left + i * lanes, p + i * stride
        some = min(lanes, rows - top)
        for w in range(0, some, step):
            at = (top + w) * columns + first
            for k in range(0, full, 2 * step):
                transpose(flat, at + k, columns, some - w, packed, q + k // 2 * width + w, width)
        for k in range(full, K, 2):
            for w in range(some):
                second = bits(x[top + w, first + k + 1]) if k + 1 < K else np.uint32(0)
                pair = bits(x[top + w, first + k]) | second << np.uint32(16)
                packed[q + k // 2 * width + w] = pair


def bits(number):
    """Return a number as bfloat16, in the lower half of a uint32.

    float32 is rounded to nearest even, uint16 is bfloat16 already.
    """
    raise NotImplementedError("only inside a Numba kernel")


@overload(bits)
def _overload_bits(number):
    if number == types.uint16:
        return lambda number: np.uint32(number)

    def rounded(number):
        word = np.float32(number).view(np.uint32)
        if word & np.uint32(0x7FFFFFFF) > np.uint32(0x7F800000):  # NaN: quiet, its sign kept
            return (word >> np.uint32(16)) | np.uint32(64)
        odd = (word >> np.uint32(16)) & np.uint32(1)
        return (word + np.uint32(0x7FFF) + odd) >> np.uint32(16)

    return rounded


def as_packed(number, packed):
    """Return a number for panels; for uint32, the bits of a float32 rounded to bfloat16."""
    raise NotImplementedError("only inside a Numba kernel")


@overload(as_packed)
def _overload_as_packed(number, packed):
    if packed.dtype == types.uint32:
        return lambda number, packed: np.uint32(bits(number) << np.uint32(16))
    return lambda number, packed: number


def pack_across(x, first, K, left, lanes, width, count, packed, p, stride):
    """Pack `pairs_across` if `packed` holds pairs, else `elements_across`."""
    raise NotImplementedError("only inside a Numba kernel")


@overload(pack_across)
def _overload_pack_across(x, first, K, left, lanes, width, count, packed, p, stride):
    return caller_of(pairs_across if holds_pairs(packed) else elements_across)


def pack_along(x, first, K, left, lanes, width, count, packed, p, stride):
    """Pack `pairs_along` if `packed` holds pairs, else `elements_along`."""
    raise NotImplementedError("only inside a Numba kernel")


@overload(pack_along)
def _overload_pack_along(x, first, K, left, lanes, width, count, packed, p, stride):
    return caller_of(pairs_along if holds_pairs(packed) else elements_along)


def holds_pairs(packed) -> bool:
    """Return True if two values of k are in an element of this Numba array."""
    return BFLOAT16 and packed.dtype == types.uint32


def caller_of(function):
    """Return a function with the parameter names of packing that calls this one."""

    def call(x, first, K, left, lanes, width, count, packed, p, stride):
        function(x, first, K, left, lanes, width, count, packed, p, stride)

    return call


@inner
def pack(x, transposed, first, K, left, lanes, width, count, packed, p, stride):
    """Pack `x`, or its transpose, of which k counts the columns."""
    if transposed:
        pack_along(x, first, K, left, lanes, width, count, packed, p, stride)
    else:
        pack_across(x, first, K, left, lanes, width, count, packed, p, stride)


def steps_of(K, packed):
    """Return the number of steps in a panel of K values of k: half of K for pairs, rounded up."""
    raise NotImplementedError("only inside a Numba kernel")


@overload(steps_of)
def _overload_steps_of(K, packed):
    if holds_pairs(packed):
        return lambda K, packed: -(-K // 2)
    return lambda K, packed: K


@inner
def multiply_panels(left, p, right, q, right_stride, steps, addend, t, addend_stride, adds, out, o,
                    stride, rows, columns, corner, streams):  # fmt: skip
    """Run the microkernel on a tile of which `rows` rows and `columns` columns are inside `out`.

    A tile at the border is computed in `corner` first. The microkernel gets its distance from
    `out`, not the array: Numba would count references to an array that is selected from two, with
    locked instructions that wait for all stores before them.
    """
    width, height = right_width(out), FEW_ROWS if rows <= FEW_ROWS else MR
    full = rows == height and columns == width
    distance = (corner.ctypes.data - out.ctypes.data) // out.itemsize
    start, tile_stride = (o, stride) if full else (distance, width)
    joins, streams = (adds, streams) if full else (0, 0)
    if height == MR:
        microkernel(MR, left, p, right, q, right_stride, steps, addend, t, addend_stride, joins,
                    out, start, tile_stride, streams)  # fmt: skip
    else:
        microkernel(FEW_ROWS, left, p, right, q, right_stride, steps, addend, t, addend_stride,
                    joins, out, start, tile_stride, streams)  # fmt: skip
    for i in range(0 if full else rows):
        row, dst = corner[i * width :][:columns], out[o + i * stride :][:columns]
        if adds:
            before = addend[t + i * addend_stride :][:columns]
            for j in range(columns):
                row[j] += before[j]
        for j in range(columns):
            dst[j] = row[j]
