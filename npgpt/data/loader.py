"""Tokens -> windows (each with its targets, one later) -> batches, in a resumable order."""

from collections.abc import Iterator

import numpy as np

from npgpt.arrays import Array
from npgpt.errors import InputError
from npgpt.rng import Generator


def windows(tokens: Array, context_length: int, stride: int, *, what: str) -> tuple[Array, Array]:
    """(N,) -> inputs and targets, both (n, T): views of `tokens`, `stride` apart.

    Targets are the inputs, one token later; a window needs T + 1 tokens. `what` names the tokens in
    the InputError for too few of them.
    """
    needed = context_length + 1
    if len(tokens) < needed:
        raise InputError(
            f"the {what} split has {len(tokens)} tokens, but one window of context length "
            f"{context_length} needs {needed}: use a longer text, another --train-fraction, or a "
            "smaller --context-length"
        )
    every = np.lib.stride_tricks.sliding_window_view(tokens, needed)[::stride]
    return every[:, :-1], every[:, 1:]


class Loader:
    """Batches of windows, as torch.utils.data.DataLoader gives them, draw for draw."""

    def __init__(
        self, inputs: Array, targets: Array, *, batch_size: int, shuffle: bool, drop_last: bool
    ):
        """`inputs` and `targets` (n, T). `drop_last`: a last batch that is short is left out."""
        self.inputs, self.targets = inputs, targets
        self.batch_size, self.shuffle, self.drop_last = batch_size, shuffle, drop_last

    def __len__(self) -> int:
        """Batches in one pass."""
        n, b = len(self.inputs), self.batch_size
        return n // b if self.drop_last else -(-n // b)

    def order(self, rng: Generator) -> Array:
        """The order of the windows in one pass, (n,) int64. A shuffled pass draws its own seed.

        A pass begins with a draw even when nothing is shuffled: PyTorch's loader takes a seed for
        its workers from the global stream, which moves everything after it.
        """
        rng.random64()
        if not self.shuffle:
            return np.arange(len(self.inputs))
        return Generator(rng.random64(), ops=rng.ops).randperm(len(self.inputs))

    def batches(self, order: Array, start: int = 0) -> Iterator[tuple[Array, Array]]:
        """Inputs and targets (B, T) of each batch of a pass in that order, from `start` on."""
        for i in range(start, len(self)):
            chosen = order[i * self.batch_size : (i + 1) * self.batch_size]
            yield self.inputs[chosen], self.targets[chosen]
