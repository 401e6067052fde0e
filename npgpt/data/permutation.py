"""A random order of any number of items in constant memory.

A Feistel network permutes the numbers below a power of four (Luby and Rackoff 1988). A result that
is not below n is permuted again, until one is (cycle walking, Black and Rogaway 2002): at most four
times on average. Half of the bits change in each round, by a hash of the other half and a key.
"""

import hashlib

import numpy as np

from npgpt.arrays import Array

ROUNDS = 6


class Permutation:
    """The numbers from 0 to n - 1 in an order that depends on `key` alone. Slices are arrays."""

    def __init__(self, n: int, *key: int):
        self.n = n
        self.bits = np.uint64(max(1, (max(n - 1, 1).bit_length() + 1) // 2))  # of each half
        self.mask = (np.uint64(1) << self.bits) - np.uint64(1)
        text = ",".join(map(str, key)).encode()
        digest = hashlib.blake2b(text, digest_size=8 * ROUNDS).digest()
        self.keys = np.frombuffer(digest, "<u8")

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, where: slice) -> Array:
        """Return the items of a slice as int64."""
        found = np.arange(*where.indices(self.n), dtype=np.uint64)
        outside = np.ones(len(found), bool)
        while outside.any():
            found[outside] = self.permute(found[outside])
            outside = found >= self.n
        return found.astype(np.int64)

    def permute(self, x: Array) -> Array:
        """Return the places of numbers (m,) uint64 below 4**bits."""
        left, right = x >> self.bits, x & self.mask
        for key in self.keys:
            left, right = right, left ^ (mix(right ^ key) & self.mask)
        return left << self.bits | right


def mix(x: Array) -> Array:
    """Return the hash of numbers (m,) uint64: the finalizer of SplitMix64 (Steele et al. 2014)."""
    x = (x ^ x >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ x >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return x ^ x >> np.uint64(31)
