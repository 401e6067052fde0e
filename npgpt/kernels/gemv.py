"""Skinny matrix products: at most GROUP rows times a matrix, as in generation, and a few more times
a transposed one. gemv_batch.py multiplies a batch.

They are bound by reading the matrix, which is read once, in the order in which it is stored, and
not packed. A quantized matrix is widened as it is read; bfloat16 (its bits in uint16) is multiplied
in pairs if the CPU has an instruction for it (operands.py).

Several rows of the matrix are read together, but prefetched one after the other, well ahead:
hardware prefetchers restart at every page, and memory would be idle meanwhile.
"""

import numpy as np
from numba import types
from numba.extending import overload

from npgpt.arrays import LINE
from npgpt.kernels import gemv_int8
from npgpt.kernels.gemv_microkernel import (
    DOT_ROWS,
    GROUP,
    K_GROUP,
    K_SINGLE,
    add_products,
    dots,
)
from npgpt.kernels.jit import inner
from npgpt.kernels.operands import number_at, operand
from npgpt.kernels.packing import steps_of

AHEAD = 1 << 13  # bytes between reading and prefetching
PARTS = 16  # partial sums over k: fixed, so that no bit depends on the threads or the rows
PAIR = 2  # rows of a bfloat16 matrix that are multiplied together


