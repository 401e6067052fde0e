"""Operands for the register block (_tile.py): copied together so that they are read in order.

A panel holds, for every term of the sum, `width` lanes: the rows of the left operand or the columns
of the right one. Where lanes lie side by side in the matrix they are copied (`pack_across`), where
the terms do, they are transposed (`pack_along`).
"""

from npgpt.fused._jit import njit
from npgpt.fused._tile import BYTES, ROWS, VECTORS, copy, fetch, tile, transpose

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
    step, columns = BYTES // x.itemsize, x.shape[1]
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
    step, columns = BYTES // x.itemsize, x.shape[1]
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


STRIP = 4  # terms packed at once: of these rows of a matrix, all panels are made


@njit
def pack_panels(x, turned, first, terms, left, lanes, width, count, panels, p, stride):
    """`count` panels of up to `lanes` lanes each, `stride` numbers apart, of a part of x that ends
    where x does. `turned`: terms are x's columns, else its rows.
    """
    most, strip = (x.shape[0], terms) if turned else (x.shape[1], STRIP)
    for start in range(0, terms, strip):
        some = min(strip, terms - start)
        for i in range(count):
            lane, q = left + i * lanes, p + i * stride + start * width
            there = min(lanes, most - lane)
            if turned:
                pack_along(x, first + start, some, lane, there, width, panels, q)
            else:
                pack_across(x, first + start, some, lane, there, width, panels, q)


@njit
def put(left, p, right, q, right_stride, terms, onto, t, onto_stride, adds, out, o, stride, rows,
        columns, corner):  # fmt: skip
    """A tile into `out`, of which only so many rows and columns are there. See `tile`."""
    width = right_width(out)
    if rows == ROWS and columns == width:
        tile(left, p, right, q, right_stride, terms, onto, t, onto_stride, adds, out, o, stride)
        return
    tile(left, p, right, q, right_stride, terms, corner, 0, 0, 0, corner, 0, width)
    for i in range(rows):
        row, home = corner[i * width :][:columns], out[o + i * stride :][:columns]
        if adds:
            before = onto[t + i * onto_stride :][:columns]
            for j in range(columns):
                row[j] += before[j]
        for j in range(columns):
            home[j] = row[j]
