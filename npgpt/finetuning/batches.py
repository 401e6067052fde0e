"""Batches of examples, in the order of PyTorch's DataLoader for the same generator state."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from npgpt.arrays import Array
from npgpt.data.loader import Loader
from npgpt.data.tokenizer import Tokenizer
from npgpt.errors import InputError
from npgpt.rng import Generator
from npgpt.system.terminal import number_of


class Batches:
    """The batches of a split.

    Parameters
    ----------
    count : int
        The number of examples.
    make : callable
        `make(numbers)` returns the batch of the examples with these numbers, a tuple.
    batch_size : int
    training : bool
        If True, every pass has a random order, and an incomplete last batch is skipped.
    """

    def __init__(
        self,
        count: int,
        make: Callable[[Array], tuple[Any, ...]],
        batch_size: int,
        *,
        training: bool,
    ):
        numbers = np.arange(count)[:, None]
        self.loader = Loader(
            numbers, numbers, batch_size=batch_size, shuffle=training, drop_last=training
        )
        self.count, self.make = count, make
        if not len(self):
            raise InputError(
                f"{number_of(count, 'training example')} are fewer than one batch of {batch_size}: "
                "give more, or a smaller --batch-size"
            )

    def __len__(self) -> int:
        return len(self.loader)

    def order(self, rng: Generator) -> Array:
        """Draw the order of the examples in one pass."""
        return self.loader.order(rng)

    def batch(self, order: Array, i: int) -> tuple[Any, ...]:
        """Return one batch of a pass in this order."""
        return self.make(self.loader.batch(order, i)[0][:, 0])

    def draw(self, rng: Generator, limit: int | None = None) -> Iterator[tuple[Any, ...]]:
        """Yield the batches of one pass, at most `limit`. The order is drawn at its start."""
        order = self.order(rng)
        for i in range(len(self) if limit is None else min(limit, len(self))):
            yield self.batch(order, i)


def pad_token(tokenizer: Tokenizer) -> int:
    """Return the token that fills short texts. Raises InputError if there is none."""
    if tokenizer.eot_token is None:
        raise InputError(f"the tokenizer {tokenizer} has no end-of-text token to pad texts with")
    return tokenizer.eot_token