@inner
def part_start(part, K, b):
    """Return the first of K rows of b that belong to a part; those of pairs stay together."""
    together = PAIR if b.itemsize == 2 else 1
    return part * (K // together) // PARTS * together if part < PARTS else K


@inner
def multiply_rows(x, b, first, last, sums):
    """sums = x[:, first:last] @ b[first:last]: (M, K), (K, N) -> (M, N)"""
    row = b.itemsize * b.shape[1]
    multiply_rows_then(x, b, first, last, sums, last, b.ctypes.data + last * row)


def multiply_rows_then(x, b, first, last, sums, end, next_address):
    """Like `multiply_rows`, but prefetch past `last`: rows of `b` up to `end`, then the memory at
    address `next_address`. int8 has one row, and is multiplied in integers (gemv_int8.py)."""
    raise NotImplementedError("only inside a Numba kernel")


@overload(multiply_rows_then)
def _overload_multiply_rows_then(x, b, first, last, sums, end, next_address):
    multiply = gemv_int8.multiply_row if b.dtype == types.int8 else _multiply_rows_then

    def call(x, b, first, last, sums, end, next_address):
        multiply(x, b, first, last, sums, end, next_address)

    return call


@inner
def _multiply_rows_then(x, b, first, last, sums, end, next_address):
    """Multiply float32, float64 and bfloat16.

    Several rows of b are read per iteration, so that a sum is loaded and stored once for them.
    """
    (M, N), a = sums.shape, operand(x, first, last, b)
    lines, row, steps = N * b.itemsize // LINE, b.itemsize * N, steps_of(last - first, a)
    groups, columns = M // GROUP, lines * (LINE // b.itemsize)
    sums[:] = 0
    b_flat, flat, k = b.reshape(-1), sums.reshape(-1), first
    while k + K_SINGLE <= last:
        following = k + (K_GROUP if groups and k + K_GROUP <= last else K_SINGLE)
        if following > k + K_SINGLE:
            ahead = _prefetch_address(b.ctypes.data, row, following, end, next_address)
            add_products(GROUP, K_GROUP, a, steps_of(k - first, a), steps, b_flat, k * N, N, N,
                         lines, ahead, flat, 0, N)  # fmt: skip
        for k_single in range(k, following, K_SINGLE):
            ahead = _prefetch_address(b.ctypes.data, row, k_single + K_SINGLE, end, next_address)
            done = GROUP if following > k + K_SINGLE else 0
            for i in range(done, M):
                add_products(1, K_SINGLE, a, i * steps + steps_of(k_single - first, a), steps,
                             b_flat, k_single * N, N, N, lines, ahead, flat, i * N, N)  # fmt: skip
        k = following
    add_last(a, steps, b, first, k, last, lines, sums)
    for i in range(M):
        add_rest(a, i * steps, 1, b, first, last, columns, sums[i, columns:])


def add_last(a, steps, b, first, k, last, lines, sums):
    """Add the products of the last rows of b, fewer than K_SINGLE, in the columns of `lines`."""
    raise NotImplementedError("only inside a Numba kernel")


@overload(add_last)
def _overload_add_last(a, steps, b, first, k, last, lines, sums):
    return _add_last_pairs if a.dtype == types.uint32 else _add_last_rows


def _add_last_rows(a, steps, b, first, k, last, lines, sums):
    columns = lines * (LINE // b.itemsize)
    for kk in range(k, last):
        row = b[kk]
        for i in range(len(sums)):
            out_row, factor = sums[i], a[i * steps + kk - first]
            for j in range(columns):
                out_row[j] += factor * widen(row[j])


def _add_last_pairs(a, steps, b, first, k, last, lines, sums):
    b_flat, flat, N = b.reshape(-1), sums.reshape(-1), b.shape[1]
    zeros = zero_row(b, last)
    for kk in range(k, last, PAIR):
        second = N if kk + 1 < last else row_distance(b, kk, zeros)
        for i in range(len(sums)):
            add_products(1, PAIR, a, i * steps + (kk - first) // 2, steps, b_flat, kk * N, N,
                         second, lines, b.ctypes.data, flat, i * N, N)  # fmt: skip


@inner
def zero_row(b, K):
    """Return a row of zeros that completes the last pair of an odd number of rows; else nothing."""
    return np.zeros(b.shape[1] if K % 2 else 0, b.dtype)


@inner
def row_distance(b, k, zeros):
    """Return the distance from row k of b to the row of zeros, in elements.

    Numba frees `zeros` after its last use: take the distance in the loop that reads the row.
    """
    return (zeros.ctypes.data - b.ctypes.data) // b.itemsize - k * b.shape[1]


@inner
def add_rest(a, start, height, b, first, last, left, sums):
    """sums += a[start ...] @ b[first:last, left : left + len(sums)], one number after the other:
    for the columns that fill no vector."""
    for k in range(first if len(sums) else last, last):
        row, factor = b[k, left:], number_at(a, start, k - first, height)
        for j in range(len(sums)):
            sums[j] += factor * widen(row[j])


@inner
def _prefetch_address(b, row, following, end, next_address):
    """Return the address to prefetch while the rows of b before `following` are multiplied."""
    k = following + AHEAD // max(1, row)
    return b + k * row if k < end else next_address + (k - end) * row


@inner
def multiply_rows_transposed(a, M, b, first, last, out):
    """out[:, first:last] = a @ b[first:last].T: an operand of M rows, (N, K) -> (M, N)

    Four rows of b at a time, and DOT_ROWS rows of a if there are as many. Each time the four are
    read, a part of the next four is prefetched.
    """
    K, N, steps = b.shape[1], out.shape[1], len(a) // max(1, M)
    step, row = LINE // b.itemsize, b.itemsize * K
    turns, lines, columns = M // DOT_ROWS, K // step, last - (last - first) % 4
    b_flat, flat = b.reshape(-1), out.reshape(-1)
    for j in range(first, columns, 4):
        ahead = b.ctypes.data + (j + 4) * row + AHEAD
        for turn in range(turns):
            i, done = turn * DOT_ROWS, 4 * turn // turns
            count, start = 4 * (turn + 1) // turns - done, ahead + done * lines * LINE
            dots(DOT_ROWS, a, i * steps, steps, b_flat, j * K, K, lines, start, count, flat,
                 i * N + j, N)  # fmt: skip
        for i in range(turns * DOT_ROWS, M):
            dots(1, a, i * steps, steps, b_flat, j * K, K, lines, ahead, 4, flat, i * N + j, N)
        for i in range(M):
            for column in range(j, j + 4):
                total = out[i, column]
                for k in range(lines * step, K):
                    total += number_at(a, i * steps, k, 1) * widen(b[column, k])
                out[i, column] = total
    for j in range(columns, last):
        rest = b[j]
        for i in range(M):
            total = out.dtype.type(0)
            for k in range(K):
                total += number_at(a, i * steps, k, 1) * widen(rest[k])
            out[i, j] = total


def widen(number):
    """Return bfloat16 (its bits) as float32, other types as they are.

    For the ends of rows; `llvm.widen` is the same for vectors.
    """
    raise NotImplementedError("only inside a Numba kernel")


@overload(widen)
def _overload_widen(number):
    if number == types.uint16:
        return lambda number: np.uint32(np.uint32(number) << np.uint32(16)).view(np.float32)
    return lambda number: number
