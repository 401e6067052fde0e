"""A single row times int8 weights: gemv.py in integers. gemv_batch_int8.py multiplies several rows.

A part of the product is the rows of b that are one group of k (packing_int8.py). Those numbers of
the row are rounded, and the sums are multiplied by their scale.
"""

import numpy as np

from npgpt.kernels.int8_microkernel import add_products
from npgpt.kernels.int8_vectors import LANES, QUAD, SIGNED, WIDTH
from npgpt.kernels.jit import inner
from npgpt.kernels.packing_int8 import quad_of, quantize

STORED = np.int8 if SIGNED else np.uint8  # of weights in a quad
AHEAD = 1 << 13  # bytes between reading and prefetching


@inner
def multiply_row(a, b, first, last, sums, end, next_address):
    """sums = a[:, first:last] @ b[first:last]: (1, K), (K, N) -> (1, N)

    Four rows of b are read at a time, in the order in which they are stored. Memory is prefetched
    past `last`: rows of `b` up to `end`, then from `next_address` on.
    """
    N, quads, out = b.shape[1], -(-(last - first) // QUAD), sums[0]
    if first == last:
        out[:] = 0
        return
    # the row, its scale, its start and a workspace are one array: allocating takes long here
    count, s = last - first, quads + LANES
    left = np.empty(s + 2 + count + LANES, np.uint32)
    floats, starts, totals = left.view(np.float32), left.view(np.int32)[1:], out.view(np.int32)
    left[:quads] = 0
    quantize(a.reshape(-1), first, count, floats[s + 2 :], left.view(np.int8), 0, starts, floats, s)
    flat, lines = b.reshape(-1), N // WIDTH
    totals[:] = starts[s]
    for q in range(quads):
        k = first + q * QUAD
        following = k + QUAD + AHEAD // N
        ahead = np.intp(b.ctypes.data) + following * N
        if following >= end:
            ahead = np.intp(next_address) + (following - end) * N
        add_products(left[q], flat, k * N, N, last - k, lines, ahead, totals)
        for n in range(lines * WIDTH, N):
            totals[n] += dot(left[q], quad_of(b, k, last, n))
    _scale(totals, floats[s], out)


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
        total += np.int32(activation) * np.int32(STORED(weights >> np.uint32(8 * k)))
    return total
