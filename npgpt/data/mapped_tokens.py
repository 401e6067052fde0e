"""Tokens in memory-mapped files, as one sequence, and windows of it. Only used pages are read."""

import bisect
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from npgpt.arrays import Array
from npgpt.errors import InputError


@dataclass(frozen=True)
class Shard:
    """The tokens of one file."""

    path: Path
    tokens: Array  # (n,) uint16 or uint32, mapped


class MappedTokens:
    """A sequence of token ids in the order of its shards.

    `vocab_size`: every id that is read must be below it.
    """

    def __init__(self, shards: Sequence[Shard], vocab_size: int):
        self.shards, self.vocab_size = list(shards), vocab_size
        self.ends = list(itertools.accumulate(len(shard.tokens) for shard in shards))

    def __len__(self) -> int:
        return self.ends[-1] if self.ends else 0

    def part(self, start: int, stop: int) -> "MappedTokens":
        """Return the tokens from `start` to `stop`. No token is read."""
        found, begin = list[Shard](), 0
        for shard, end in zip(self.shards, self.ends, strict=True):
            low, high = max(start, begin) - begin, min(stop, end) - begin
            if low < high:
                found.append(Shard(shard.path, shard.tokens[low:high]))
            begin = end
        return MappedTokens(found, self.vocab_size)

    def read(self, start: int, count: int) -> Array:
        """Return `count` tokens from `start` on as int64. Raise InputError for an invalid id."""
        found, number = np.empty(count, np.int64), bisect.bisect_right(self.ends, start)
        done = 0
        while done < count:
            shard = self.shards[number]
            begin = start + done - (self.ends[number] - len(shard.tokens))
            part = shard.tokens[begin : begin + count - done]
            found[done : done + len(part)] = part
            check_ids(shard.path, part, self.vocab_size)
            done, number = done + len(part), number + 1
        return found


class MappedWindows:
    """Windows of T tokens, `stride` apart, which are read when they are indexed.

    `shift`: the first token of the first window: 0 for inputs, 1 for targets. Windows of both have
    the same number.
    """

    def __init__(self, tokens: MappedTokens, context_length: int, stride: int, shift: int):
        self.tokens, self.stride, self.shift = tokens, stride, shift
        self.shape = ((len(tokens) - context_length - 1) // stride + 1, context_length)
        self.dtype = np.dtype(np.int64)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, numbers: Any) -> Array:
        """Return the windows (B, T) int64 of these numbers (B,)."""
        T = self.shape[1]
        starts = [int(number) * self.stride + self.shift for number in numbers]
        return np.stack([self.tokens.read(start, T) for start in starts])


def check_ids(path: Path, ids: Array, vocab_size: int) -> None:
    """Raise InputError if an id is not below `vocab_size`."""
    if len(ids) and (largest := int(ids.max())) >= vocab_size:
        raise InputError(f"{path} has token id {largest}, outside the vocabulary of {vocab_size}")
