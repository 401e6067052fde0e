"""Tokens in memory-mapped files, as one sequence, and windows of it. Only used pages are read."""

import bisect
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from npgpt.arrays import Array
from npgpt.data.loader import require_window
from npgpt.errors import InputError
from npgpt.weights.mapped import MappedFile

KEPT = 32  # reads whose pages stay in memory: with each, the system maps up to 2 MB around it


@dataclass(frozen=True)
class Shard:
    """The tokens of one file."""

    path: Path
    tokens: Array  # (n,) uint16 or uint32, mapped
    file: MappedFile | None = None  # None: the tokens are in memory

    def drop_pages(self) -> None:
        """Release the memory of the pages that were read."""
        if self.file is not None:
            self.file.drop_pages(0, self.file.data.size)


class MappedTokens:
    """A sequence of token ids in the order of its shards.

    `vocab_size`: every id that is read must be below it. `name`: the source, for messages.
    """

    def __init__(self, shards: Sequence[Shard], vocab_size: int, name: str = ""):
        self.shards, self.vocab_size, self.name = list(shards), vocab_size, name
        self.ends = list(itertools.accumulate(len(shard.tokens) for shard in shards))
        self.reads, self.touched = 0, set[int]()  # the numbers of shards with pages in memory

    @classmethod
    def of_array(cls, name: str, tokens: Array, vocab_size: int) -> "MappedTokens":
        """Return tokens in memory in the same form, with the name of their source."""
        return cls([Shard(Path(name), tokens)], vocab_size, name)

    @property
    def sources(self) -> "Sequence[MappedTokens]":
        """The sequences that are mixed: this one. See MixedTokens."""
        return [self]

    @property
    def weights(self) -> None:
        """The weights of the sources."""
        return None

    def __len__(self) -> int:
        return self.ends[-1] if self.ends else 0

    def part(self, start: int, stop: int) -> "MappedTokens":
        """Return the tokens from `start` to `stop`. No token is read."""
        found, begin = list[Shard](), 0
        for shard, end in zip(self.shards, self.ends, strict=True):
            low, high = max(start, begin) - begin, min(stop, end) - begin
            if low < high:
                found.append(Shard(shard.path, shard.tokens[low:high], shard.file))
            begin = end
        return MappedTokens(found, self.vocab_size, self.name)

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
            self.touched.add(number)
            done, number = done + len(part), number + 1
        self.reads += 1
        if self.reads % KEPT == 0:
            for number in self.touched:
                self.shards[number].drop_pages()
            self.touched.clear()
        return found


@dataclass(frozen=True)
class MixedTokens:
    """Several sequences of tokens, and their weights: by default, their numbers of windows."""

    sources: Sequence[MappedTokens]
    weights: Sequence[float] | None = None

    def __len__(self) -> int:
        return sum(map(len, self.sources))


class MappedWindows:
    """Windows of T tokens, each with its targets, `stride` apart. They are read on demand."""

    def __init__(self, tokens: MappedTokens, context_length: int, stride: int):
        self.tokens, self.context_length, self.stride = tokens, context_length, stride

    def __len__(self) -> int:
        return count_windows(len(self.tokens), self.context_length, self.stride)

    def read(self, numbers: Iterable[int]) -> Array:
        """Return the windows of these numbers (B,) and the token after each: (B, T + 1) int64."""
        size = self.context_length + 1
        found = [self.tokens.read(int(number) * self.stride, size) for number in numbers]
        return np.array(found, np.int64).reshape(-1, size)


def count_windows(tokens: int, context_length: int, stride: int) -> int:
    """Return the number of windows in a sequence of tokens. Each takes context_length + 1."""
    return max(0, (tokens - context_length - 1) // stride + 1)


def spread(numbers: Iterable[int], count: int, n: int) -> list[int]:
    """Return the `numbers` among `count` windows of n that are spread evenly."""
    return [(2 * i + 1) * n // (2 * count) for i in numbers]


def require_windows(tokens: MappedTokens | MixedTokens, context_length: int, what: str) -> None:
    """Raise InputError if a source is too short for one window. `what`: the name of the split."""
    for one in tokens.sources:
        where = f"the {what} split" + (f" of {one.name}" if one.name else "")
        require_window(len(one), context_length, where)


def check_ids(path: Path, ids: Array, vocab_size: int) -> None:
    """Raise InputError if an id is not below `vocab_size`."""
    if len(ids) and (largest := int(ids.max())) >= vocab_size:
        raise InputError(f"{path} has token id {largest}, outside the vocabulary of {vocab_size}")
