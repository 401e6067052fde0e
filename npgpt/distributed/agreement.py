"""The comparison of all ranks before the first step: what must be equal, by name."""

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from npgpt.arrays import Array
from npgpt.data.mapped_tokens import MappedTokens
from npgpt.distributed.world import World
from npgpt.errors import InputError

ENDS = 1 << 16  # tokens at each end of mapped token files that are compared


def require_equal(world: World, values: Mapping[str, Any]) -> None:
    """Raise InputError on all ranks if a value differs between two of them.

    `values`: arrays, or objects whose `repr` is compared, under a name for the message.
    """
    if world.size == 1:
        return
    own = np.stack([digest(value) for value in values.values()])
    table = np.empty((world.size, *own.shape), np.uint8)
    world.comm.Allgather(own, table)
    for i, name in enumerate(values):
        for rank in range(1, world.size):
            if table[rank, i].tobytes() != table[0, i].tobytes():
                raise InputError(
                    f"{name} of rank {rank} and of rank 0 differ, but must be equal on all ranks"
                )


def digest(value: Any) -> Array:
    """Return the SHA-256 digest of a value as (32,) uint8."""
    data: Any = repr(value).encode()
    if isinstance(value, np.ndarray):
        data = np.ascontiguousarray(value).view(np.uint8).reshape(-1)
    return np.frombuffer(hashlib.sha256(data).digest(), np.uint8)


def sample(tokens: Array | MappedTokens) -> Any:
    """Return the part of the tokens that is compared: all of an array, the ends of files."""
    if not isinstance(tokens, MappedTokens):
        return np.asarray(tokens)
    count = min(ENDS, len(tokens))
    ends = [tokens.read(start, count) for start in (0, len(tokens) - count)]
    return len(tokens), *(digest(end).tobytes() for end in ends)
