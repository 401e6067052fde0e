"""PyTorch's CPU random stream, the same bits. What it computes is in npgpt/ops/random.py.

A kernel works on BLOCK words at a time: first the twister hands them out into a buffer that
stays in the nearest cache, then one plain loop, which LLVM can vectorise, makes numbers of them.
It can because the loop runs over slices from 0 (an index start + i might be negative, for all it
knows) and because the polynomials are written out (a loop within would be the one it looks at).
No fastmath here, and every FMA is asked for by name: the bits are the promise.

Each key comes from the one before, but that is the lesser part of the work: of a large draw, every
thread makes all keys for itself, and numbers of the pieces that it takes. Nobody waits for another,
and who makes a piece changes no bit of it.
"""

import math
from typing import NamedTuple

import numba
import numpy as np
from numba import types
from numba.extending import intrinsic
from numpy.lib.stride_tricks import as_strided

from npgpt.arrays import Array
from npgpt.fused._jit import exact_inner, exact_njit
from npgpt.fused._llvm import BYTES
from npgpt.fused._parallel import in_parallel
from npgpt.fused._tasks import take
from npgpt.fused._vectors import transpose
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
    "multinomial",
    "normal",
    "randint",
    "randperm",
    "seed",
    "uniform",
    "uniform_columns",
    "words",
    "words64",
]

BLOCK = 2496  # words at a time; with the keys that they come from, all of a nearest cache
PIECE = 24576  # words that a thread takes, a multiple of 16; they stay in its second cache
LARGE = 1 << 18  # numbers: from here on, all threads draw


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
    if out.dtype == np.float64:
        _uniform64(engine.key, engine.position, low, high - low, out)
    else:
        run(_uniform32, _uniform32_together, engine, out.size, low, high - low, out)
    return out


def uniform_columns(engine: Engine, low: float, high: float, *, out: Array) -> Array:
    """out (I, O) float32 or float64, column after column; fast where float32 lie side by side."""
    (I, O), (row, step) = out.shape, out.strides
    apart = step != out.itemsize or row < O * step or row % step
    if apart or out.size == 0 or out.dtype == np.float64:
        drawn = uniform(engine, low, high, out=np.empty(out.size, out.dtype))
        out[...] = drawn.reshape(O, I).T
        return out
    low, high, stride = np.float32(low), np.float32(high), row // step
    flat = as_strided(out, ((I - 1) * stride + O,), (step,))
    run(_columns, _columns_together, engine, out.size, low, high - low, I, O, stride, flat)
    return out


