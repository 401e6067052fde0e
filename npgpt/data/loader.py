"""Tokens -> windows (each with its targets, one token later) -> batches, in a resumable order."""

from collections.abc import Iterator

import numpy as np

from npgpt.arrays import Array
from npgpt.errors import InputError, show
from npgpt.model.inputs import check_bool, check_integer, check_kind
from npgpt.rng import Generator


def windows(tokens: Array, context_length: int, stride: int, *, what: str) -> tuple[Array, Array]:
    """Return the windows of a sequence of tokens, and their targets.

    Parameters
    ----------
    tokens : (N,) int
    context_length : int
        T, the tokens per window. A window and its targets take T + 1 tokens.
    stride : int
        The distance between the starts of two windows, in tokens.
    what : str
        The name of the split, for the error message.

    Returns
    -------
    inputs, targets : (n, T) int
        Views of `tokens`. The targets are the inputs, one token later.

    Raises
    ------
    InputError
        If there are fewer than T + 1 tokens.
    """
    require_window(len(tokens), context_length, f"the {what} split")
    every = np.lib.stride_tricks.sliding_window_view(tokens, context_length + 1)[::stride]
    return every[:, :-1], every[:, 1:]


def require_window(tokens: int, context_length: int, where: str) -> None:
    """Raise InputError if there are fewer tokens than one window and the token after it."""
    if tokens <= context_length:
        raise InputError(
            f"{where} has {tokens} tokens, but one window of context length {context_length} needs "
            f"{context_length + 1}: use more text, a smaller --context-length or, for "
            "data without a validation split of its own, another --train-fraction"
        )


class Loader:
    """Batches of windows in the order of torch.utils.data.DataLoader, for the same generator state.

    Parameters
    ----------
    inputs, targets : (n, T) int
        As returned by `windows`.
    batch_size : int
        B, the windows per batch.
    shuffle : bool
        If True, every pass has a random order.
    drop_last : bool
        If True, a last batch of fewer than B windows is skipped.
    """

    def __init__(
        self,
        inputs: Array,
        targets: Array,
        *,
        batch_size: int,
        shuffle: bool,
        drop_last: bool,
    ):
        for array in (inputs, targets):
            known = isinstance(array, np.ndarray)
            if not known or array.ndim != 2 or array.shape != inputs.shape:
                raise InputError("inputs and targets must be two arrays of one shape (n, T)")
            if array.dtype.kind not in "iu":
                raise InputError(f"inputs and targets must be integers, not {array.dtype}")
        self.inputs, self.targets, self.size = inputs, targets, len(inputs)
        self.batch_size = check_integer("batch_size", batch_size, least=1)
        self.shuffle = check_bool("shuffle", shuffle)
        self.drop_last = check_bool("drop_last", drop_last)

    def __len__(self) -> int:
        """Return the number of batches in one pass."""
        n, b = len(self.inputs), self.batch_size
        return n // b if self.drop_last else -(-n // b)

    def order(self, rng: Generator) -> Array:
        """Draw the order of the windows in one pass. A shuffled pass draws its own seed.

        A pass also draws once if nothing is shuffled, as PyTorch's loader does for the seed of its
        workers.

        Parameters
        ----------
        rng : Generator

        Returns
        -------
        (n,) int64

        Raises
        ------
        InputError
            If `rng` is no generator.
        """
        check_kind("rng", rng, Generator)
        rng.random64()
        if not self.shuffle:
            return np.arange(len(self.inputs))
        return Generator(rng.random64(), ops=rng.ops).randperm(len(self.inputs))

    def batches(self, order: Array, start: int = 0) -> Iterator[tuple[Array, Array]]:
        """Yield the batches of one pass.

        Parameters
        ----------
        order : (n,) int64
            As returned by `order`.
        start : int, optional
            The number of the first batch, to resume a pass. Default 0.

        Yields
        ------
        inputs, targets : (B, T) int

        Raises
        ------
        InputError
            If `order` has no window's number or another length, or `start` is negative.
        """
        start = check_integer("start", start, least=0)
        check_order(order, len(self.inputs))
        for i in range(start, len(self)):
            yield self.batch(order, i)

    def batch(self, order: Array, i: int) -> tuple[Array, Array]:
        """Return one batch of a pass.

        Parameters
        ----------
        order : (n,) int64
            As returned by `order`.
        i : int
            The number of the batch.

        Returns
        -------
        inputs, targets : (B, T) int
        """
        chosen = order[i * self.batch_size : (i + 1) * self.batch_size]
        return self.inputs[chosen], self.targets[chosen]


def check_order(order: Array, n: int) -> None:
    """Raise InputError unless these are the numbers of windows in an order of `n` windows."""
    if not isinstance(order, np.ndarray) or order.shape != (n,) or order.dtype.kind not in "iu":
        raise InputError(f"order must be {n} integers in an array, not {show(order)}")
    if n and not 0 <= order.min() <= order.max() < n:
        raise InputError(f"order must be numbers of windows, 0 to {n - 1}, not {show(order)}")
