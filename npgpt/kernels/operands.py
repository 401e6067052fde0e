"""The left operand of a skinny product, as the microkernels read it (gemv.py, gemv_batch.py).

    a[p, k, r] = x[p height + r, first + k]        panels of `height` rows

Beside bfloat16 weights it is rounded to bfloat16. With AVX512_BF16, a[p, i, r] is then the pair of
k = 2i and 2i + 1 in a uint32. Rows that the last panel lacks repeat the last row.
"""

import numpy as np
from numba import types
from numba.extending import overload

from npgpt.kernels.cpu import BFLOAT16
from npgpt.kernels.jit import inner
from npgpt.kernels.packing import bits, steps_of


def empty_operand(M, K, height, x, b):
    """Return an array for an operand, (panels * steps * height,), beside the weight b."""
    raise NotImplementedError("only inside a Numba kernel")


@overload(empty_operand)
def _overload_empty_operand(M, K, height, x, b):
    if b.dtype == types.uint16 and BFLOAT16:
        return lambda M, K, height, x, b: np.empty(
            -(-M // height) * height * (-(-K // 2)), np.uint32
        )
    return lambda M, K, height, x, b: np.empty(-(-M // height) * height * K, x.dtype)


def pack_panel(panel, x, first, last, height, a, k, K, b):
    """a[panel, k : k + last - first] = the panel's rows of x[:, first:last].

    K is the number of values of k in the whole of `a`. For pairs, k must be even.
    """
    raise NotImplementedError("only inside a Numba kernel")


@overload(pack_panel)
def _overload_pack_panel(panel, x, first, last, height, a, k, K, b):
    if a.dtype == types.uint32:
        chosen = _pairs
    elif b.dtype == types.uint16:
        chosen = _rounded
    else:
        chosen = _numbers

    def call(panel, x, first, last, height, a, k, K, b):
        chosen(panel, x, first, last, height, a, k, K)

    return call


@inner
def pack_rows(x, first, last, height, a, k, K, b):
    """Pack all panels."""
    for panel in range(-(-len(x) // height)):
        pack_panel(panel, x, first, last, height, a, k, K, b)


@inner
def operand(x, first, last, b):
    """Return x[:, first:last] for the weight b, one row after the other."""
    a = empty_operand(len(x), last - first, 1, x, b)
    pack_rows(x, first, last, 1, a, 0, last - first, b)
    return a


@inner
def _numbers(panel, x, first, last, height, a, k, K):
    for r in range(height):
        row = x[min(panel * height + r, len(x) - 1)]
        at = (panel * K + k) * height + r
        for n in range(last - first):
            a[at + n * height] = row[first + n]


@inner
def _rounded(panel, x, first, last, height, a, k, K):
    for r in range(height):
        row = x[min(panel * height + r, len(x) - 1)]
        at = (panel * K + k) * height + r
        for n in range(last - first):
            a[at + n * height] = np.uint32(bits(row[first + n]) << np.uint32(16)).view(np.float32)


@inner
def _pairs(panel, x, first, last, height, a, k, K):
    count = last - first
    pairs = np.empty(count // 2, np.uint32)  # a loop that also distributes them is not vectorised
    for r in range(height):
        row = x[min(panel * height + r, len(x) - 1), first:last]
        at = (panel * steps_of(K, a) + k // 2) * height + r
        for n in range(count // 2):
            low, high = bits(row[2 * n]), bits(row[2 * n + 1])
            pairs[n] = low | np.uint32(high << np.uint32(16))
        for n in range(count // 2):
            a[at + n * height] = pairs[n]
        if count % 2:
            a[at + count // 2 * height] = bits(row[count - 1])


def number_at(a, start, k, height):
    """Return the k-th number of a row whose first one is at a[start]."""
    raise NotImplementedError("only inside a Numba kernel")


@overload(number_at)
def _overload_number_at(a, start, k, height):
    if a.dtype == types.uint32:
        return _half
    return lambda a, start, k, height: a[start + k * height]


def _half(a, start, k, height):
    pair = a[start + k // 2 * height]
    half = pair >> np.uint32(16) if k % 2 else pair
    return np.uint32(half << np.uint32(16)).view(np.float32)
