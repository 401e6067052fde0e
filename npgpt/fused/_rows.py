"""A few rows times a matrix, as in generation: bound by reading the matrix, which is done once, in
the order in which it lies, and without packing it. A matrix of fewer bits, bfloat16 (its bits in
uint16) or int8, is widened as it is read."""

import numpy as np
from numba import types
from numba.extending import overload

from npgpt.fused._jit import njit
from npgpt.fused._tile import BYTES, add_products


@njit
def multiply_rows(a, b, first, last, sums):
    """sums = a[:, first:last] @ b[first:last]: (M, K), (K, N) -> (M, N)

    Four rows of b at a time, so that a sum is loaded and stored once for them.
    """
    (M, N), K = sums.shape, a.shape[1]
    step = BYTES // sums.itemsize
    fours, vectors, terms = M - M % 4, N // step, last - (last - first) % 4
    for i in range(M):
        row = sums[i]
        for j in range(N):
            row[j] = 0
    a_flat, b_flat, home = a.reshape(-1), b.reshape(-1), sums.reshape(-1)
    for k in range(first, terms, 4):
        for i in range(0, fours, 4):
            add_products(4, a_flat, i * K + k, K, b_flat, k * N, N, vectors, home, i * N, N)
        for i in range(fours, M):
            add_products(1, a_flat, i * K + k, K, b_flat, k * N, N, vectors, home, i * N, N)
        for i in range(M):
            for j in range(vectors * step, N):
                for term in range(k, k + 4):
                    sums[i, j] += a[i, term] * widen(b[term, j])
    for k in range(terms, last):
        rest = b[k]
        for i in range(M):
            row = sums[i]
            for j in range(N):
                row[j] += a[i, k] * widen(rest[j])


@njit
def multiply_rows_turned(a, b, first, last, out):
    """out[:, first:last] = a @ b[first:last].T: (M, K), (N, K) -> (M, N)

    Four rows of a at a time, so that b is loaded once for them.
    """
    M, K = a.shape
    zero = out.dtype.type(0)
    fours = M - M % 4
    for j in range(first, last):
        column = b[j]
        for i in range(0, fours, 4):
            a0, a1, a2, a3 = a[i], a[i + 1], a[i + 2], a[i + 3]
            t0, t1, t2, t3 = zero, zero, zero, zero
            for k in range(K):
                number = widen(column[k])
                t0 += a0[k] * number
                t1 += a1[k] * number
                t2 += a2[k] * number
                t3 += a3[k] * number
            out[i, j], out[i + 1, j], out[i + 2, j], out[i + 3, j] = t0, t1, t2, t3
        for i in range(fours, M):
            row, total = a[i], zero
            for k in range(K):
                total += row[k] * widen(column[k])
            out[i, j] = total


def widen(number):
    """What a number of the matrix stands for: bfloat16 and int8 as float32, others as they are."""
    raise NotImplementedError("only inside a Numba kernel")


@overload(widen)
def _overload_widen(number):
    if number == types.uint16:
        return lambda number: np.uint32(np.uint32(number) << np.uint32(16)).view(np.float32)
    if number == types.int8:
        return lambda number: np.float32(number)
    return lambda number: number
