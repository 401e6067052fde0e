"""The Mersenne twister's words, some thousands at a time. What it computes: npgpt/ops/random.py.

Each key comes from the one before, but that is the lesser part of the work: of a large draw, every
thread makes all keys for itself (`begin`), and numbers of the pieces that it takes (`raw_of`).
Nobody waits for another, and who makes a piece changes no bit of it.
"""

from typing import NamedTuple

import numpy as np

from npgpt.arrays import Array
from npgpt.kernels.jit import exact_inner

BLOCK = 2496  # words at a time; with the keys that they come from, all of a nearest cache
TWIST = 624  # words of a key; from a word to the one that it helps to make
RUN = TWIST // 3  # words made in one loop: fewer than the 227 back to the nearest that it reads
ROOM = BLOCK + 2 * TWIST  # for the key at hand and the keys that BLOCK more words need
UPPER, LOWER = np.uint32(0x80000000), np.uint32(0x7FFFFFFF)
MATRIX, ONE = np.uint32(0x9908B0DF), np.uint32(1)


@exact_inner
def next_words(key, position, room, count):
    """-> (count,) uint32, the next words, from 1 to BLOCK of them. They stand in room (2, ROOM)."""
    words = room[1, :count]
    temper(_raw(key, position, room[0], count), words)
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
def begin(start, most):
    """An engine of one's own, and room for so many words of `_raw`."""
    mine = Mine(start.key.copy(), start.position.copy(), np.zeros(1, np.int64))
    return mine, np.empty(max(BLOCK, most) + 2 * TWIST, np.uint32)


@exact_inner
def raw_of(task, size, total, mine, engine, row):
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
def temper(raw, words):
    """words = raw, tempered."""
    for i in range(words.size):
        words[i] = tempered(raw[i])


@exact_inner
def tempered(y):
    """A word, tempered."""
    y ^= y >> np.uint32(11)
    y ^= (y << np.uint32(7)) & np.uint32(0x9D2C5680)
    y ^= (y << np.uint32(15)) & np.uint32(0xEFC60000)
    return y ^ (y >> np.uint32(18))


@exact_inner
def next_pairs(key, position, room, count):
    """-> (count,) uint64, each the next two words as they lie in memory; see pair."""
    return next_words(key, position, room, 2 * count).view(np.uint64)


@exact_inner
def pair(w):
    """The first word on top: in memory (little-endian) it is the lower half."""
    return w << np.uint64(32) | w >> np.uint64(32)


LOW53, UNIT53 = np.uint64(2**53 - 1), 2.0**-53


@exact_inner
def u53(w):
    """A float64 in [0, 1) of the low 53 bits of a pair."""
    return np.float64(np.int64(pair(w) & LOW53)) * UNIT53  # signed converts faster