def normal(engine: Engine, mean: float, std: float, *, out: Array) -> Array:
    """out (N,) float32 or float64"""
    if out.size < 16:
        _normal_short(*engine, float(mean), float(std), out)
        return out
    mean, std = out.dtype.type(mean), out.dtype.type(std)
    box_muller = _box_muller32 if out.dtype == np.float32 else _box_muller64
    if out.dtype == np.float32:
        run(_normal32, _normal32_together, engine, out.size, mean, std, out)
    else:
        box_muller(mean, std, uniform(engine, 0, 1, out=out)[: out.size // 16 * 16])
    if out.size % 16:
        box_muller(mean, std, uniform(engine, 0, 1, out=out[-16:]))
    return out


def bernoulli(engine: Engine, p: float, *, out: Array) -> Array:
    """out (N,) bool"""
    # k 2^-53 < p where k < p 2^53, and for a whole k that is k < ceil(p 2^53)
    threshold = np.uint64(math.ceil(p * 2.0**53))
    run(_bernoulli, _bernoulli_together, engine, out.size, threshold, out)
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


def run(alone, together, engine: Engine, size: int, *arguments) -> None:
    """A kernel that makes so many numbers: on all threads, where that pays for starting them."""
    start, counter = Engine(*(array.copy() for array in engine)), np.zeros(1, np.int64)
    if size < LARGE:
        alone(0, start, engine, counter, *arguments)
    else:
        together(numba.get_num_threads(), start, engine, counter, *arguments)


# The twister

TWIST = 624  # words of a key; from a word to the one that it helps to make
RUN = TWIST // 3  # words made in one loop: fewer than the 227 back to the nearest that it reads
ROOM = BLOCK + 2 * TWIST  # for the key at hand and the keys that BLOCK more words need
UPPER, LOWER = np.uint32(0x80000000), np.uint32(0x7FFFFFFF)
MATRIX, ONE = np.uint32(0x9908B0DF), np.uint32(1)


@exact_inner
def _words(key, position, room, count):
    """-> (count,) uint32, the next words, from 1 to BLOCK of them. They stand in room (2, ROOM)."""
    words = room[1, :count]
    _temper(_raw(key, position, room[0], count), words)
    return words


@exact_inner
def _raw(key, position, row, count):
    """-> (count,) uint32, the next words before tempering, a part of row (count + 2 TWIST,)."""
    here = position[0] or TWIST  # a fresh engine stands at the end of its key
    end = here + count
    twists = (end - 1) // TWIST
    for i in range(TWIST):
        row[i] = key[i]
    _twist(row, twists)
    last = row[TWIST * twists :]
    for i in range(TWIST):
        key[i] = last[i]
    position[0] = end - TWIST * twists
    return row[here:end]


class Mine(NamedTuple):
    """A thread's own engine."""

    key: Array  # (624,) uint32
    position: Array  # (1,) int64
    task: Array  # (1,) int64: whose words come next


@exact_inner
def _begin(start, most):
    """An engine of one's own, and room for so many words of `_raw`."""
    mine = Mine(start.key.copy(), start.position.copy(), np.zeros(1, np.int64))
    return mine, np.empty(max(BLOCK, most) + 2 * TWIST, np.uint32)


@exact_inner
def _raw_of(task, size, total, mine, engine, row):
    """-> uint32, the words of a task before tempering: `size` of them, fewer if it is the last of
    `total`, which leaves the engine as it is then. Those of tasks in between are passed over."""
    for _other in range(mine.task[0], task):
        for done in range(0, size, BLOCK):
            _raw(mine.key, mine.position, row, min(BLOCK, size - done))
    mine.task[0] = task + 1
    raw = _raw(mine.key, mine.position, row, min(size, total - task * size))
    if total <= (task + 1) * size:
        for i in range(TWIST):
            engine.key[i] = mine.key[i]
        engine.position[0] = mine.position[0]
    return raw


@exact_inner
def _twist(row, twists):
    """row[:624] is a key; the following ones go behind it."""
    for run in range(3 * twists):
        part = row[RUN * run :]
        for i in range(RUN):
            y = (part[i] & UPPER) | (part[i + 1] & LOWER)
            part[i + 624] = part[i + 397] ^ (y >> ONE) ^ ((y & ONE) * MATRIX)


@exact_inner
def _temper(raw, words):
    for i in range(words.size):
        words[i] = _tempered(raw[i])


@exact_inner
def _tempered(y):
    y ^= y >> np.uint32(11)
    y ^= (y << np.uint32(7)) & np.uint32(0x9D2C5680)
    y ^= (y << np.uint32(15)) & np.uint32(0xEFC60000)
    return y ^ (y >> np.uint32(18))


@exact_inner
def _pairs(key, position, room, count):
    """-> (count,) uint64, each the next two words as they lie in memory; see _pair."""
    return _words(key, position, room, 2 * count).view(np.uint64)


@exact_inner
def _pair(w):
    """The first word on top: in memory (little-endian) it is the lower half."""
    return w << np.uint64(32) | w >> np.uint64(32)


LOW24, UNIT24 = np.uint32(2**24 - 1), np.float32(2**-24)
LOW53, UNIT53 = np.uint64(2**53 - 1), 2.0**-53


@exact_inner
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
def _uniform64(key, position, low, span, out):
    room = np.empty((2, ROOM), np.uint32)
    for start in range(0, out.size, BLOCK // 2):
        block = out[start : start + BLOCK // 2]
        w = _pairs(key, position, room, block.size)
        for i in range(block.size):
            block[i] = _fma(_u53(w[i]), span, low)


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


# Kernels for any number of threads: what one thread does, and all of them. `start` is the engine as
# it stands, of which every thread makes a copy; `engine` is what the end of the draw is written to.


@exact_njit
def _uniform32(_thread, start, engine, counter, low, span, out):
    mine, row = _begin(start, min(PIECE, out.size))
    while _piece(mine, engine, counter, row, low, span, out).size:
        pass


@exact_njit
def _uniform32_together(threads, start, engine, counter, low, span, out):
    in_parallel(threads, _uniform32, (start, engine, counter, low, span, out))


@exact_inner
def _piece(mine, engine, counter, row, low, span, out):
    """The next piece of `out`, filled; an empty one when nothing is left."""
    task = take(counter, 0)
    piece = out[task * PIECE :][:PIECE]
    if piece.size:
        _spread(_raw_of(task, PIECE, out.size, mine, engine, row), low, span, piece)
    return piece


@exact_inner
def _spread(raw, low, span, out):
    for i in range(out.size):
        out[i] = _fma(np.float32(np.int32(_tempered(raw[i]) & LOW24)) * UNIT24, span, low)


@exact_njit
def _normal32(_thread, start, engine, counter, mean, std, out):
    """What is left over behind groups of 16 stays uniform."""
    mine, row = _begin(start, min(PIECE, out.size))
    zero, one = np.float32(0), np.float32(1)
    piece = _piece(mine, engine, counter, row, zero, one, out)
    while piece.size:
        _box_muller32(mean, std, piece[: piece.size // 16 * 16])
        piece = _piece(mine, engine, counter, row, zero, one, out)


@exact_njit
def _normal32_together(threads, start, engine, counter, mean, std, out):
    in_parallel(threads, _normal32, (start, engine, counter, mean, std, out))


@exact_njit
def _bernoulli(_thread, start, engine, counter, threshold, out):
    half = PIECE // 2  # each takes two words
    mine, row = _begin(start, 2 * min(half, out.size))
    words = np.empty(BLOCK, np.uint32)
    task = take(counter, 0)
    while task * half < out.size:
        piece = out[task * half :][:half]
        raw = _raw_of(task, PIECE, 2 * out.size, mine, engine, row)
        for first in range(0, piece.size, BLOCK // 2):
            block = piece[first : first + BLOCK // 2]
            _temper(raw[2 * first :], words[: 2 * block.size])
            w = words.view(np.uint64)
            for i in range(block.size):
                block[i] = (_pair(w[i]) & LOW53) < threshold
        task = take(counter, 0)


@exact_njit
def _bernoulli_together(threads, start, engine, counter, threshold, out):
    in_parallel(threads, _bernoulli, (start, engine, counter, threshold, out))


LINES = 16  # columns of a task: so many numbers are a cache line, which is then written once
CHUNK = 64  # numbers of a column that are made, and turned, together
LANES = BYTES // 4


@exact_njit
def _columns(_thread, start, engine, counter, low, span, I, O, stride, out):
    """Row i of the (I, O) matrix begins at out[i stride]."""
    mine, row = _begin(start, LINES * I)
    some = np.empty((LINES, CHUNK), np.float32)
    flat = some.reshape(-1)
    task = take(counter, 0)
    while task * LINES < O:
        left = task * LINES
        columns = min(LINES, O - left)
        raw = _raw_of(task, LINES * I, O * I, mine, engine, row)
        for top in range(0, I, CHUNK):
            rows = min(CHUNK, I - top)
            for o in range(columns):
                _spread(raw[o * I + top :], low, span, some[o, :rows])
            squares = rows // LANES * LANES if columns == LINES else 0
            for i in range(0, squares, LANES):
                for o in range(0, LINES, LANES):
                    home = (top + i) * stride + left + o
                    transpose(flat, o * CHUNK + i, CHUNK, LANES, out, home, stride)
            for i in range(squares, rows):
                line = out[(top + i) * stride + left :]
                for o in range(columns):
                    line[o] = some[o, i]
        task = take(counter, 0)


@exact_njit
def _columns_together(threads, start, engine, counter, low, span, I, O, stride, out):
    in_parallel(threads, _columns, (start, engine, counter, low, span, I, O, stride, out))


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


@exact_inner
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


@exact_inner
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
