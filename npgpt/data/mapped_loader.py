"""Batches of mapped windows, in an order that is a function of (seed, epoch, index).

The number of a window in the run is g = epoch * windows + index. `mixture.py` says which source it
is from, and how many windows of this source come before it, k. A source of n windows gives them in
the order of a permutation, and of another one after every n: its window is P_(k // n)[k % n].
"""

from collections.abc import Iterator

import numpy as np

from npgpt.arrays import Array
from npgpt.data.mapped_tokens import MappedTokens, MappedWindows, MixedTokens
from npgpt.data.mixture import Mixture
from npgpt.data.permutation import Permutation


class MappedLoader:
    """Batches of windows of mapped tokens, shuffled. An incomplete last batch is skipped."""

    def __init__(
        self,
        tokens: MappedTokens | MixedTokens,
        context_length: int,
        stride: int,
        *,
        batch_size: int,
        seed: int,
    ):
        self.windows = [MappedWindows(one, context_length, stride) for one in tokens.sources]
        self.sizes = [len(windows) for windows in self.windows]
        self.mixture = Mixture(tokens.weights or self.sizes)
        self.batch_size, self.seed, self.size = batch_size, seed, sum(self.sizes)

    def __len__(self) -> int:
        """Return the number of batches in one epoch."""
        return self.size // self.batch_size

    def order(self, epoch: int) -> range:
        """Return the numbers in the run of the windows of an epoch."""
        return range(epoch * self.size, (epoch + 1) * self.size)

    def batches(self, order: range, start: int = 0) -> Iterator[tuple[Array, Array]]:
        """Yield inputs and targets (B, T) of the batches of an epoch, from number `start` on."""
        for i in range(start, len(self)):
            yield self.read(order[i * self.batch_size : (i + 1) * self.batch_size])

    def read(self, numbers: range) -> tuple[Array, Array]:
        """Return inputs and targets (B, T) of consecutive windows of the run."""
        counts = np.array([self.mixture.counts(g) for g in (*numbers, numbers.stop)])
        pairs = np.empty((len(numbers), self.windows[0].context_length + 1), np.int64)
        for source, windows in enumerate(self.windows):
            count = counts[:, source]
            chosen = self.choose(source, int(count[0]), int(count[-1]))
            pairs[np.flatnonzero(np.diff(count))] = windows.read(chosen)
        return pairs[:, :-1].copy(), pairs[:, 1:].copy()

    def choose(self, source: int, start: int, stop: int) -> Array:
        """Return the windows of a source that it gives as its `start`-th to `stop`-th, from 0."""
        found, n = [np.empty(0, np.int64)], self.sizes[source]
        while start < stop:
            again, first = divmod(start, n)
            key = (self.seed, again, source) if source else (self.seed, again)
            found.append(Permutation(n, *key)[first : first + stop - start])
            start += len(found[-1])
        return np.concatenate(found)
