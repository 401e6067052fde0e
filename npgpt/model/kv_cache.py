"""Key/value cache for incremental decoding."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from typing import Any, NamedTuple

import numpy as np

from npgpt.arrays import Array
from npgpt.config import Config
from npgpt.quantized_matrix import from_bfloat16, to_bfloat16

# Initial capacity in positions. Untouched pages cost nothing, but every reallocation leaves a hole:
# starting from 64 positions wastes 5 MB for GPT-2 small.
INITIAL_CAPACITY = 256
BFLOAT16 = "bfloat16"  # a dtype that NumPy does not have


class Part(NamedTuple):
    """Some rows of a batch, and the cache to which their first `positions` new ones belong."""

    rows: slice
    positions: int
    cache: "LayerCache"


class LayerCache:
    """Cached keys and values of one attention layer.

    Buffers grow on demand up to the context length. With transparent huge pages, allocating the
    full length at once would commit 0.6 GB for GPT-2 XL.

    Parameters
    ----------
    batch : int
        Number of sequences B.
    config : Config
        Model shape; `config.context_length` limits the cache.
    dtype : dtype, default float32
        Data type of keys and values.

    Attributes
    ----------
    k, v : (B, H, capacity, D) array
        Buffers; only the first `length` positions are valid.
    length : int
        Number of cached positions S.
    backend_state : object or None
        Data that a backend keeps between decode steps, such as parameter addresses.
    """

    def __init__(self, batch: int, config: Config, dtype: Any = np.float32):
        head_size = config.n_embd // config.n_head
        self.max_length = config.context_length
        shape = (batch, config.n_head, min(INITIAL_CAPACITY, self.max_length), head_size)
        self.k, self.v = np.empty((2, *shape), dtype)
        self.length = 0
        self.backend_state: Any = None

    def append(self, k: Array, v: Array) -> tuple[Array, Array]:
        """Append T positions, (B, H, T, D) each, and return views of all S, (B, H, S, D) each.

        Raises
        ------
        ValueError
            If the cache would exceed the context length.
        """
        start = self.reserve(k.shape[-2])
        self.k[:, :, start : self.length] = k
        self.v[:, :, start : self.length] = v
        return self.k[:, :, : self.length], self.v[:, :, : self.length]

    def parts(self, T: int) -> list[Part]:
        """Return which of T new positions of a batch belong to which cache: all to this one."""
        return [Part(slice(None), T, self)]

    def reserve(self, count: int, empty: Callable[..., Array] = np.empty) -> int:
        """Reserve `count` positions, which the caller writes, and return the first.

        `empty` allocates larger buffers, if they are needed.

        Raises
        ------
        ValueError
            If the cache would exceed the context length.
        """
        start, end = self.length, self.length + count
        if end > self.max_length:
            raise ValueError(
                f"cannot append {count} positions to {start} cached ones: the context length is "
                f"{self.max_length}; start an empty cache from a cropped window"
            )
        if end > self.k.shape[-2]:
            # few sizes: pages of another cache are used again
            capacity = -(-2 * end // INITIAL_CAPACITY) * INITIAL_CAPACITY
            capacity = min(capacity, self.max_length)
            self.k, self.v = (grow(a[:, :, :start], capacity, empty) for a in (self.k, self.v))
        self.length = end
        return start

    def fork(self, copies: int) -> "LayerCache":
        """Return a cache with each sequence `copies` times, one after the other."""
        (B, H, _, D), S = self.k.shape, self.length
        capacity = min(2 * S, self.max_length)
        twin = copy(self)
        twin.k, twin.v = np.empty((2, B * copies, H, capacity, D), self.k.dtype)
        for new, old in ((twin.k, self.k), (twin.v, self.v)):
            new.reshape(B, copies, H, capacity, D)[..., :S, :] = old[:, None, :, :S]
        return twin


class Bfloat16Cache(LayerCache):
    """A LayerCache of float32 keys and values that stores them as bfloat16, rounded to nearest.

    `k` and `v` are their bits, uint16: half of the memory, and of what a new token reads.
    """

    def __init__(self, batch: int, config: Config):
        super().__init__(batch, config, np.uint16)

    def append(self, k: Array, v: Array) -> tuple[Array, Array]:
        """Append T positions, (B, H, T, D) each, and return all S, (B, H, S, D) each, rounded.

        The first ones are returned as they are: a prompt attends to exact keys and values.

        Raises
        ------
        ValueError
            If the cache would exceed the context length.
        """
        is_first = self.length == 0
        rounded = super().append(to_bfloat16(k), to_bfloat16(v))
        return (k, v) if is_first else (from_bfloat16(rounded[0]), from_bfloat16(rounded[1]))


class RowCaches:
    """Cached keys and values of one layer for rows of unequal length.

    Rows are read together and keep their own caches, so that they can leave and others can join.
    Several rows in succession may have one cache: they are its next positions, in this order.

    Parameters
    ----------
    rows : B LayerCaches of one sequence each
    counts : B ints, optional
        New positions of each row. A row of a padded batch has fewer than the batch; default all.

    Attributes
    ----------
    backend_state : object or None
        Data that a backend keeps between decode steps, as for LayerCache.
    """

    def __init__(self, rows: Sequence[LayerCache], counts: Sequence[int] | None = None):
        self.rows, self.counts = rows, counts
        self.backend_state: Any = None

    @property
    def length(self) -> Any:
        """The number of positions before each row, (B,) int64; or 0 if there are none."""
        lengths = np.array([row.length for row in self.rows])
        for i in range(1, len(lengths)):
            if self.rows[i] is self.rows[i - 1]:
                lengths[i] = lengths[i - 1] + 1
        return lengths if lengths.any() else 0

    def append(self, k: Array, v: Array) -> tuple[Array, Array]:
        """Append T positions to empty caches, (B, H, T, D) each, and return them with the padding.

        Raises
        ------
        ValueError
            If a row has cached positions: new ones of several are decoded one at a time.
        """
        for rows, count, cache in self.parts(k.shape[-2]):
            cache.append(k[rows, :, :count], v[rows, :, :count])
        return k, v

    def parts(self, T: int) -> list[Part]:
        """Return which of T new positions of a batch belong to which cache. Raises ValueError as
        `append` does."""
        if np.any(self.length):
            raise ValueError(f"cannot append to rows of {self.length} positions: decode them")
        counts = self.counts or [T] * len(self.rows)
        both = enumerate(zip(self.rows, counts, strict=True))
        return [Part(slice(i, i + 1), count, row) for i, (row, count) in both]


Past = LayerCache | RowCaches


@contextmanager
def restored_on_error(past: Sequence[LayerCache] | None) -> Iterator[None]:
    """Drop the positions that a forward pass has appended if it fails.

    It may fail, or be interrupted, in any block: some layers would be longer than others. After the
    last block, all of them would, so that the same tokens would be read twice.
    """
    lengths = [layer.length for layer in past or ()]
    try:
        yield
    except BaseException:
        for layer, length in zip(past or (), lengths, strict=True):
            layer.length = length
        raise


def grow(array: Array, capacity: int, empty: Callable[..., Array]) -> Array:
    """Copy (B, H, S, D) into a new (B, H, capacity, D) buffer."""
    B, H, S, D = array.shape
    out = empty((B, H, capacity, D), array.dtype)
    out[:, :, :S] = array
    return out


def empty_cache(batch: int, config: Config, dtype: Any = np.float32) -> list[LayerCache]:
    """Return an empty cache: one LayerCache per block. `dtype` may be "bfloat16"."""
    if dtype == BFLOAT16:
        return [Bfloat16Cache(batch, config) for _ in range(config.n_layer)]
    return [LayerCache(batch, config, dtype) for _ in range(config.n_layer)]
