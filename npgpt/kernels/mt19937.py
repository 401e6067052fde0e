"""The words of the Mersenne Twister, thousands at a time. The algorithm is in npgpt/ops/random.py.

Each key depends on the one before, but computing keys is the smaller part of the work. In a large
draw, every thread computes all keys (`begin`), and converts only the words of the pieces that it
takes (`raw_of`). No thread waits for another, and the bits do not depend on which takes a piece.
"""

from typing import NamedTuple

import numpy as np

from npgpt.arrays import Array
from npgpt.kernels.jit import exact_inner

BLOCK = 2496  # words at a time: they and their keys fill the first-level cache
TWIST = 624  # words of a key, and the distance from a word to the one made from it
RUN = TWIST // 3  # words per loop: fewer than 227, the distance to the nearest word it reads
BUFFER = BLOCK + 2 * TWIST  # for the current key, and the keys of BLOCK more words
UPPER, LOWER = np.uint32(0x80000000), np.uint32(0x7FFFFFFF)
MATRIX, ONE = np.uint32(0x9908B0DF), np.uint32(1)


@exact_inner
def next_words(key, position, buffer, count):
    """-> (count,) uint32, the next 1 to BLOCK words, a view of buffer (2, BUFFER)."""
    words = buffer[1, :count]
    temper(_raw(key, position, buffer[0], count), words)
    return words


@exact_inner
def _raw(key, position, row, count):
    """-> (count,) uint32, the next words before tempering, a view of row (count + 2 TWIST,)."""
    start = position[0] or TWIST  # a new engine is at the end of its key
    end = start + count
    twists = (end - 1) // TWIST
    for i in range(TWIST):
        row[i] = key[i]
    _twist(row, twists)
    last = row[TWIST * twists :]
    for i in range(TWIST):
        key[i] = last[i]
    position[0] = end - TWIST * twists
    return row[start:end]


class ThreadEngine(NamedTuple):
    """The engine of one thread."""

    key: Array  # (624,) uint32
    position: Array  # (1,) int64
    task: Array  # (1,) int64: the task whose words come next


@exact_inner
def begin(start, most):
    """Return an engine for one thread, and a buffer for `most` words of `_raw`."""
    own = ThreadEngine(start.key.copy(), start.position.copy(), np.zeros(1, np.int64))
    return own, np.empty(max(BLOCK, most) + 2 * TWIST, np.uint32)


@exact_inner
def raw_of(task, size, total, own, engine, row):
    """-> (size,) uint32, the words of a task before tempering; fewer for the last task.

    Words of tasks in between are skipped. The last of `total` words updates `engine`.
    """
    for _other in range(own.task[0], task):
        for done in range(0, size, BLOCK):
            _raw(own.key, own.position, row, min(BLOCK, size - done))
    own.task[0] = task + 1
    raw = _raw(own.key, own.position, row, min(size, total - task * size))
    if total <= (task + 1) * size:
        for i in range(TWIST):
            engine.key[i] = own.key[i]
        engine.position[0] = own.position[0]
    return raw


@exact_inner
def _twist(row, twists):
    """Append `twists` keys to row, which begins with a key."""
    for run in range(3 * twists):
        part = row[RUN * run :]
        for i in range(RUN):
            y = (part[i] & UPPER) | (part[i + 1] & LOWER)
            part[i + 624] = part[i + 397] ^ (y >> ONE) ^ ((y & ONE) * MATRIX)


@exact_inner
def temper(raw, words):
    """words = tempered(raw)"""
    for i in range(words.size):
        words[i] = tempered(raw[i])


@exact_inner
def tempered(y):
    """Return a word after tempering."""
    y ^= y >> np.uint32(11)
    y ^= (y << np.uint32(7)) & np.uint32(0x9D2C5680)
    y ^= (y << np.uint32(15)) & np.uint32(0xEFC60000)
    return y ^ (y >> np.uint32(18))


@exact_inner
def next_pairs(key, position, buffer, count):
    """-> (count,) uint64, each two words in the order of memory; see `pair`."""
    return next_words(key, position, buffer, 2 * count).view(np.uint64)


@exact_inner
def pair(w):
    """Make the first word the upper half: in memory (little-endian) it is the lower one."""
    return w << np.uint64(32) | w >> np.uint64(32)


LOW53, UNIT53 = np.uint64(2**53 - 1), 2.0**-53


@exact_inner
def u53(w):
    """Return a float64 in [0, 1) from the low 53 bits of a pair."""
    return np.float64(np.int64(pair(w) & LOW53)) * UNIT53  # signed converts faster
