"""Box-Muller: groups of 16 uniform numbers to normal ones, in place.

The formula is in npgpt/ops/random.py. Polynomials are written without loops: LLVM vectorises only
the innermost loop, and that must be the one over the numbers.
"""

import math

import numpy as np

from npgpt.kernels.jit import exact_inner, exact_njit
from npgpt.kernels.math import fma
from npgpt.ops.random import (
    COS,
    FOUR_OVER_PI,
    HALF,
    LN2_HIGH,
    LN2_LOW,
    LOG,
    LOG_SQRT_HALF,
    PI_OVER_4,
    SIN,
)

PAIRS = 512  # u_1 and u_2 of 64 groups in one array each, so that one loop runs over them
TWO_PI = np.float32(2 * np.pi)


@exact_inner
def box_muller32(mean, std, d):
    """d (N,) float32, N a multiple of 16: uniform numbers -> normal ones, in place."""
    u1, u2 = np.empty(PAIRS, np.float32), np.empty(PAIRS, np.float32)
    for start in range(0, d.size, 2 * PAIRS):
        groups = d[start : start + 2 * PAIRS].reshape(-1, 2, 8)
        for g in range(len(groups)):
            for j in range(8):
                u1[8 * g + j] = np.float32(1) - groups[g, 0, j]
                u2[8 * g + j] = groups[g, 1, j]
        for i in range(8 * len(groups)):
            radius = np.sqrt(np.float32(-2) * _log(u1[i]))
            sin, cos = _sincos(TWO_PI * u2[i])
            u1[i] = fma(radius * cos, std, mean)
            u2[i] = fma(radius * sin, std, mean)
        for g in range(len(groups)):
            for j in range(8):
                groups[g, 0, j] = u1[8 * g + j]
                groups[g, 1, j] = u2[8 * g + j]


@exact_njit
def box_muller64(mean, std, d):
    """d (N,) float64, N a multiple of 16: uniform numbers -> normal ones, in place."""
    for start in range(0, d.size, 16):
        for i in range(start, start + 8):
            radius = math.sqrt(-2.0 * math.log(1.0 - d[i]))
            theta = 2 * np.pi * d[i + 8]
            d[i] = fma(radius * math.cos(theta), std, mean)
            d[i + 8] = fma(radius * math.sin(theta), std, mean)


@exact_inner
def _log(x):
    bits = np.float32(x).view(np.int32)
    m = np.int32((bits & np.int32(0x007FFFFF)) | np.int32(0x3F000000)).view(np.float32)
    e = np.float32(np.int32((bits >> np.int32(23)) - np.int32(126)))
    if m < LOG_SQRT_HALF:
        m, e = m + m, e - np.float32(1)
    m -= np.float32(1)
    z = m * m
    y = fma(LOG[0], m, LOG[1])
    y = fma(y, m, LOG[2])
    y = fma(y, m, LOG[3])
    y = fma(y, m, LOG[4])
    y = fma(y, m, LOG[5])
    y = fma(y, m, LOG[6])
    y = fma(y, m, LOG[7])
    y = fma(y, m, LOG[8])
    y = fma(y * m, z, e * LN2_LOW) - z * HALF
    return fma(e, LN2_HIGH, m + y)


@exact_inner
def _sincos(x):
    j = np.int32((np.int32(x * FOUR_OVER_PI) + np.int32(1)) & np.int32(~1))
    y = np.float32(j)
    x = fma(y, -PI_OVER_4[0], x)
    x = fma(y, -PI_OVER_4[1], x)
    x = fma(y, -PI_OVER_4[2], x)
    z = x * x
    c = fma(fma(COS[0], z, COS[1]), z, COS[2])
    c = fma(c * z, z, -(z * HALF)) + np.float32(1)
    s = fma(fma(SIN[0], z, SIN[1]), z, SIN[2])
    s = fma(s * z, x, x)
    sin, cos = (s, c) if j & 2 == 0 else (c, s)
    return (-sin if j & 4 else sin), (cos if (j - 2) & 4 else -cos)
