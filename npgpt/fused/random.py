"""PyTorch's CPU random stream, bit for bit. The algorithms are in npgpt/ops/random.py.

A kernel works on BLOCK words at a time. The twister writes them to a buffer that stays in the
first-level cache, and one plain loop converts them to numbers. LLVM vectorises that loop because it
runs over slices from 0; an index start + i might be negative. The bits are promised, so there is no
fastmath, and every FMA is explicit. All threads draw large arrays of float32 and dropout masks
(kernels/parallel_rng.py).
"""

import math

import numpy as np
from numpy.lib.stride_tricks import as_strided

from npgpt.arrays import Array
from npgpt.kernels import parallel_rng
from npgpt.kernels.box_muller import box_muller64
from npgpt.kernels.jit import exact_njit
from npgpt.kernels.launch import num_threads
from npgpt.kernels.math import fma
from npgpt.kernels.mt19937 import BLOCK, BUFFER, next_pairs, next_words, pair, u53
from npgpt.ops.random import Engine, seed

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

ROUNDING = 1 + 1e-6  # more than p / q and q are rounded up
LARGE = 1 << 18  # elements: from this size on, all threads draw


def words(engine: Engine, n: int) -> Array:
    """-> (n,) uint32"""
    out = np.empty(n, np.uint32)
    _copy_words(engine.key, engine.position, out)
    return out


def words64(engine: Engine, n: int) -> Array:
    """-> (n,) uint64, each from two words, the high one first."""
    w = words(engine, 2 * n).astype(np.uint64)
    return w[0::2] << 32 | w[1::2]


def uniform(engine: Engine, low: float, high: float, *, out: Array) -> Array:
    """out (N,) float32 or float64"""
    low, high = out.dtype.type(low), out.dtype.type(high)
    if out.dtype == np.float64:
        _uniform64(engine.key, engine.position, low, high - low, out)
    else:
        run(parallel_rng.uniform32, engine, out.size, low, high - low, out)
    return out


def uniform_columns(engine: Engine, low: float, high: float, *, out: Array) -> Array:
    """out (I, O) float32 or float64, column after column; fast for contiguous rows of float32."""
    (I, O), (row, step) = out.shape, out.strides
    apart = step != out.itemsize or row < O * step or row % step
    if apart or out.size == 0 or out.dtype == np.float64:
        drawn = uniform(engine, low, high, out=np.empty(out.size, out.dtype))
        out[...] = drawn.reshape(O, I).T
        return out
    low, high, stride = np.float32(low), np.float32(high), row // step
    flat = as_strided(out, ((I - 1) * stride + O,), (step,))
    run(parallel_rng.columns, engine, out.size, low, high - low, I, O, stride, flat)
    return out


