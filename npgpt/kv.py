"""What generation remembers: the keys and values of every position so far, layer by layer."""

import numpy as np

from npgpt.arrays import Array
from npgpt.config import Config


class Layer:
    """Keys and values of one layer, in buffers made once for the longest sequence."""

    def __init__(self, batch: int, config: Config, dtype=np.float32):
        head_size = config.n_embd // config.n_head
        shape = (batch, config.n_head, config.context_length, head_size)  # (B, H, T_max, D)
        self.k, self.v = np.empty((2, *shape), dtype)
        self.length = 0  # S, the positions filled so far

    def append(self, k: Array, v: Array) -> tuple[Array, Array]:
        """(B, H, T, D) twice -> (B, H, S, D) twice, views of everything remembered.

        Raises ValueError when the buffers have no room for T more positions.
        """
        start = self.grow(k.shape[-2])
        end = self.length
        self.k[:, :, start:end] = k
        self.v[:, :, start:end] = v
        return self.k[:, :, :end], self.v[:, :, :end]

    def grow(self, T: int) -> int:
        """Makes T more positions count, whose keys and values the caller writes from here on.

        Raises ValueError when there is no room for them.
        """
        start, end = self.length, self.length + T
        if end > self.k.shape[-2]:
            raise ValueError(
                f"{T} positions after the {start} remembered ones do not fit into a "
                f"context of {self.k.shape[-2]}; start from an empty memory on a cropped window"
            )
        self.length = end
        return start


def empty(batch: int, config: Config, dtype=np.float32) -> list[Layer]:
    """A memory of no positions: one Layer per block."""
    return [Layer(batch, config, dtype) for _ in range(config.n_layer)]
