"""Arithmetic that LLVM can vectorise: exp, a maximum, and a fused multiply-add.

A call into libm would prevent vectorization (docs/kernels.md#exp). exp(x) = 2^n * exp(r) with
n = round(x / ln 2) and |r| <= ln 2 / 2. exp(r) is a polynomial, to whose exponent n is added.
With Taylor's coefficients, the error is 1e-8 (float32, degree 7) and 2e-17 (float64, degree 13).
NaN stays NaN, exp(inf) = inf, exp(-inf) = 0; subnormal results are 0.
"""

import math

import numpy as np
from numba import types
from numba.extending import intrinsic, overload

LOG2E = 1 / math.log(2)


def exp(x):
    """Return e**x for a float32 or float64, in the type of x."""
    raise NotImplementedError("only inside a Numba kernel")


@overload(exp, inline="never", jit_options={"fastmath": {"contract"}})
def _overload_exp(x):
    if x == types.float32:
        return _exp32
    if x == types.float64:
        return _exp64
    return None


# ln 2 in two parts: the first has few enough bits that n * HI is exact.
HI32, LO32 = np.float32(0.693359375), np.float32(-2.12194440e-4)
HI64, LO64 = 6.93147180369123816490e-01, 1.90821492927058770002e-10
T32 = tuple(np.float32(1 / math.factorial(i)) for i in range(8))
T64 = tuple(1 / math.factorial(i) for i in range(14))
LOG2E32 = np.float32(LOG2E)


def _exp32(x):
    lowest, highest = np.float32(-87.33654), np.float32(88.72283)
    y = min(max(x, lowest), highest)
    n = np.floor(y * LOG2E32 + np.float32(0.5))
    r = (y - n * HI32) - n * LO32
    p = T32[7]
    p = p * r + T32[6]
    p = p * r + T32[5]
    p = p * r + T32[4]
    p = p * r + T32[3]
    p = p * r + T32[2]
    p = p * r + T32[1]
    p = p * r + T32[0]
    # n is added to the exponent: 2^128 alone would overflow when the product does not
    bits = np.float32(p).view(np.int32)
    p = np.int32(bits + (np.int32(n) << np.int32(23))).view(np.float32)
    p = np.float32(0) if x < lowest else p
    p = np.float32(np.inf) if x > highest else p
    return x if x != x else p


def _exp64(x):
    lowest, highest = -708.3964185322641, 709.782712893384
    y = min(max(x, lowest), highest)
    n = np.floor(y * LOG2E + 0.5)
    r = (y - n * HI64) - n * LO64
    p = T64[13]
    p = p * r + T64[12]
    p = p * r + T64[11]
    p = p * r + T64[10]
    p = p * r + T64[9]
    p = p * r + T64[8]
    p = p * r + T64[7]
    p = p * r + T64[6]
    p = p * r + T64[5]
    p = p * r + T64[4]
    p = p * r + T64[3]
    p = p * r + T64[2]
    p = p * r + T64[1]
    p = p * r + T64[0]
    bits = np.float64(p).view(np.int64)
    p = np.int64(bits + (np.int64(n) << np.int64(52))).view(np.float64)
    p = 0.0 if x < lowest else p
    p = np.inf if x > highest else p
    return x if x != x else p


def largest(x):
    """Return the largest element of a row, C-contiguous and not empty.

    A NaN may be returned or ignored: softmax subtracts the result from all elements, so that the
    NaN stays in either case. Comparisons of floats are not vectorised, because each must check for
    NaN. Integers are compared instead: the bits of floats have the same order, reversed for
    negative ones.
    """
    raise NotImplementedError("only inside a Numba kernel")


@overload(largest)
def _overload_largest(x):
    integer = {types.float32: np.int32, types.float64: np.int64}[x.dtype]
    number, info = np.dtype(x.dtype.name).type, np.iinfo(integer)
    but_sign, sign, lowest = integer(info.max), integer(info.bits - 1), integer(info.min)

    def largest(x):
        bits, top = x.view(integer), lowest
        for i in range(len(bits)):
            ordered = bits[i] ^ ((bits[i] >> sign) & but_sign)
            top = ordered if ordered > top else top
        return integer(top ^ ((top >> sign) & but_sign)).view(number)

    return largest


@intrinsic
def fma(typing_context, a, b, c):
    """Return a b + c with one rounding, the processor's instruction."""
    if not (isinstance(a, types.Float) and a == b == c):
        return None

    def generate(context, builder, signature, arguments):
        return builder.fma(*arguments)

    return a(a, b, c), generate
