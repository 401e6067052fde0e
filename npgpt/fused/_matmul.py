"""Matrix products in Numba: one pool of threads for everything, no BLAS to share the cores with.

The plan is Goto's (Goto and van de Geijn 2008, "Anatomy of high-performance matrix
multiplication"), cut down to what LLVM does well by itself:

1. `out` is cut into blocks of columns (and of rows, if that leaves threads idle): one task each.
2. A task copies its columns of b together, so that they are read in order whatever way b lies.
3. It makes ROWS rows of its block at a time, in a tile of its own, PANEL terms of the sum at a
   time: so many rows of b stay in the core's second cache while all rows of the tile take them up.
   After TERMS terms the tile is added to out, because one long sum would lose digits.
4. `multiply_add` takes four rows and four terms at once. The sixteen factors from a stay in
   registers, each number loaded from b serves four rows, each sum is loaded and stored once for
   four terms. LLVM makes full-width FMAs of the loop. What that reaches: docs/design.md.
5. The bias goes in when a tile is first written out.

Every sum takes its terms in the same order however the blocks are cut, because they are cut at
multiples of LANES columns and of four rows: the bits do not depend on the number of threads.
"""

import numba
import numpy as np
from numba.extending import overload

from npgpt.arrays import Array
from npgpt.fused._jit import njit, prange

ROWS = 64  # of the tile
PANEL = 128  # terms at a time: 128 x 512 numbers are a quarter of a megabyte in float32
WIDEST = 512  # columns of a block
LANES = 64  # blocks end at multiples of it
TERMS = 1024
PAD = 16  # so that rows do not lie a power of two apart, where they would share cache sets
FEW = 4  # rows of a for which copying b would cost more than it saves
CORNER = 16  # b is copied in squares of so many: what a cache line brings is used at once


def matmul(a: Array, b: Array, *, out: Array, bias: Array | None = None, beta: int = 0) -> Array:
    """out = a @ b + bias + beta * out: (M, K), (K, N), (N,) -> (M, N)

    `a` and `b` may be transposed views (x.T). With beta 0, `out` is not read; with 1, it is added
    to. Like numpy.matmul, or BLAS's gemm.
    """
    bias = np.empty(0, out.dtype) if bias is None else bias
    if not (a.flags.c_contiguous or a.flags.f_contiguous):
        a = np.ascontiguousarray(a)
    if len(a) > FEW:
        _matmul(a, b, bias, beta, *grid(*out.shape), out)
    elif b.flags.c_contiguous:
        _few_rows(np.ascontiguousarray(a), b, bias, beta, out)
    else:
        _few_rows_transposed(np.ascontiguousarray(a), b.T, bias, beta, out)
    return out


