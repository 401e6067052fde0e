"""Products of a batch with a matrix that is read where it is stored: more than GROUP rows.

A task is a range of columns, WIDTH bytes of float32. The rows of b in that range are read from
memory once, part after part; each part stays in a cache while every panel of ROWS rows of a meets
it, tile by tile (gemv_tile.py). With 16 registers the part is copied first (gemv_packed.py). The
parts of k are those of gemv.py, and so are the bits.
"""

import numpy as np
from numba import types
from numba.extending import overload

from npgpt.arrays import LINE
from npgpt.kernels.cpu import BYTES, REGISTERS
from npgpt.kernels.gemv import PARTS, add_rest, part_start, row_distance, zero_row
from npgpt.kernels.gemv_packed import multiply_copied, multiply_streamed
from npgpt.kernels.gemv_tile import EDGE, ROWS, VECTORS, multiply_tile
from npgpt.kernels.jit import inner
from npgpt.kernels.packing import steps_of

WIDTH = 6 * LINE  # bytes of a task's columns in float32: a whole number of tiles
TASKS = 2  # per thread, that leave a copied task twice as wide


@inner
def task_columns(x, N, threads):
    """Return the number of columns of a task, of N. A copy is faster from twice the width, if there
    remain enough tasks."""
    columns = WIDTH // x.itemsize
    if REGISTERS == 16 and 2 * columns * TASKS * threads <= N:
        columns *= 2
    return columns


def multiply_columns(a, b, first, last, next_address, totals):
    """totals[:, : last - first] = a @ b[:, first:last]

    a: an operand of panels of ROWS rows. totals: (panels * ROWS, task_columns). When b ends, the
    memory at `next_address` is prefetched as if it were the first part of more rows.
    """
    raise NotImplementedError("only inside a Numba kernel")


@overload(multiply_columns)
def _overload_multiply_columns(a, b, first, last, next_address, totals):
    if REGISTERS == 32:
        return lambda a, b, first, last, next_address, totals: _multiply_in_place(
            a, b, first, last, next_address, totals
        )

    def call(a, b, first, last, next_address, totals):
        if len(totals) == 2 * ROWS:
            multiply_streamed(a, b, first, last, next_address, totals)
        else:
            multiply_copied(a, b, first, last, next_address, totals)

    return call


@inner
def _multiply_in_place(a, b, first, last, next_address, totals):
    (K, N), width = b.shape, totals.shape[1]
    panels, steps, vector = len(totals) // ROWS, steps_of(K, a), BYTES // totals.itemsize
    tile, edge, count = vectors_of(a) * vector, EDGE * vector, last - first
    tiles = count // tile
    edges = (count - tiles * tile) // edge
    calls, lines = panels * (tiles + edges), -(-count * b.itemsize // LINE)
    b_flat, flat, zeros = b.reshape(-1), totals.reshape(-1), zero_row(b, K)
    rest = tiles * tile + edges * edge
    sums = np.empty(count - rest, totals.dtype)
    totals[:] = 0
    for part in range(PARTS):
        k, end = part_start(part, K, b), part_start(part + 1, K, b)
        distance = row_distance(b, K - 1, zeros)  # here: Numba frees zeros after its last use
        ahead = next_address
        if part + 1 < PARTS:
            ahead = b.ctypes.data + (end * N + first) * b.itemsize
        call = 0
        for panel in range(panels):
            p = (panel * steps + steps_of(k, a)) * ROWS
            for piece in range(tiles + edges):
                column = min(piece, tiles) * tile + max(0, piece - tiles) * edge
                done = call * lines // calls  # of the lines that are prefetched per row
                call += 1
                more = call * lines // calls - done
                if piece < tiles:
                    multiply_tile(VECTORS, a, p, b_flat, k * N + first + column, N, end - k,
                                  distance, flat, panel * ROWS * width + column, width,
                                  ahead + done * LINE, N * b.itemsize, more)  # fmt: skip
                else:
                    multiply_tile(EDGE, a, p, b_flat, k * N + first + column, N, end - k,
                                  distance, flat, panel * ROWS * width + column, width,
                                  ahead + done * LINE, N * b.itemsize, more)  # fmt: skip
            for r in range(ROWS if len(sums) else 0):
                sums[:] = 0
                add_rest(a, p + r, ROWS, b, k, end, first + rest, sums)
                total = totals[panel * ROWS + r, rest:]
                for j in range(len(sums)):
                    total[j] += sums[j]


def vectors_of(a):
    """Return the vectors of a tile: pairs come in two vectors of sums at a time."""
    raise NotImplementedError("only inside a Numba kernel")


@overload(vectors_of)
def _overload_vectors_of(a):
    vectors = EDGE if a.dtype == types.uint32 else VECTORS
    return lambda a: vectors
