"""Pack operands for the microkernel (gemm_microkernel.py), in the order in which it reads them.

A panel holds, for every term of the sum, `width` lanes: the rows of the left operand or the columns
of the right one. Where lanes lie side by side in the matrix they are copied (`pack_across`), where
the terms do, they are transposed (`pack_along`), down a vector of rows at a time: so many streams
the CPU sees coming, twice as many it does not.
"""

import numpy as np
from numba import types
from numba.extending import overload

from npgpt.kernels.cpu import BYTES
from npgpt.kernels.gemm_microkernel import ROWS, VECTORS, tile
from npgpt.kernels.jit import inner
from npgpt.kernels.simd import copy, copy_pairs, fetch, transpose

ROWS_AHEAD = 8  # rows of single lines, which the CPU does not ask for by itself before their turn
STRIP = 8  # rows of which all panels are made before the next ones are read; even, for pairs


@inner
def right_width(x):
    """Lanes of a right panel in x's dtype."""
    return VECTORS * BYTES // x.itemsize


@inner
def numbers_across(x, first, terms, left, lanes, width, count, packed, p, stride):
    """packed[p + i stride + k width + w] = x[first + k, left + i lanes + w]

    For i < count, k < terms and w < lanes, where x has so many columns. `x` is a C-contiguous
    matrix, `packed` flat. What follows in the lanes up to `width` is unsaid.
    """
    step, columns = BYTES // packed.itemsize, x.shape[1]
    flat = x.reshape(-1)
    whole = whole_panels(columns - left, lanes, width, count)
    for start in range(0, terms, STRIP):
        for i in range(whole):
            at = (first + start) * columns + left + i * lanes
            q = p + i * stride + start * width
            for _ in range(min(STRIP, terms - start)):
                if count > 1:  # one panel alone is of a head, and in a cache already
                    for line in (0, width - 1):
                        fetch(flat, at + ROWS_AHEAD * columns + line)
                copy(flat, at, packed, q)
                for w in range(step, width, step):
                    copy(flat, at + w, packed, q + w)
                at += columns
                q += width
    for i in range(whole, count):
        some = min(lanes, columns - left - i * lanes)
        for k in range(terms):
            for w in range(some):
                packed[p + i * stride + k * width + w] = x[first + k, left + i * lanes + w]


