"""The loss of a model on a text, whose windows all ranks share: the same bits for any number."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from npgpt.arrays import Array
from npgpt.distributed import agreement
from npgpt.distributed.world import World, once_per_machine
from npgpt.gpt import GPT
from npgpt.inference.evaluate import Batch, Batches, Share, batch_losses, mean
from npgpt.model import params

SAMPLED = 4096  # numbers of each parameter that the ranks compare


def evaluate(
    world: World,
    model: GPT,
    batches: Batches,
    track: Callable[[Share], Iterable[Batch]] = iter,
) -> float:
    """Return what npgpt.evaluate returns. Rank r evaluates the batches r, r + N, r + 2N, ..."""
    if world.size > 1:
        require_same(world, model, batches)
        T = min(64, batches.length)
        window = np.arange(T)[None] % model.config.vocab_size
        once_per_machine(world, lambda: model.evaluate(window, window))  # compiles the kernels
    share = Share(batches, world.rank, world.size)
    own = list(batch_losses(model, track(share)))
    return mean(in_order(world, own, len(batches)), batches.predicted)


def in_order(world: World, own: list[float], count: int) -> list[float]:
    """Return the numbers of all ranks in the order 0, 1, ... of those that are shared."""
    if world.size == 1:
        return own
    padded = np.zeros(-(-count // world.size))
    padded[: len(own)] = own
    return agreement.all_gather(world, padded).T.reshape(-1)[:count].tolist()


def require_same(world: World, model: GPT, batches: Batches) -> None:
    """Raise InputError unless all ranks have the same model, text and windows."""
    agreement.require_equal(world, {
        **agreement.settings(model.config),
        "the parameters": sample_parameters(model),
        "the text": agreement.sample(batches.tokens),
        "the windows": (batches.length, batches.stride, batches.batch_size, batches.count),
    })  # fmt: skip


def sample_parameters(model: GPT) -> Array:
    """Return some numbers of each parameter: all of them would be read from the disk."""
    found = []
    for leaf in params.leaves(model.params):
        values: Any = getattr(leaf, "values", leaf)  # those of a QuantizedMatrix
        rows = values.reshape(-1)[:: max(1, values.size // SAMPLED)]
        found.append(np.ascontiguousarray(rows).view(np.uint8))
    return np.concatenate(found)
