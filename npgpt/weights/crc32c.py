"""CRC-32C, the checksum of LevelDB and TensorFlow, in NumPy and fast enough for gigabytes.

A message is a polynomial over the bits, its checksum the remainder modulo POLY. Byte by byte, a
table of 256 products computes it: `state = table[(state ^ byte) & 255] ^ state >> 8`.

A word (32 bits) can be moved k words towards the end: multiplied by x^(32 k), it is added (xor) to
the word there, and the remainder is unchanged. So a long message is folded. It is cut into rows of
`width` words, and each row is added to the next, until one row is left. The factor is always
x^(32 width), and multiplication by it is linear. The product of a word is that of its low half xor
that of its high half, each from a table of 65,536 products. Each row takes a few calls of NumPy.

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
    """Return the CRC-32C of bytes, or of a uint8 array (n,). For b"123456789" it is 0xE3069283."""
    message = np.frombuffer(data, np.uint8)
    aligned = message.size // 4 * 4
    words, rest = message[:aligned].view("<u4"), message[aligned:]
    state = START
    for width in WIDTHS:
        if words.size >= 4 * width:
            words, state = fold(words, width, state), 0
    table = byte_products()
    for byte in words.astype("<u4", copy=False).tobytes() + rest.tobytes():
        state = table[(state ^ byte) & 255] ^ state >> 8
    return state ^ START


def fold(words: Array, width: int, state: int) -> Array:
    """Fold words (n,) into (width,), both uint32, with an equal remainder.

    `state`: the initial state for `words`. That of the result is 0.
    """
    first = (words.size - 1) % width + 1  # words of the first row, which may be shorter
    row = np.zeros(width, np.uint32)  # zeros before a message do not change its remainder
    row[width - first :] = words[:first]
    row[width - first] ^= state
    low, high = products(32 * width)
    for start in range(first, words.size, width):
        row = low.take(row & 0xFFFF) ^ high.take(row >> 16)
        row ^= words[start : start + width]
    return row


@functools.cache
def products(power: int) -> Array:
    """Return (2, 65536) uint32: every low half and every high half of a word, times x^power.

    `power`: a power of two, because x is squared repeatedly.
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
    """Return the 256 products of a byte and x^8."""
    return products(8)[0, :256].tolist()


def mask(crc: int) -> int:
    """Return a checksum as LevelDB stores it: rotated, plus a constant.

    The CRC of bytes that end with their own plain CRC would be constant.
    """
    return (crc >> 15 | crc << 17 & 0xFFFFFFFF) + MASK & 0xFFFFFFFF