def grid(M: int, N: int) -> tuple[int, int]:
    """Rows and columns of a block, so that every thread has as much to do."""
    threads = numba.get_num_threads()
    blocks = threads * -(-N // (threads * WIDEST))
    columns = -(-N // (blocks * LANES)) * LANES
    across = -(-N // columns)
    down = -(-threads // across)
    return -(-M // (4 * down)) * 4, columns


@njit(parallel=True)
def _matmul(a, b, bias, beta, rows, columns, out):
    M, N = out.shape
    K = b.shape[0]
    across = -(-N // columns)
    for task in prange(-(-M // rows) * across):
        top, left = task // across * rows, task % across * columns
        bottom, width = min(top + rows, M), min(columns, N - left)
        packed, tile = aligned(K, columns + PAD, out), aligned(ROWS, columns + PAD, out)
        buffer = aligned(PANEL, ROWS + PAD, out)
        _pack(b, left, width, packed)
        for first in range(top, bottom, ROWS):
            height = min(ROWS, bottom - first)
            for begin in range(0, K, TERMS):
                end = min(begin + TERMS, K)
                tile[:height] = 0
                for start in range(begin, end, PANEL):
                    terms = min(PANEL, end - start)
                    part, r, k = at_hand(a, first, height, start, terms, buffer)
                    multiply_add(part, r, k, height, terms, packed, start, width, tile)
                if begin == 0:
                    _finish(tile, height, width, bias, beta, first, left, out)
                else:
                    _finish(tile, height, width, bias[:0], 1, first, left, out)


def at_hand(a, first, height, start, terms, buffer):
    """Where to read a[first:, start:] from, height rows and terms columns: array, row, column."""
    raise NotImplementedError("only inside a Numba kernel")


@overload(at_hand)
def _overload_at_hand(a, first, height, start, terms, buffer):
    if a.layout == "C":
        return lambda a, first, height, start, terms, buffer: (a, first, start)

    def copied(a, first, height, start, terms, buffer):
        # a transposed matrix: what is used together lies too far apart to be read in place
        for k in range(terms):
            for i in range(height):
                buffer[k, i] = a[first + i, start + k]
        return buffer.T, 0, 0

    return copied


@njit
def aligned(height, width, like):
    """An empty matrix of like's dtype, at the start of a cache line: a vector in two is slow."""
    size = like.itemsize
    flat = np.empty(height * width + 64 // size, like.dtype)
    skip = (64 - flat.ctypes.data % 64) % 64 // size
    return flat[skip : skip + height * width].reshape(height, width)


@njit
def _pack(b, left, width, packed):
    """packed[:, :width] = b[:, left : left + width]"""
    K = packed.shape[0]
    for k0 in range(0, K, CORNER):
        for j0 in range(0, width, CORNER):
            for k in range(k0, min(k0 + CORNER, K)):
                for j in range(j0, min(j0 + CORNER, width)):
                    packed[k, j] = b[k, left + j]


@njit
def _finish(tile, height, width, bias, beta, top, left, out):
    for i in range(height):
        row = tile[i]
        if bias.size:
            some = bias[left : left + width]
            for j in range(width):
                row[j] += some[j]
        home = out[top + i, left : left + width]
        if beta:
            for j in range(width):
                home[j] += row[j]
        else:
            for j in range(width):
                home[j] = row[j]


@njit
def multiply_add(a, first, shift, M, K, b, top, N, c):
    """c[:M, :N] += a[first : first + M, shift : shift + K] @ b[top : top + K, :N]

    `b` and `c` are C-contiguous matrices, `a` may also be the transpose of one.
    """
    whole = M - M % 4
    for i in range(0, whole, 4):
        r = first + i
        k = 0
        while k + 4 <= K:
            p, q = shift + k, top + k
            a00, a01, a02, a03 = a[r, p], a[r, p + 1], a[r, p + 2], a[r, p + 3]
            a10, a11, a12, a13 = a[r + 1, p], a[r + 1, p + 1], a[r + 1, p + 2], a[r + 1, p + 3]
            a20, a21, a22, a23 = a[r + 2, p], a[r + 2, p + 1], a[r + 2, p + 2], a[r + 2, p + 3]
            a30, a31, a32, a33 = a[r + 3, p], a[r + 3, p + 1], a[r + 3, p + 2], a[r + 3, p + 3]
            for n in range(N):
                b0, b1, b2, b3 = b[q, n], b[q + 1, n], b[q + 2, n], b[q + 3, n]
                c[i, n] += a00 * b0 + a01 * b1 + a02 * b2 + a03 * b3
                c[i + 1, n] += a10 * b0 + a11 * b1 + a12 * b2 + a13 * b3
                c[i + 2, n] += a20 * b0 + a21 * b1 + a22 * b2 + a23 * b3
                c[i + 3, n] += a30 * b0 + a31 * b1 + a32 * b2 + a33 * b3
            k += 4
        while k < K:
            for n in range(N):
                c[i, n] += a[r, shift + k] * b[top + k, n]
                c[i + 1, n] += a[r + 1, shift + k] * b[top + k, n]
                c[i + 2, n] += a[r + 2, shift + k] * b[top + k, n]
                c[i + 3, n] += a[r + 3, shift + k] * b[top + k, n]
            k += 1
    for i in range(whole, M):
        for k in range(K):
            for n in range(N):
                c[i, n] += a[first + i, shift + k] * b[top + k, n]


# A few rows, as in generation, are bound by reading b once: nothing is copied.


@njit(parallel=True)
def _few_rows(a, b, bias, beta, out):
    M, N = out.shape
    K = b.shape[0]
    for task in prange(-(-N // LANES)):
        left = task * LANES
        width = min(LANES, N - left)
        tile = np.zeros((M, LANES), a.dtype)
        for k in range(K):
            row = b[k, left : left + width]
            for i in range(M):
                factor = a[i, k]
                for j in range(width):
                    tile[i, j] += factor * row[j]
        _finish(tile, M, width, bias, beta, 0, left, out)


@njit(parallel=True)
def _few_rows_transposed(a, b, bias, beta, out):
    """As above, for the transpose of `b` (N, K): each number is one dot product."""
    M, N = out.shape
    K = b.shape[1]
    zero = a.dtype.type(0)
    for task in prange(-(-N // LANES)):
        left = task * LANES
        width = min(LANES, N - left)
        tile = np.empty((M, LANES), a.dtype)
        for j in range(width):
            for i in range(M):
                total = zero
                for k in range(K):
                    total += a[i, k] * b[left + j, k]
                tile[i, j] = total
        _finish(tile, M, width, bias, beta, 0, left, out)
