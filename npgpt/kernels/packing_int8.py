"""Round activations to int8, and pack both operands of an int8 product into quads.

A row of activations is divided into GROUPS, each with a scale: a 127th of its largest magnitude. A
large number makes only its own group coarser.
"""

import numpy as np

from npgpt.kernels.int8_microkernel import largest_bits, pack_quads, round_vectors
from npgpt.kernels.int8_vectors import GROUPS, LANES, QUAD, SIGNED, WIDTH
from npgpt.kernels.jit import exact_inner, inner

MOST = np.float32(127)
TO_INTEGER = np.float32(3 << 22)  # added to a small number, it leaves the integer in the last bits
SMALLEST = np.float32(1e-30)  # a group of smaller numbers is 0: 127 / x would be infinite
MAGNITUDE = np.int32(0x7FFFFFFF)
OFFSET = np.int32(0 if SIGNED else -128)  # of each activation in `starts`
PERIOD = GROUPS * QUAD  # numbers of a row after which its groups begin again, if they are spread


@inner
def group_quads(K):
    """Return the number of quads of the largest group."""
    return -(-K // PERIOD)


@inner
def group_of(K, g):
    """Return the first number of a contiguous group, and its end."""
    return g * K // GROUPS, (g + 1) * K // GROUPS


@inner
def row_size(K):
    """Return the bytes of a rounded row: GROUPS groups, and a vector past their end."""
    return GROUPS * group_quads(K) * QUAD + LANES


@exact_inner
def quantize(a, begin, count, edge, x, p, starts, scales, s):
    """x[p + k] = a[begin + k] / scales[s], rounded, for k < count: one group of a row.

    A vector may reach past the end, where 0 is written. `edge` is a workspace, `count` long and up
    to a whole vector. Arrays are flat.
    """
    vectors, at = -(-count // LANES), begin
    if count % LANES:
        for k in range(count):
            edge[k] = a[begin + k]
        edge[count : vectors * LANES] = 0
        at = (edge.ctypes.data - a.ctypes.data) // a.itemsize
    scales[s], factor = scale_of(largest_bits(a, at, vectors))
    starts[s] = OFFSET * round_vectors(a, at, vectors, factor, x, p)


@inner
def workspace_of(count):
    """Return the workspace that rounds at most `count` numbers."""
    return np.empty(-(-count // LANES) * LANES, np.float32)


@exact_inner
def quantize_row(a, begin, K, edge, x, p, starts, scales, s):
    """x[p:] = a[begin : begin + K], rounded: all groups, one after the other, 0 between them."""
    size = group_quads(K) * QUAD
    if K % (GROUPS * LANES) == 0:  # first all magnitudes: the groups do not wait for each other
        vectors = K // (GROUPS * LANES)
        for g in range(GROUPS):
            starts[s + g] = largest_bits(a, begin + g * size, vectors)
        for g in range(GROUPS):
            scales[s + g], factor = scale_of(starts[s + g])
            total = round_vectors(a, begin + g * size, vectors, factor, x, p + g * size)
            starts[s + g] = OFFSET * total
        return
    x[p : p + row_size(K)] = 0
    for g in range(GROUPS):
        scales[s + g], starts[s + g] = 0, 0
        first, last = group_of(K, g)
        if first < last:
            quantize(a, begin + first, last - first, edge, x, p + g * size, starts, scales, s + g)


@exact_inner
def quantize_spread(row, x, starts, scales):
    """x = row / scales, rounded, with 0 after the end. Every GROUPS-th quad is of one group."""
    K, factors = len(row), np.empty(PERIOD, np.float32)
    words, tops, totals = row.view(np.int32), np.zeros(PERIOD, np.int32), np.zeros(PERIOD, np.int32)
    for k in range(0, K, PERIOD):
        for n in range(min(PERIOD, K - k)):
            tops[n] = max(tops[n], words[k + n] & MAGNITUDE)
    for g in range(GROUPS):
        top = np.int32(0)
        for n in range(g * QUAD, (g + 1) * QUAD):
            top = max(top, tops[n])
        scales[g], factor = scale_of(top)
        factors[g * QUAD : (g + 1) * QUAD] = factor
    x[:] = 0
    for k in range(0, K, PERIOD):
        for n in range(min(PERIOD, K - k)):
            x[k + n] = nearest(row[k + n], factors[n])
    for k in range(0, len(x), PERIOD):
        for n in range(PERIOD):
            totals[n] += x[k + n]
    for g in range(GROUPS):
        total = np.int32(0)
        for n in range(g * QUAD, (g + 1) * QUAD):
            total += totals[n]
        starts[g] = OFFSET * total


@exact_inner
def scale_of(top):
    """Return scale and factor of a group whose largest magnitude has these bits. With nan or an
    infinite number, both products of the scale are nan."""
    largest = np.int32(top).view(np.float32)
    if largest <= SMALLEST:
        return np.float32(0), np.float32(0)
    return largest / MOST, (MOST / largest if largest < np.inf else np.float32(0))


@exact_inner
def nearest(number, factor):
    """Return the integer nearest to number * factor; ties go to the even one."""
    moved = np.float32(np.float32(number * factor) + TO_INTEGER)
    return np.int8(moved.view(np.int32))


@inner
def pack_panel(b, first, last, column, packed, p):
    """packed[p + k WIDTH + n] = quad k of b[first:last, column + n], for n < WIDTH."""
    columns, flat = min(WIDTH, b.shape[1] - column), b.reshape(-1)
    for k in range(first, last, QUAD):
        if columns == WIDTH:
            pack_quads(flat, k * b.shape[1] + column, b.shape[1], last - k, packed, p)
        else:
            for n in range(columns):
                packed[p + n] = quad_of(b, k, last, column + n)
        p += WIDTH


@inner
def quad_of(b, k, last, n):
    """Return b[k : min(k + QUAD, last), n] - OFFSET as a quad."""
    word = np.uint32(0)
    for i in range(min(QUAD, last - k)):
        word |= np.uint32(np.uint8(np.int32(b[k + i, n]) - OFFSET)) << np.uint32(8 * i)
    return word
