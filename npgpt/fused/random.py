"""PyTorch's CPU random stream, the same bits. What it computes is in npgpt/ops/random.py.

A kernel works on BLOCK words at a time: first the twister hands them out into a buffer that
stays in the nearest cache, then one plain loop, which LLVM can vectorise, makes numbers of them.
It can because the loop runs over slices from 0 (an index start + i might be negative, for all it
knows) and because the polynomials are written out (a loop within would be the one it looks at).
No fastmath here, and every FMA is asked for by name: the bits are the promise.
"""

import math

import numpy as np
from numba import types
from numba.extending import intrinsic

from npgpt.arrays import Array
from npgpt.fused._jit import exact_njit, njit
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
    Engine,
    seed,
)

__all__ = [
    "Engine",
    "bernoulli",
    "exponential",
    "lay",
    "multinomial",
    "normal",
    "randint",
    "randperm",
    "seed",
    "uniform",
    "words",
    "words64",
]

BLOCK = 2496  # words at a time; with the keys that they come from, all of a nearest cache


def words(engine: Engine, n: int) -> Array:
    """-> (n,) uint32"""
    out = np.empty(n, np.uint32)
    _copy_words(engine.key, engine.position, out)
    return out


def words64(engine: Engine, n: int) -> Array:
    """-> (n,) uint64, each of two words, the high one first."""
    w = words(engine, 2 * n).astype(np.uint64)
    return w[0::2] << 32 | w[1::2]


def uniform(engine: Engine, low: float, high: float, *, out: Array) -> Array:
    """out (N,) float32 or float64"""
    low, high = out.dtype.type(low), out.dtype.type(high)
    fill = _uniform32 if out.dtype == np.float32 else _uniform64
    fill(engine.key, engine.position, low, high - low, out)
    return out


