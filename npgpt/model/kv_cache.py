"""What generation remembers: the keys and values of every position so far, layer by layer."""

import numpy as np

from npgpt.arrays import Array
from npgpt.config import Config

# Positions that there is room for at first. Pages that nothing was written into take no memory, and
# what has grown leaves holes that do: 5 MB of GPT-2 small's, were it to begin with 64.
FEW = 256


class LayerCache:
    """Keys and values of one layer, in buffers that grow up to the longest sequence.

    Made for it at once they would take all their memory at once, where the system gives it in huge
    pages: 0.6 GB for the largest GPT-2.
    """

    def __init__(self, batch: int, config: Config, dtype=np.float32):
        head_size = config.n_embd // config.n_head
        self.max_length = config.context_length
        shape = (batch, config.n_head, min(FEW, self.max_length), head_size)  # (B, H, room, D)
        self.k, self.v = np.empty((2, *shape), dtype)
        self.length = 0  # S, the positions filled so far
        self.backend_state = None  # what a backend need not look up again for the next position

    def append(self, k: Array, v: Array) -> tuple[Array, Array]:
        """(B, H, T, D) twice -> (B, H, S, D) twice, views of everything remembered.

        Raises ValueError for more positions than the longest sequence has.
        """
        start = self.reserve(k.shape[-2])
        end = self.length
        self.k[:, :, start:end] = k
        self.v[:, :, start:end] = v
        return self.k[:, :, :end], self.v[:, :, :end]

    def reserve(self, T: int) -> int:
        """Makes T more positions count, whose keys and values the caller writes from the returned
        one on. Raises ValueError for more than the longest sequence has.
        """
        start, end = self.length, self.length + T
        if end > self.max_length:
            raise ValueError(
                f"{T} positions after the {start} remembered ones do not fit into a "
                f"context of {self.max_length}; start from an empty memory on a cropped window"
            )
        if end > self.k.shape[-2]:
            room = min(2 * end, self.max_length)
            self.k, self.v = (grow(a[:, :, :start], room) for a in (self.k, self.v))
        self.length = end
        return start


def grow(array: Array, room: int) -> Array:
    """(B, H, S, D) -> (B, H, room, D) that begins with it."""
    B, H, S, D = array.shape
    out = np.empty((B, H, room, D), array.dtype)
    out[:, :, :S] = array
    return out


def empty_cache(batch: int, config: Config, dtype=np.float32) -> list[LayerCache]:
    """A memory of no positions: one Layer per block."""
    return [LayerCache(batch, config, dtype) for _ in range(config.n_layer)]
