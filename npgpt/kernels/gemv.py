"""A few rows times a matrix, as in generation: bound by reading the matrix, which is done once, in
the order in which it lies, and without packing it. A matrix of fewer bits, bfloat16 (its bits in
uint16) or int8, is widened as it is read.

Some rows of the matrix are read side by side, but asked for one after the other, well before: the
processor's own prefetcher begins anew at every page, and memory would wait for it.
"""

import numpy as np
from numba import types
from numba.extending import overload

from npgpt.arrays import LINE
from npgpt.kernels.gemv_microkernel import ALONE, DOTTED, GROUP, MANY, SOME, add_products, dots
from npgpt.kernels.jit import inner

AHEAD = 1 << 13  # bytes between what is read and what is asked for


@inner
def multiply_rows(a, b, first, last, sums):
    """sums = a[:, first:last] @ b[first:last]: (M, K), (K, N) -> (M, N)"""
    row = b.itemsize * b.shape[1]
    multiply_rows_then(a, b, first, last, sums, last, b.ctypes.data + last * row)


@inner
def multiply_rows_then(a, b, first, last, sums, end, then):
    """The same, for whoever reads b up to row `end` and goes on with what lies at the address
    `then`.

    Some rows of b at a time, so that a sum is loaded and stored once for them.
    """
    (M, N), K = sums.shape, a.shape[1]
    step, row = LINE // b.itemsize, b.itemsize * N
    lines, terms = N // step, last - (last - first) % ALONE
    for i in range(M):
        home = sums[i]
        for j in range(N):
            home[j] = 0
    a_flat, b_flat, flat = a.reshape(-1), b.reshape(-1), sums.reshape(-1)
    k = first
    while k < terms:
        following = k + _at_once(M, terms - k)
        groups = M // GROUP if following > k + ALONE else 0
        soon = _soon(b.ctypes.data, row, following, end, then)
        if following == k + MANY:
            add_products(GROUP, MANY, groups, a_flat, k, K, b_flat, k * N, N, lines, soon, flat, 0,
                         N)  # fmt: skip
        elif groups:
            add_products(GROUP, SOME, groups, a_flat, k, K, b_flat, k * N, N, lines, soon, flat, 0,
                         N)  # fmt: skip
        for k_alone in range(k, following, ALONE):
            soon = _soon(b.ctypes.data, row, k_alone + ALONE, end, then)
            for i in range(groups * GROUP, M):
                add_products(1, ALONE, 1, a_flat, i * K + k_alone, K, b_flat, k_alone * N, N, lines,
                             soon, flat, i * N, N)  # fmt: skip
        for i in range(M):
            for j in range(lines * step, N):
                for term in range(k, following):
                    sums[i, j] += a[i, term] * widen(b[term, j])
        k = following
    for k in range(terms, last):
        rest = b[k]
        for i in range(M):
            home = sums[i]
            for j in range(N):
                home[j] += a[i, k] * widen(rest[j])


@inner
def _at_once(M, left):
    """How many rows of b, where so many are left, M rows of a meet at once."""
    if M >= 2 * GROUP and left >= MANY:
        return MANY
    return SOME if M >= GROUP and left >= SOME else ALONE


@inner
def _soon(b, row, following, end, then):
    """The address to ask for while the rows of b before `following` are multiplied."""
    k = following + AHEAD // max(1, row)
    return b + k * row if k < end else then + (k - end) * row


@inner
def multiply_rows_transposed(a, b, first, last, out):
    """out[:, first:last] = a @ b[first:last].T: (M, K), (N, K) -> (M, N)

    Four rows of b at a time, and some of a where there are as many; each time that these read the
    four, they ask for a share of the next.
    """
    (M, K), N = a.shape, out.shape[1]
    step, row = LINE // b.itemsize, b.itemsize * K
    turns, lines, columns = M // DOTTED, K // step, last - (last - first) % 4
    a_flat, b_flat, flat = a.reshape(-1), b.reshape(-1), out.reshape(-1)
    for j in range(first, columns, 4):
        soon = b.ctypes.data + (j + 4) * row + AHEAD
        for turn in range(turns):
            i, done = turn * DOTTED, 4 * turn // turns
            asked, here = 4 * (turn + 1) // turns - done, soon + done * lines * LINE
            dots(DOTTED, a_flat, i * K, K, b_flat, j * K, K, lines, here, asked, flat, i * N + j, N)
        for i in range(turns * DOTTED, M):
            dots(1, a_flat, i * K, K, b_flat, j * K, K, lines, soon, 4, flat, i * N + j, N)
        for i in range(M):
            for column in range(j, j + 4):
                for k in range(lines * step, K):
                    out[i, column] += a[i, k] * widen(b[column, k])
    for j in range(columns, last):
        rest = b[j]
        for i in range(M):
            line, total = a[i], out.dtype.type(0)
            for k in range(K):
                total += line[k] * widen(rest[k])
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
