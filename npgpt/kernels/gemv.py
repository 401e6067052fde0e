"""Skinny matrix products: at most gemm.FEW rows times a matrix, as in generation.

They are bound by reading the matrix, which is read once, in the order in which it is stored, and
not packed. A quantized matrix, bfloat16 (its bits in uint16) or int8, is widened as it is read.

Several rows of the matrix are read together, but prefetched one after the other, well ahead:
hardware prefetchers restart at every page, and memory would be idle meanwhile.
"""

import numpy as np
from numba import types
from numba.extending import overload

from npgpt.arrays import LINE
from npgpt.kernels.gemv_microkernel import (
    DOT_ROWS,
    GROUP,
    K_GROUP,
    K_GROUPS,
    K_SINGLE,
    add_products,
    dots,
)
from npgpt.kernels.jit import inner

AHEAD = 1 << 13  # bytes between reading and prefetching


@inner
def multiply_rows(a, b, first, last, sums):
    """sums = a[:, first:last] @ b[first:last]: (M, K), (K, N) -> (M, N)"""
    row = b.itemsize * b.shape[1]
    multiply_rows_then(a, b, first, last, sums, last, b.ctypes.data + last * row)


@inner
def multiply_rows_then(a, b, first, last, sums, end, next_address):
    """Like `multiply_rows`, but prefetch past `last`: rows of `b` up to `end`, then the memory at
    address `next_address`.

    Several rows of b are read per iteration, so that a sum is loaded and stored once for them.
    """
    (M, N), K = sums.shape, a.shape[1]
    step, row = LINE // b.itemsize, b.itemsize * N
    lines, k_end = N // step, last - (last - first) % K_SINGLE
    for i in range(M):
        out_row = sums[i]
        for j in range(N):
            out_row[j] = 0
    a_flat, b_flat, flat = a.reshape(-1), b.reshape(-1), sums.reshape(-1)
    k = first
    while k < k_end:
        following = k + _rows_per_iteration(M, k_end - k)
        groups = M // GROUP if following > k + K_SINGLE else 0
        ahead = _prefetch_address(b.ctypes.data, row, following, end, next_address)
        if following == k + K_GROUPS:
            add_products(GROUP, K_GROUPS, groups, a_flat, k, K, b_flat, k * N, N, lines, ahead,
                         flat, 0, N)  # fmt: skip
        elif groups:
            add_products(GROUP, K_GROUP, groups, a_flat, k, K, b_flat, k * N, N, lines, ahead,
                         flat, 0, N)  # fmt: skip
        for k_single in range(k, following, K_SINGLE):
            ahead = _prefetch_address(b.ctypes.data, row, k_single + K_SINGLE, end, next_address)
            for i in range(groups * GROUP, M):
                add_products(1, K_SINGLE, 1, a_flat, i * K + k_single, K, b_flat, k_single * N, N,
                             lines, ahead, flat, i * N, N)  # fmt: skip
        for i in range(M):
            for j in range(lines * step, N):
                total = sums[i, j]
                for kk in range(k, following):
                    total += a[i, kk] * widen(b[kk, j])
                sums[i, j] = total
        k = following
    for k in range(k_end, last):
        rest = b[k]
        for i in range(M):
            out_row = sums[i]
            for j in range(N):
                out_row[j] += a[i, k] * widen(rest[j])


@inner
def _rows_per_iteration(M, left):
    """Return the number of rows of b to process per iteration, with `left` rows left."""
    if M >= 2 * GROUP and left >= K_GROUPS:
        return K_GROUPS
    return K_GROUP if M >= GROUP and left >= K_GROUP else K_SINGLE


@inner
def _prefetch_address(b, row, following, end, next_address):
    """Return the address to prefetch while the rows of b before `following` are multiplied."""
    k = following + AHEAD // max(1, row)
    return b + k * row if k < end else next_address + (k - end) * row


@inner
def multiply_rows_transposed(a, b, first, last, out):
    """out[:, first:last] = a @ b[first:last].T: (M, K), (N, K) -> (M, N)

    Four rows of b at a time, and DOT_ROWS rows of a if there are as many. Each time the four are
    read, a part of the next four is prefetched.
    """
    (M, K), N = a.shape, out.shape[1]
    step, row = LINE // b.itemsize, b.itemsize * K
    turns, lines, columns = M // DOT_ROWS, K // step, last - (last - first) % 4
    a_flat, b_flat, flat = a.reshape(-1), b.reshape(-1), out.reshape(-1)
    for j in range(first, columns, 4):
        ahead = b.ctypes.data + (j + 4) * row + AHEAD
        for turn in range(turns):
            i, done = turn * DOT_ROWS, 4 * turn // turns
            count, start = 4 * (turn + 1) // turns - done, ahead + done * lines * LINE
            dots(DOT_ROWS, a_flat, i * K, K, b_flat, j * K, K, lines, start, count, flat, i * N + j,
                 N)  # fmt: skip
        for i in range(turns * DOT_ROWS, M):
            dots(1, a_flat, i * K, K, b_flat, j * K, K, lines, ahead, 4, flat, i * N + j, N)
        for i in range(M):
            for column in range(j, j + 4):
                total = out[i, column]
                for k in range(lines * step, K):
                    total += a[i, k] * widen(b[column, k])
                out[i, column] = total
    for j in range(columns, last):
        rest = b[j]
        for i in range(M):
            line, total = a[i], out.dtype.type(0)
            for k in range(K):
                total += line[k] * widen(rest[k])
            out[i, j] = total


def widen(number):
    """Return bfloat16 (its bits) and int8 as float32, other types as they are.

    For the ends of rows; `llvm.widen` is the same for vectors.
    """
    raise NotImplementedError("only inside a Numba kernel")


@overload(widen)
def _overload_widen(number):
    if number == types.uint16:
        return lambda number: np.uint32(np.uint32(number) << np.uint32(16)).view(np.float32)
    if number == types.int8:
        return lambda number: np.float32(number)
    return lambda number: number
