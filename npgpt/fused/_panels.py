"""Operands for the register block (_tile.py): copied together so that they are read in order.

A panel holds, for every term of the sum, `width` lanes: the rows of the left operand or the columns
of the right one. Where lanes lie side by side in the matrix they are copied (`pack_across`), where
the terms do, they are transposed (`pack_along`).
"""

import numpy as np
from numba import types
from numba.extending import overload

from npgpt.fused._jit import njit
from npgpt.fused._tile import BYTES, ROWS, VECTORS, copy, copy_pairs, fetch, tile, transpose

ROWS_AHEAD, VECTORS_AHEAD = 8, 4  # what packing asks for before it comes to it


@njit
def right_width(x):
    """Lanes of a right panel in x's dtype."""
    return VECTORS * BYTES // x.itemsize


@njit
def pack_across(x, first, terms, left, lanes, width, packed, p):
    """packed[p + k width + w] = x[first + k, left + w], for k < terms and w < lanes

    `x` is a C-contiguous matrix, `packed` flat. What follows in the lanes up to `width` is unsaid.
    """
    step, columns = BYTES // packed.itemsize, x.shape[1]
    flat = x.reshape(-1)
    whole = min(width, columns - left) // step * step  # lanes that can be read by whole vectors
    for k in range(terms):
        at = (first + k) * columns + left
        for w in range(0, whole, step):
            fetch(flat, at + ROWS_AHEAD * columns + w)
            copy(flat, at + w, packed, p + k * width + w)
        for w in range(whole, lanes):
            packed[p + k * width + w] = flat[at + w]


@njit
def pack_along(x, first, terms, left, lanes, width, packed, p):
    """packed[p + k width + w] = x[left + w, first + k], for k < terms and w < lanes

    `x` is a C-contiguous matrix, `packed` flat. What follows in the lanes up to `width` is unsaid.
    """
    step, columns = BYTES // packed.itemsize, x.shape[1]
    flat = x.reshape(-1)
    whole = terms // step * step
    for k in range(0, whole, step):
        for w in range(0, lanes, step):
            at = (left + w) * columns + first + k
            for row in range(step):
                fetch(flat, at + row * columns + VECTORS_AHEAD * step)
            transpose(flat, at, columns, lanes - w, packed, p + k * width + w, width)
    for k in range(whole, terms):
        for w in range(lanes):
            packed[p + k * width + w] = x[left + w, first + k]


# The same for panels of uint32: a term there is a pair, as bfloat16.


@njit
def pack_pairs_across(x, first, terms, left, lanes, width, packed, p):
    """packed[p + k width + w] = x[first + 2k, left + w], x[first + 2k + 1, left + w]"""
    step, columns = BYTES // packed.itemsize, x.shape[1]
    flat = x.reshape(-1)
    whole = min(width, columns - left) // step * step
    for k in range(0, terms, 2):
        at, both, q = (first + k) * columns + left, k + 1 < terms, p + k // 2 * width
        after = at + columns if both else at
        for w in range(0, whole, step):
            fetch(flat, at + ROWS_AHEAD * columns + w)
            fetch(flat, after + ROWS_AHEAD * columns + w)
            copy_pairs(flat, at + w, after + w, both, packed, q + w)
        for w in range(whole, lanes):
            second = bits(flat[after + w]) if both else np.uint32(0)
            packed[q + w] = bits(flat[at + w]) | second << np.uint32(16)


@njit
def pack_pairs_along(x, first, terms, left, lanes, width, packed, p):
    """packed[p + k width + w] = x[left + w, first + 2k], x[left + w, first + 2k + 1]"""
    step, columns = BYTES // packed.itemsize, x.shape[1]
    flat = x.reshape(-1)
    whole = terms // (2 * step) * (2 * step)
    for k in range(0, whole, 2 * step):
        for w in range(0, lanes, step):
            at = (left + w) * columns + first + k
            for row in range(step):
                fetch(flat, at + row * columns + 2 * VECTORS_AHEAD * step)
            transpose(flat, at, columns, lanes - w, packed, p + k // 2 * width + w, width)
    for k in range(whole, terms, 2):
        for w in range(lanes):
            second = bits(x[left + w, first + k + 1]) if k + 1 < terms else np.uint32(0)
            packed[p + k // 2 * width + w] = bits(x[left + w, first + k]) | second << np.uint32(16)


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


def pack(x, turned, first, terms, left, lanes, width, packed, p):
    """Whichever of the four it is: turned, terms are x's columns; of uint32, panels are pairs."""
    raise NotImplementedError("only inside a Numba kernel")


@overload(pack)
def _overload_pack(x, turned, first, terms, left, lanes, width, packed, p):
    pairs = packed.dtype == types.uint32
    along = pack_pairs_along if pairs else pack_along
    across = pack_pairs_across if pairs else pack_across

    def packing(x, turned, first, terms, left, lanes, width, packed, p):
        if turned:
            along(x, first, terms, left, lanes, width, packed, p)
        else:
            across(x, first, terms, left, lanes, width, packed, p)

    return packing


STRIP = 4  # terms packed at once: of these rows of a matrix, all panels are made


@njit
def pack_panels(x, turned, first, terms, left, lanes, width, count, pair, panels, p, stride):
    """`count` panels of up to `lanes` lanes each, `stride` numbers apart, of a part of x that ends
    where x does. `turned`: terms are x's columns, else its rows. `pair`: terms of a number.
    """
    most, strip = (x.shape[0], terms) if turned else (x.shape[1], STRIP)
    for start in range(0, terms, strip):
        some = min(strip, terms - start)
        for i in range(count):
            lane, q = left + i * lanes, p + i * stride + start // pair * width
            pack(x, turned, first + start, some, lane, min(lanes, most - lane), width, panels, q)


@njit
def put(left, p, right, q, right_stride, terms, onto, t, onto_stride, adds, out, o, stride, rows,
        columns, corner):  # fmt: skip
    """A tile into `out`, of which only so many rows and columns are there. See `tile`."""
    width = right_width(out)
    whole = rows == ROWS and columns == width
    home, h, home_stride = (out, o, stride) if whole else (corner, 0, width)
    tile(left, p, right, q, right_stride, terms, onto, t, onto_stride, adds if whole else 0,
         home, h, home_stride)  # fmt: skip
    for i in range(0 if whole else rows):
        row, place = corner[i * width :][:columns], out[o + i * stride :][:columns]
        if adds:
            before = onto[t + i * onto_stride :][:columns]
            for j in range(columns):
                row[j] += before[j]
        for j in range(columns):
            place[j] = row[j]
