"""Continue prompts that all ranks share. The first one has the results, in their order."""

import json
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import numpy as np

from npgpt.arrays import Array
from npgpt.data.prompts import Prompt
from npgpt.data.tokenizer import Tokenizer
from npgpt.distributed import agreement
from npgpt.distributed.evaluation import sample_parameters
from npgpt.distributed.world import World, once_per_machine
from npgpt.gpt import GPT
from npgpt.inference import bulk
from npgpt.inference.bulk import Continuation, Options
from npgpt.inference.speculation import Speculation

ROUND = 8  # batches of a rank between two exchanges: the ranks wait for the last one


def continue_prompts(
    world: World, model: GPT, tokenizer: Tokenizer, prompts: Iterable[Prompt], options: Options,
    digest: Any, speculate: Speculation | None = None,
) -> Iterator[Continuation]:  # fmt: skip
    """Yield what `bulk.continue_prompts` yields, on the first rank. The others yield nothing.

    Of N ranks, rank r continues the prompts r, r + N, r + 2N, ... `digest`: of all prompts.
    """
    if world.size == 1:
        yield from bulk.continue_prompts(model, tokenizer, prompts, options, speculate)
        return
    agreement.require_equal(world, {
        **agreement.settings(model.config, options),
        "the parameters": sample_parameters(model),
        "the prompts": digest,
    })  # fmt: skip
    T = model.config.context_length
    once_per_machine(world, lambda: model.next_logits([[0] * min(2, T)]))  # compiles kernels
    start, source = 0, iter(prompts)
    while block := list(islice(source, world.size * options.batch_size * ROUND)):
        mine = block[world.rank :: world.size]
        own = bulk.continue_prompts(model, tokenizer, mine, options, speculate)
        parts = [decode(part) for part in gather(world, encode(own))]
        for i in range(len(block) if world.is_first else 0):
            for found in parts[i % world.size][i // world.size]:
                yield found._replace(number=start + i)
        start += len(block)


def encode(found: Iterable[Continuation]) -> Array:
    """Return continuations as JSON, (size,) uint8."""
    return np.frombuffer(json.dumps(list(found)).encode(), np.uint8)


def decode(data: Array) -> dict[int, list[Continuation]]:
    """Return the continuations of each prompt, by its number on its rank."""
    found: dict[int, list[Continuation]] = {}
    for row in json.loads(data.tobytes() or b"[]"):
        found.setdefault(row[0], []).append(Continuation(*row))
    return found


def gather(world: World, own: Array) -> list[Array]:
    """Return the bytes of all ranks on the first one, else an empty list."""
    sizes = agreement.all_gather(world, np.array(own.size))
    if not world.is_first:
        world.comm.Gatherv(own, None, root=0)
        return []
    table = np.empty(sizes.sum(), np.uint8)
    world.comm.Gatherv(own, (table, sizes), root=0)
    return np.split(table, np.cumsum(sizes)[:-1])