@inner
def whole_panels(columns, lanes, width, count):
    """How many panels have all their `width` lanes, beyond `lanes` too, among so many columns."""
    return min(count, (columns - width) // lanes + 1) if columns >= width else 0


@inner
def numbers_along(x, first, terms, left, lanes, width, count, packed, p, stride):
    """packed[p + i stride + k width + w] = x[left + i lanes + w, first + k]

    For i < count, k < terms and w < lanes, where x has so many rows. `x` is a C-contiguous matrix,
    `packed` flat. What follows in the lanes up to `width` is unsaid.
    """
    step, (rows, columns) = BYTES // packed.itemsize, x.shape
    flat = x.reshape(-1)
    whole = terms // step * step
    for i in range(count):
        top, q = left + i * lanes, p + i * stride
        some = min(lanes, rows - top)
        for w in range(0, some, step):
            at = (top + w) * columns + first
            for k in range(0, whole, step):
                transpose(flat, at + k, columns, some - w, packed, q + k * width + w, width)
        for k in range(whole, terms):
            for w in range(some):
                packed[q + k * width + w] = x[top + w, first + k]


# The same for panels of uint32: a term there is a pair, as bfloat16.


@inner
def pairs_across(x, first, terms, left, lanes, width, count, packed, p, stride):
    """packed[p + i stride + k width + w] = x[first + 2k, left + i lanes + w], and in its upper half
    x[first + 2k + 1, left + i lanes + w]"""
    step, columns = BYTES // packed.itemsize, x.shape[1]
    flat = x.reshape(-1)
    whole = whole_panels(columns - left, lanes, width, count)
    for start in range(0, terms, STRIP):
        for i in range(whole):
            at = (first + start) * columns + left + i * lanes
            q = p + i * stride + start // 2 * width
            for k in range(start, min(start + STRIP, terms), 2):
                if count > 1:
                    for line in (0, width - 1):
                        fetch(flat, at + ROWS_AHEAD * columns + line)
                        fetch(flat, at + (ROWS_AHEAD + 1) * columns + line)
                both = k + 1 < terms
                after = at + columns if both else at
                copy_pairs(flat, at, after, both, packed, q)
                for w in range(step, width, step):
                    copy_pairs(flat, at + w, after + w, both, packed, q + w)
                at += 2 * columns
                q += width
    for i in range(whole, count):
        some = min(lanes, columns - left - i * lanes)
        for k in range(0, terms, 2):
            for w in range(some):
                column = left + i * lanes + w
                second = bits(x[first + k + 1, column]) if k + 1 < terms else np.uint32(0)
                pair = bits(x[first + k, column]) | second << np.uint32(16)
                packed[p + i * stride + k // 2 * width + w] = pair


@inner
def pairs_along(x, first, terms, left, lanes, width, count, packed, p, stride):
    """packed[p + i stride + k width + w] = x[left + i lanes + w, first + 2k], and in its upper half
    x[left + i lanes + w, first + 2k + 1]"""
    step, (rows, columns) = BYTES // packed.itemsize, x.shape
    flat = x.reshape(-1)
    whole = terms // (2 * step) * (2 * step)
    for i in range(count):
        top, q = left + i * lanes, p + i * stride
        some = min(lanes, rows - top)
        for w in range(0, some, step):
            at = (top + w) * columns + first
            for k in range(0, whole, 2 * step):
                transpose(flat, at + k, columns, some - w, packed, q + k // 2 * width + w, width)
        for k in range(whole, terms, 2):
            for w in range(some):
                second = bits(x[top + w, first + k + 1]) if k + 1 < terms else np.uint32(0)
                pair = bits(x[top + w, first + k]) | second << np.uint32(16)
                packed[q + k // 2 * width + w] = pair


def bits(number):
    """A number as bfloat16, in the lower half of a uint32: float32 rounded to nearest even, int8
    exactly, uint16 as what they are already."""
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


def pack_across(x, first, terms, left, lanes, width, count, packed, p, stride):
    """Panels of numbers, or of pairs where `packed` is of uint32."""
    raise NotImplementedError("only inside a Numba kernel")


@overload(pack_across)
def _overload_pack_across(x, first, terms, left, lanes, width, count, packed, p, stride):
    return called(pairs_across if packed.dtype == types.uint32 else numbers_across)


def pack_along(x, first, terms, left, lanes, width, count, packed, p, stride):
    """The same of transposed ones."""
    raise NotImplementedError("only inside a Numba kernel")


@overload(pack_along)
def _overload_pack_along(x, first, terms, left, lanes, width, count, packed, p, stride):
    return called(pairs_along if packed.dtype == types.uint32 else numbers_along)


def called(packing):
    """A function of the same arguments that calls this one."""

    def call(x, first, terms, left, lanes, width, count, packed, p, stride):
        packing(x, first, terms, left, lanes, width, count, packed, p, stride)

    return call


@inner
def pack(x, transposed, first, terms, left, lanes, width, count, packed, p, stride):
    """Whichever of both it is: transposed, terms are x's columns."""
    if transposed:
        pack_along(x, first, terms, left, lanes, width, count, packed, p, stride)
    else:
        pack_across(x, first, terms, left, lanes, width, count, packed, p, stride)


def steps_of(terms, packed):
    """How many steps a panel of so many terms has: half as many, where it is of pairs."""
    raise NotImplementedError("only inside a Numba kernel")


@overload(steps_of)
def _overload_steps_of(terms, packed):
    if packed.dtype == types.uint32:
        return lambda terms, packed: -(-terms // 2)
    return lambda terms, packed: terms


@inner
def put(left, p, right, q, right_stride, terms, onto, t, onto_stride, adds, out, o, stride, rows,
        columns, corner, streams):  # fmt: skip
    """A tile into `out`, of which only so many rows and columns are there. See `tile`.

    Where it is not whole it goes into `corner` first, which `tile` is told of by its distance from
    `out`: to choose between two arrays Numba would count references to them, by instructions that
    wait until all that was written before is in place.
    """
    width = right_width(out)
    whole = rows == ROWS and columns == width
    away = (corner.ctypes.data - out.ctypes.data) // out.itemsize
    h, home_stride = (o, stride) if whole else (away, width)
    tile(left, p, right, q, right_stride, terms, onto, t, onto_stride, adds if whole else 0,
         out, h, home_stride, streams if whole else 0)  # fmt: skip
    for i in range(0 if whole else rows):
        row, place = corner[i * width :][:columns], out[o + i * stride :][:columns]
        if adds:
            before = onto[t + i * onto_stride :][:columns]
            for j in range(columns):
                row[j] += before[j]
        for j in range(columns):
            place[j] = row[j]