def normal(engine: Engine, mean: float, std: float, *, out: Array) -> Array:
    """out (N,) float32 or float64"""
    if out.size < 16:
        _normal_short(*engine, float(mean), float(std), out)
        return out
    uniform(engine, 0, 1, out=out)
    box_muller = _box_muller32 if out.dtype == np.float32 else _box_muller64
    mean, std = out.dtype.type(mean), out.dtype.type(std)
    box_muller(mean, std, out[: out.size // 16 * 16])
    if out.size % 16:
        box_muller(mean, std, uniform(engine, 0, 1, out=out[-16:]))
    return out


def bernoulli(engine: Engine, p: float, *, out: Array) -> Array:
    """out (N,) bool"""
    # k 2^-53 < p where k < p 2^53, and for a whole k that is k < ceil(p 2^53)
    _bernoulli(engine.key, engine.position, np.uint64(math.ceil(p * 2.0**53)), out)
    return out


def exponential(engine: Engine, *, out: Array) -> Array:
    """out (N,) float32 or float64"""
    _exponential(engine.key, engine.position, out)
    return out


def multinomial(engine: Engine, probs: Array, *, out: Array) -> Array:
    """(N, V) -> out (N,) int64"""
    _multinomial(engine.key, engine.position, probs, out)
    return out


def randint(engine: Engine, low: int, high: int, *, out: Array) -> Array:
    """out (N,) int64"""
    span = high - low
    fill = _randint32 if span < 2**28 else _randint64
    fill(engine.key, engine.position, np.uint64(low % 2**64), np.uint64(span), out.view(np.uint64))
    return out


def randperm(engine: Engine, *, out: Array) -> Array:
    """out (N,) int64"""
    _randperm(engine.key, engine.position, out)
    return out


def lay(drawn: Array, *, out: Array) -> None:
    """drawn -> out, of the same shape and another layout; fast where that is a transposed matrix"""
    if out.ndim == 2:
        _transpose(drawn, out.T)
    else:
        np.copyto(out, drawn)


LINE = 16  # numbers of a cache line, more or less


@njit
def _transpose(x, out):
    """(R, S) -> out (S, R), a few rows of x at a time: every line of out is written once."""
    for row in range(0, len(x), LINE):
        some, there = x[row : row + LINE], out[:, row : row + LINE]
        for s in range(some.shape[1]):
            for r in range(len(some)):
                there[s, r] = some[r, s]


# The twister

TWIST = 624  # words of a key; from a word to the one that it helps to make
RUN = TWIST // 3  # words made in one loop: fewer than the 227 back to the nearest that it reads
ROOM = BLOCK + 2 * TWIST  # for the key at hand and the keys that BLOCK more words need
UPPER, LOWER = np.uint32(0x80000000), np.uint32(0x7FFFFFFF)
MATRIX, ONE = np.uint32(0x9908B0DF), np.uint32(1)


@exact_njit
def _words(key, position, room, count):
    """-> (count,) uint32, the next words, from 1 to BLOCK of them. They stand in room (2, ROOM)."""
    row, words = room[0], room[1, :count]
    here = position[0] or TWIST  # a fresh engine stands at the end of its key
    end = here + count
    twists = (end - 1) // TWIST
    for i in range(TWIST):
        row[i] = key[i]
    _twist(row, twists)
    _temper(row[here:end], words)
    last = row[TWIST * twists :]
    for i in range(TWIST):
        key[i] = last[i]
    position[0] = end - TWIST * twists
    return words


@exact_njit
def _twist(row, twists):
    """row[:624] is a key; the following ones go behind it."""
    for run in range(3 * twists):
        part = row[RUN * run :]
        for i in range(RUN):
            y = (part[i] & UPPER) | (part[i + 1] & LOWER)
            part[i + 624] = part[i + 397] ^ (y >> ONE) ^ ((y & ONE) * MATRIX)


@exact_njit
def _temper(row, words):
    for i in range(words.size):
        y = row[i]
        y ^= y >> np.uint32(11)
        y ^= (y << np.uint32(7)) & np.uint32(0x9D2C5680)
        y ^= (y << np.uint32(15)) & np.uint32(0xEFC60000)
        words[i] = y ^ (y >> np.uint32(18))


@exact_njit
def _pairs(key, position, room, count):
    """-> (count,) uint64, each the next two words as they lie in memory; see _pair."""
    return _words(key, position, room, 2 * count).view(np.uint64)


@exact_njit
def _pair(w):
    """The first word on top: in memory (little-endian) it is the lower half."""
    return w << np.uint64(32) | w >> np.uint64(32)


LOW24, UNIT24 = np.uint32(2**24 - 1), np.float32(2**-24)
LOW53, UNIT53 = np.uint64(2**53 - 1), 2.0**-53


@exact_njit
def _u53(w):
    return np.float64(np.int64(_pair(w) & LOW53)) * UNIT53  # signed converts faster


@intrinsic
def _fma(typing_context, a, b, c):
    """a b + c with one rounding, as the processor does it."""
    if not (isinstance(a, types.Float) and a == b == c):
        return None

    def generate(context, builder, signature, arguments):
        return builder.fma(*arguments)

    return a(a, b, c), generate


# Kernels: the engine, inputs, then the output; nothing returned.


@exact_njit
def _copy_words(key, position, out):
    room = np.empty((2, ROOM), np.uint32)
    for start in range(0, out.size, BLOCK):
        block = out[start : start + BLOCK]
        w = _words(key, position, room, block.size)
        for i in range(block.size):
            block[i] = w[i]


@exact_njit
def _uniform32(key, position, low, span, out):
    room = np.empty((2, ROOM), np.uint32)
    for start in range(0, out.size, BLOCK):
        block = out[start : start + BLOCK]
        w = _words(key, position, room, block.size)
        for i in range(block.size):
            block[i] = _fma(np.float32(np.int32(w[i] & LOW24)) * UNIT24, span, low)


@exact_njit
def _uniform64(key, position, low, span, out):
    room = np.empty((2, ROOM), np.uint32)
    for start in range(0, out.size, BLOCK // 2):
        block = out[start : start + BLOCK // 2]
        w = _pairs(key, position, room, block.size)
        for i in range(block.size):
            block[i] = _fma(_u53(w[i]), span, low)


@exact_njit
def _bernoulli(key, position, threshold, out):
    room = np.empty((2, ROOM), np.uint32)
    for start in range(0, out.size, BLOCK // 2):
        block = out[start : start + BLOCK // 2]
        w = _pairs(key, position, room, block.size)
        for i in range(block.size):
            block[i] = (_pair(w[i]) & LOW53) < threshold


@exact_njit
def _exponential(key, position, out):
    room = np.empty((2, ROOM), np.uint32)
    for start in range(0, out.size, BLOCK // 2):
        block = out[start : start + BLOCK // 2]
        w = _pairs(key, position, room, block.size)
        for i in range(block.size):
            block[i] = -math.log1p(-_u53(w[i]))


@exact_njit
def _multinomial(key, position, probs, out):
    N, V = probs.shape
    q = np.empty(V, probs.dtype)
    for n in range(N):
        _exponential(key, position, q)
        best, winner = probs[n, 0] / q[0], 0
        for v in range(1, V):
            ratio = probs[n, v] / q[v]
            if ratio > best or (ratio != ratio and best == best):  # nan wins, as in argmax
                best, winner = ratio, v
        out[n] = winner


@exact_njit
def _randint32(key, position, low, span, out):
    room = np.empty((2, ROOM), np.uint32)
    for start in range(0, out.size, BLOCK):
        block = out[start : start + BLOCK]
        w = _words(key, position, room, block.size)
        for i in range(block.size):
            block[i] = np.uint64(w[i]) % span + low


@exact_njit
def _randint64(key, position, low, span, out):
    room = np.empty((2, ROOM), np.uint32)
    for start in range(0, out.size, BLOCK // 2):
        block = out[start : start + BLOCK // 2]
        w = _pairs(key, position, room, block.size)
        for i in range(block.size):
            block[i] = _pair(w[i]) % span + low


@exact_njit
def _randperm(key, position, out):
    N = out.size
    for i in range(N):
        out[i] = i
    room = np.empty((2, ROOM), np.uint32)
    for start in range(0, N - 1, BLOCK):
        count = min(BLOCK, N - 1 - start)
        w = _words(key, position, room, count)
        for j in range(count):
            i = start + j
            z = i + np.int64(w[j] % np.uint32(N - i))
            out[i], out[z] = out[z], out[i]


@exact_njit
def _normal_short(key, position, spare, mean, std, out):
    room = np.empty((2, ROOM), np.uint32)
    for i in range(out.size):
        value = spare[0]
        spare[0] = np.nan
        if value != value:
            w = _pairs(key, position, room, 2)
            radius = math.sqrt(-2.0 * math.log1p(-_u53(w[1])))
            theta = 2 * np.pi * _u53(w[0])
            value = radius * math.cos(theta)
            spare[0] = radius * math.sin(theta)
        out[i] = _fma(value, std, mean)


# Box-Muller on groups of 16 uniforms, where they stand

PAIRS = 512  # u_1 and u_2 of 64 groups are laid out apart, so that one loop can run over them
TWO_PI = np.float32(2 * np.pi)


@exact_njit
def _box_muller32(mean, std, d):
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
            u1[i] = _fma(radius * cos, std, mean)
            u2[i] = _fma(radius * sin, std, mean)
        for g in range(len(groups)):
            for j in range(8):
                groups[g, 0, j] = u1[8 * g + j]
                groups[g, 1, j] = u2[8 * g + j]


@exact_njit
def _box_muller64(mean, std, d):
    for start in range(0, d.size, 16):
        for i in range(start, start + 8):
            radius = math.sqrt(-2.0 * math.log(1.0 - d[i]))
            theta = 2 * np.pi * d[i + 8]
            d[i] = _fma(radius * math.cos(theta), std, mean)
            d[i + 8] = _fma(radius * math.sin(theta), std, mean)


@exact_njit
def _log(x):
    bits = np.float32(x).view(np.int32)
    m = np.int32((bits & np.int32(0x007FFFFF)) | np.int32(0x3F000000)).view(np.float32)
    e = np.float32(np.int32((bits >> np.int32(23)) - np.int32(126)))
    if m < LOG_SQRT_HALF:
        m, e = m + m, e - np.float32(1)
    m -= np.float32(1)
    z = m * m
    y = _fma(LOG[0], m, LOG[1])
    y = _fma(y, m, LOG[2])
    y = _fma(y, m, LOG[3])
    y = _fma(y, m, LOG[4])
    y = _fma(y, m, LOG[5])
    y = _fma(y, m, LOG[6])
    y = _fma(y, m, LOG[7])
    y = _fma(y, m, LOG[8])
    y = _fma(y * m, z, e * LN2_LOW) - z * HALF
    return _fma(e, LN2_HIGH, m + y)


@exact_njit
def _sincos(x):
    j = np.int32((np.int32(x * FOUR_OVER_PI) + np.int32(1)) & np.int32(~1))
    y = np.float32(j)
    x = _fma(y, -PI_OVER_4[0], x)
    x = _fma(y, -PI_OVER_4[1], x)
    x = _fma(y, -PI_OVER_4[2], x)
    z = x * x
    c = _fma(_fma(COS[0], z, COS[1]), z, COS[2])
    c = _fma(c * z, z, -(z * HALF)) + np.float32(1)
    s = _fma(_fma(SIN[0], z, SIN[1]), z, SIN[2])
    s = _fma(s * z, x, x)
    sin, cos = (s, c) if j & 2 == 0 else (c, s)
    return (-sin if j & 4 else sin), (cos if (j - 2) & 4 else -cos)