def normal(engine: Engine, mean: float, std: float, *, out: Array) -> Array:
    """out (N,) float32 or float64"""
    if out.size < 16:
        _normal_short(*engine, float(mean), float(std), out)
        return out
    mean, std = out.dtype.type(mean), out.dtype.type(std)
    # if 16 does not divide the size, the last 16 are drawn again
    for part in (out, out[-16:]) if out.size % 16 else (out,):
        if out.dtype == np.float32:
            run(parallel_rng.normal32, engine, part.size, mean, std, part)
        else:
            uniform(engine, 0, 1, out=part)
            box_muller64(mean, std, part[: part.size // 16 * 16])
    return out


def bernoulli(engine: Engine, p: float, *, out: Array) -> Array:
    """out (N,) bool"""
    # for an integer k: k 2^-53 < p if and only if k < ceil(p 2^53)
    threshold = np.uint64(math.ceil(p * 2.0**53))
    run(parallel_rng.bernoulli, engine, out.size, threshold, out)
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


def run(kernel, engine: Engine, size: int, *arguments) -> None:
    """Draw `size` numbers with a kernel of kernels/parallel_rng.py, on all threads if it pays."""
    start, counter = Engine(*(array.copy() for array in engine)), np.zeros(1, np.int64)
    threads = num_threads() if size >= LARGE else 1
    kernel(threads, start, engine, counter, *arguments)


# Kernels: the engine, inputs, then the output; they return nothing.


@exact_njit
def _copy_words(key, position, out):
    buffer = np.empty((2, BUFFER), np.uint32)
    for start in range(0, out.size, BLOCK):
        block = out[start : start + BLOCK]
        w = next_words(key, position, buffer, block.size)
        for i in range(block.size):
            block[i] = w[i]


@exact_njit
def _uniform64(key, position, low, span, out):
    buffer = np.empty((2, BUFFER), np.uint32)
    for start in range(0, out.size, BLOCK // 2):
        block = out[start : start + BLOCK // 2]
        w = next_pairs(key, position, buffer, block.size)
        for i in range(block.size):
            block[i] = fma(u53(w[i]), span, low)


@exact_njit
def _exponential(key, position, out):
    buffer = np.empty((2, BUFFER), np.uint32)
    for start in range(0, out.size, BLOCK // 2):
        block = out[start : start + BLOCK // 2]
        w = next_pairs(key, position, buffer, block.size)
        for i in range(block.size):
            block[i] = -math.log1p(-u53(w[i]))


@exact_njit
def _multinomial(key, position, probs, out):
    """q = -log1p(-u) is at least u, so that p / q is at most p / u: few logarithms are needed."""
    N, V = probs.shape
    buffer, number = np.empty((2, BUFFER), np.uint32), probs.dtype.type
    for n in range(N):
        best, winner = number(-1), 0
        for start in range(0, V, BLOCK // 2):
            row = probs[n, start : start + BLOCK // 2]
            w = next_pairs(key, position, buffer, row.size)
            for i in range(row.size):
                u, p = u53(w[i]), row[i]
                may_win = p * ROUNDING >= best * u and (p > 0 or best < 0)
                if may_win or u == 0:
                    ratio = p / number(-math.log1p(-u))
                    if ratio > best or (ratio != ratio and best == best):  # nan wins, as in argmax
                        best, winner = ratio, start + i
        out[n] = winner


@exact_njit
def _randint32(key, position, low, span, out):
    buffer = np.empty((2, BUFFER), np.uint32)
    for start in range(0, out.size, BLOCK):
        block = out[start : start + BLOCK]
        w = next_words(key, position, buffer, block.size)
        for i in range(block.size):
            block[i] = np.uint64(w[i]) % span + low


@exact_njit
def _randint64(key, position, low, span, out):
    buffer = np.empty((2, BUFFER), np.uint32)
    for start in range(0, out.size, BLOCK // 2):
        block = out[start : start + BLOCK // 2]
        w = next_pairs(key, position, buffer, block.size)
        for i in range(block.size):
            block[i] = pair(w[i]) % span + low


@exact_njit
def _randperm(key, position, out):
    N = out.size
    for i in range(N):
        out[i] = i
    buffer = np.empty((2, BUFFER), np.uint32)
    for start in range(0, N - 1, BLOCK):
        count = min(BLOCK, N - 1 - start)
        w = next_words(key, position, buffer, count)
        for j in range(count):
            i = start + j
            z = i + np.int64(w[j] % np.uint32(N - i))
            out[i], out[z] = out[z], out[i]


@exact_njit
def _normal_short(key, position, spare, mean, std, out):
    buffer = np.empty((2, BUFFER), np.uint32)
    for i in range(out.size):
        value = spare[0]
        spare[0] = np.nan
        if value != value:
            w = next_pairs(key, position, buffer, 2)
            radius = math.sqrt(-2.0 * math.log1p(-u53(w[1])))
            theta = 2 * np.pi * u53(w[0])
            value = radius * math.cos(theta)
            spare[0] = radius * math.sin(theta)
        out[i] = fma(value, std, mean)
