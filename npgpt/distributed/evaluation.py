"""The loss of a text and the scores of requests, which all ranks share: bits for any number."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from npgpt.arrays import Array
from npgpt.distributed import agreement
from npgpt.distributed.world import World, once_per_machine
from npgpt.gpt import GPT
from npgpt.inference import scoring
from npgpt.inference.evaluate import Batch, Batches, Share, batch_losses, mean
from npgpt.inference.scoring import Request
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
        require_same(world, model, {
            "the text": agreement.sample(batches.tokens),
            "the windows": (batches.length, batches.stride, batches.batch_size, batches.count),
        })  # fmt: skip
        compile_kernels(world, model)
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


def score(
    world: World,
    model: GPT,
    requests: Sequence[Request],
    tokens: int,
    track: Callable[[list[scoring.Batch]], Iterable[scoring.Batch]] = iter,
) -> Array:
    """Return what scoring.score returns. Rank r scores the batches r, r + N, r + 2N, ..."""
    share = dict(tokens=tokens, rank=world.rank, size=world.size)
    if world.size == 1:
        return scoring.score(model, requests, **share, track=track)
    ids = [np.array([len(part), *part]) for request in requests for part in request]
    require_same(world, model, {"the requests": np.concatenate(ids), "the batches": tokens})
    compile_kernels(world, model)
    own = scoring.score(model, requests, **share, track=track)
    return agreement.all_gather(world, own).sum(0)  # of other ranks' batches, the scores are 0


def compile_kernels(world: World, model: GPT) -> None:
    """Compile the kernels of an evaluation, once per machine."""
    T = min(64, model.config.context_length)
    window = np.arange(T)[None] % model.config.vocab_size
    once_per_machine(world, lambda: model.evaluate(window, window))


def require_same(world: World, model: GPT, data: dict[str, Any]) -> None:
    """Raise InputError unless all ranks have the same model and data."""
    agreement.require_equal(world, {
        **agreement.settings(model.config),
        "the parameters": sample_parameters(model),
        **data,
    })  # fmt: skip


def sample_parameters(model: GPT) -> Array:
    """Return some numbers of each parameter: all of them would be read from the disk."""
    found = []
    for leaf in params.leaves(model.params):
        values: Any = getattr(leaf, "values", leaf)  # those of a QuantizedMatrix
        rows = values.reshape(-1)[:: max(1, values.size // SAMPLED)]
        found.append(np.ascontiguousarray(rows).view(np.uint8))
    return np.concatenate(found)
