"""CRC-32C, the checksum of LevelDB and TensorFlow, in NumPy and fast enough for gigabytes.

A message is a polynomial over the bits, its checksum the remainder modulo POLY. Byte after byte
that is a table and a line of Python: `state = table[(state ^ byte) & 255] ^ state >> 8`.

The remainder stays the same when a word (32 bits) is taken away from one place of the message and,
multiplied by x^32 for each place that it moves, added (xor) to a later one. So a long message is
folded: cut into rows of `width` words, each row added to the next, until one row is left that has
the remainder of all. The factor is always the same, x^(32 width), and multiplying by it is linear:
the product of a word is that of its low half xor that of its high half, out of two tables of 65,536
products. That is a few calls of NumPy for a whole row.

Castagnoli, Braeuer, Herrmann 1993 (the polynomial); RFC 3720, B.4 (examples).
"""

import functools

import numpy as np

from npgpt.arrays import Array

POLY = 0x82F63B78  # the lowest bit belongs to the highest power, here and below
START = 0xFFFFFFFF
WIDTHS = 8192, 256  # rows that fit into a core's cache; then rows short enough for Python
MASK = 0xA282EAD8


def crc32c(data: bytes | Array) -> int:
    """The checksum of bytes, or of a uint8 array (n,). Of b"123456789" it is 0xE3069283."""
    data = np.frombuffer(data, np.uint8)
    whole = data.size // 4 * 4
    words, rest = data[:whole].view("<u4"), data[whole:]
    state = START
    for width in WIDTHS:
        if words.size >= 4 * width:
            words, state = fold(words, width, state), 0
    table = byte_products()
    for byte in words.astype("<u4", copy=False).tobytes() + rest.tobytes():
        state = table[(state ^ byte) & 255] ^ state >> 8
    return state ^ START


def fold(words: Array, width: int, state: int) -> Array:
    """(n,) uint32 -> (width,) with the remainder, from 0, that `words` have from `state`."""
    first = (words.size - 1) % width + 1  # what rows of `width` leave over stands in front
    row = np.zeros(width, np.uint32)  # zeros before a message change nothing
    row[width - first :] = words[:first]
    row[width - first] ^= state
    low, high = products(32 * width)
    for start in range(first, words.size, width):
        row = low.take(row & 0xFFFF) ^ high.take(row >> 16)
        row ^= words[start : start + width]
    return row


@functools.cache
def products(power: int) -> Array:
    """(2, 65536) uint32: every low half and every high half of a word, times x^power.

    power: a power of two, because x is squared until it is there.
    """
    bits = np.arange(32, dtype=np.uint32)
    words = np.uint32(1) << bits
    images = words >> 1 ^ (words & 1) * np.uint32(POLY)  # each bit of a word, times x
    while power > 1:
        images = np.bitwise_xor.reduce((images[:, None] >> bits & 1) * images, axis=1)
        power //= 2
    table = np.zeros((2, 1), np.uint32)
    for bit in range(16):
        table = np.concatenate([table, table ^ images.reshape(2, 16)[:, bit, None]], axis=1)
    return table


@functools.cache
def byte_products() -> list[int]:
    """(256,): every byte, times x^8."""
    return products(8)[0, :256].tolist()


def masked(crc: int) -> int:
    """As it is stored: the checksum of bytes that end with their own checksum would say nothing."""
    return (crc >> 15 | crc << 17 & 0xFFFFFFFF) + MASK & 0xFFFFFFFF
