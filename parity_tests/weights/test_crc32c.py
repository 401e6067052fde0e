"""CRC-32C against published values and its definition."""

import numpy as np
import pytest

from npgpt.weights.crc32c import WIDTHS, crc32c


@pytest.mark.parametrize(
    "data, expected",
    [
        (b"", 0),
        (b"123456789", 0xE3069283),
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
    ],
)
def test_published_checksums(data, expected):
    assert crc32c(data) == expected
    assert crc32c(np.frombuffer(data, np.uint8)) == expected


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("more", [-4, -1, 0, 1, 4, 7, 1027])
def test_checksums_of_long_messages_are_those_of_the_definition(rng, width, more):
    data = rng.integers(256, size=16 * width + more + 1, dtype=np.uint8)[1:]
    state = 0xFFFFFFFF
    for byte in data.tolist():
        state ^= byte
        for _ in range(8):
            state = state >> 1 ^ (0x82F63B78 if state & 1 else 0)
    assert crc32c(data) == state ^ 0xFFFFFFFF
