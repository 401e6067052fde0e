"""Draws of any size, by any number of threads. The formulas are in npgpt/ops/random.py.

`start` is the engine before the draw, which every thread copies. `engine` receives the state after
it. `counter` counts the pieces that are taken.
"""

import numpy as np

from npgpt.kernels.box_muller import box_muller32
from npgpt.kernels.cpu import BYTES
from npgpt.kernels.jit import exact_inner, exact_njit
from npgpt.kernels.math import fma
from npgpt.kernels.mt19937 import BLOCK, LOW53, begin, pair, raw_of, temper, tempered
from npgpt.kernels.parallel import in_parallel
from npgpt.kernels.simd import transpose
from npgpt.kernels.work_queue import take

PIECE = 24576  # words that a thread takes, a multiple of 16; they fit a second-level cache
LOW24, UNIT24 = np.uint32(2**24 - 1), np.float32(2**-24)


@exact_inner
def _uniform32_pieces(_thread, start, engine, counter, low, span, out):
    own, row = begin(start, min(PIECE, out.size))
    while _piece(own, engine, counter, row, low, span, out).size:
        pass


@exact_njit
def uniform32(threads, start, engine, counter, low, span, out):
    """out (N,) float32: uniform numbers from low to low + span."""
    in_parallel(threads, _uniform32_pieces, (start, engine, counter, low, span, out))


@exact_inner
def _piece(own, engine, counter, row, low, span, out):
    """Take and fill the next piece of `out`; it is empty if nothing is left."""
    task = take(counter, 0)
    piece = out[task * PIECE :][:PIECE]
    if piece.size:
        _spread(raw_of(task, PIECE, out.size, own, engine, row), low, span, piece)
    return piece


@exact_inner
def _spread(raw, low, span, out):
    for i in range(out.size):
        out[i] = fma(np.float32(np.int32(tempered(raw[i]) & LOW24)) * UNIT24, span, low)


@exact_inner
def _normal32_pieces(_thread, start, engine, counter, mean, std, out):
    """Draw pieces; elements after the last group of 16 stay uniform."""
    own, row = begin(start, min(PIECE, out.size))
    zero, one = np.float32(0), np.float32(1)
    piece = _piece(own, engine, counter, row, zero, one, out)
    while piece.size:
        box_muller32(mean, std, piece[: piece.size // 16 * 16])
        piece = _piece(own, engine, counter, row, zero, one, out)


@exact_njit
def normal32(threads, start, engine, counter, mean, std, out):
    """out (N,) float32: normal numbers; the last N % 16 stay uniform ones from 0 to 1."""
    in_parallel(threads, _normal32_pieces, (start, engine, counter, mean, std, out))


@exact_inner
def _bernoulli_pieces(_thread, start, engine, counter, threshold, out):
    half = PIECE // 2  # each element takes two words
    own, row = begin(start, 2 * min(half, out.size))
    words = np.empty(BLOCK, np.uint32)
    task = take(counter, 0)
    while task * half < out.size:
        piece = out[task * half :][:half]
        raw = raw_of(task, PIECE, 2 * out.size, own, engine, row)
        for first in range(0, piece.size, BLOCK // 2):
            block = piece[first : first + BLOCK // 2]
            temper(raw[2 * first :], words[: 2 * block.size])
            w = words.view(np.uint64)
            for i in range(block.size):
                block[i] = (pair(w[i]) & LOW53) < threshold
        task = take(counter, 0)


@exact_njit
def bernoulli(threads, start, engine, counter, threshold, out):
    """out (N,) bool: True if a number of 53 random bits is below the threshold."""
    in_parallel(threads, _bernoulli_pieces, (start, engine, counter, threshold, out))


LINES = 16  # columns of a task: 16 float32 are a cache line, which is then written once
CHUNK = 64  # elements of a column that are drawn and transposed together
LANES = BYTES // 4


@exact_inner
def _columns_pieces(_thread, start, engine, counter, low, span, I, O, stride, out):
    """Draw columns; row i of the (I, O) matrix begins at out[i stride]."""
    own, row = begin(start, LINES * I)
    chunk = np.empty((LINES, CHUNK), np.float32)
    flat = chunk.reshape(-1)
    task = take(counter, 0)
    while task * LINES < O:
        left = task * LINES
        width = min(LINES, O - left)
        raw = raw_of(task, LINES * I, O * I, own, engine, row)
        for top in range(0, I, CHUNK):
            rows = min(CHUNK, I - top)
            for o in range(width):
                _spread(raw[o * I + top :], low, span, chunk[o, :rows])
            squares = rows // LANES * LANES if width == LINES else 0
            for i in range(0, squares, LANES):
                for o in range(0, LINES, LANES):
                    dst = (top + i) * stride + left + o
                    transpose(flat, o * CHUNK + i, CHUNK, LANES, out, dst, stride)
            for i in range(squares, rows):
                line = out[(top + i) * stride + left :]
                for o in range(width):
                    line[o] = chunk[o, i]
        task = take(counter, 0)


@exact_njit
def columns(threads, start, engine, counter, low, span, I, O, stride, out):
    """Draw an (I, O) matrix, column after column; its row i begins at out[i stride]."""
    in_parallel(threads, _columns_pieces, (start, engine, counter, low, span, I, O, stride, out))
