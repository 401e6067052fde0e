"""Skinny products with int8 weights: gemv.py in integers.

They get the rows of b that are one group of k (packing_int8.py), round those numbers of `a`, and
return a product with its scales. The sums are exact: they are the same for any number of rows.
"""

import numpy as np

from npgpt.arrays import LINE
from npgpt.kernels.int8_microkernel import add_products, multiply_panels
from npgpt.kernels.int8_vectors import FEW_ROWS, LANES, QUAD, VECTORS, WIDTH
from npgpt.kernels.jit import exact_inner, inner
from npgpt.kernels.packing_int8 import pack_panel, quad_of, quantize, workspace_of
from npgpt.kernels.pointers import prefetch_at

AHEAD = 1 << 13  # bytes between reading and prefetching
TILE = VECTORS * LANES  # columns


@inner
def multiply_group(a, b, first, last, sums, end, next_address):
    """sums = a[:, first:last] @ b[first:last]: (M, K), (K, N) -> (M, N)

    Memory is prefetched past `last`: rows of `b` up to `end`, then from `next_address` on.
    """
    if first == last:
        sums[:] = 0
    elif len(a) == 1:
        _multiply_row(a, b, first, last, sums[0], end, next_address)
    else:
        ahead = np.intp(b.ctypes.data) + last * b.shape[1] if last < end else np.intp(next_address)
        _multiply_strips(a, b, first, last, sums, ahead)


@inner
def _multiply_row(a, b, first, last, out, end, next_address):
    """Multiply a single row: four rows of b at a time, in the order in which they are stored."""
    N, quads = b.shape[1], -(-(last - first) // QUAD)
    # the row, its scale, its start and a workspace are one array: allocating takes long here
    count, s = last - first, quads + LANES
    left = np.empty(s + 2 + count + LANES, np.uint32)
    floats, starts, sums = left.view(np.float32), left.view(np.int32)[1:], out.view(np.int32)
    left[:quads] = 0
    quantize(a.reshape(-1), first, count, floats[s + 2 :], left.view(np.int8), 0, starts, floats, s)
    flat, lines = b.reshape(-1), N // WIDTH
    sums[:] = starts[s]
    for q in range(quads):
        k = first + q * QUAD
        following = k + QUAD + AHEAD // N
        ahead = np.intp(b.ctypes.data) + following * N
        if following >= end:
            ahead = np.intp(next_address) + (following - end) * N
        add_products(left[q], flat, k * N, N, last - k, lines, ahead, sums)
        for n in range(lines * WIDTH, N):
            sums[n] += dot(left[q], quad_of(b, k, last, n))
    _scale(sums, floats[s], out)


@inner
def _scale(sums, scale, out):
    """out = sums * scale, in the same memory."""
    for n in range(len(sums)):
        out[n] = np.float32(sums[n]) * scale


@inner
def dot(activations, weights):
    """Return the sum of the four products of two quads."""
    total = np.int32(0)
    for k in range(QUAD):
        activation = np.int8(activations >> np.uint32(8 * k))
        total += np.int32(activation) * np.int32((weights >> np.uint32(8 * k)) & np.uint32(255))
    return total


@exact_inner
def _multiply_strips(a, b, first, last, sums, ahead):
    """Multiply several rows: WIDTH columns of b at a time are packed, in a first-level cache.

    Meanwhile as many bytes are prefetched from the address `ahead` on.
    """
    (M, N), quads = sums.shape, -(-(last - first) // QUAD)
    padded, size = -(-M // FEW_ROWS) * FEW_ROWS, quads * QUAD + LANES
    flat, lines = sums.reshape(-1), (last - first) * WIDTH // LINE
    x = np.zeros(padded * size, np.int8)
    starts, scales = np.zeros(padded, np.int32), np.zeros(padded, np.float32)
    right, corner = np.empty(quads * WIDTH, np.uint32), np.empty(FEW_ROWS * TILE, np.float32)
    flat_a, count, edge = a.reshape(-1), last - first, workspace_of(last - first)
    for i in range(M):
        quantize(flat_a, i * a.shape[1] + first, count, edge, x, i * size, starts, scales, i)
    for strip in range(-(-N // WIDTH)):
        for line in range(lines):
            prefetch_at(ahead + (strip * lines + line) * LINE)
        pack_panel(b, first, last, strip * WIDTH, right, 0)
        for i in range(0, M, FEW_ROWS):
            for column in range(strip * WIDTH, min(N, (strip + 1) * WIDTH), TILE):
                full = M - i >= FEW_ROWS and N - column >= TILE
                # as in packing.multiply_panels: an array that is selected from two is slow
                distance = (corner.ctypes.data - flat.ctypes.data) // flat.itemsize
                o, stride = (i * N + column, N) if full else (distance, TILE)
                multiply_panels(FEW_ROWS, x, i * size, size, starts, scales, i, right,
                                column - strip * WIDTH, 1, quads, scales, scales, 0, False, flat, o,
                                stride)  # fmt: skip
                for r in range(0 if full else min(FEW_ROWS, M - i)):
                    row, dst = corner[r * TILE :], sums[i + r][column : column + TILE]
                    for n in range(len(dst)):
                        dst[n] = row[n]
