"""The comparison of all ranks before the first step: what must be equal, by name."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

import npgpt
from npgpt.arrays import Array
from npgpt.data.mapped_tokens import MappedTokens, MixedTokens
from npgpt.distributed.world import World
from npgpt.errors import InputError, show

ENDS = 1 << 16  # tokens at each end of mapped token files that are compared
SHOWN = 64  # bytes of a value or of a host's name in a message
NAMED = 4  # ranks, hosts and different values that a message names


def require_equal(world: World, values: Mapping[str, Any]) -> None:
    """Raise InputError on all ranks if a value differs between two of them.

    The version of npgpt is compared too, before all values: another one may have other values.

    `values`: arrays, or objects whose `repr` is compared, under a name for the message.
    """
    if world.size == 1:
        return
    compare(world, {"the version of npgpt": npgpt.__version__})
    compare(world, values)


def compare(world: World, values: Mapping[str, Any]) -> None:
    """Raise InputError on all ranks if a value differs. All have the same number of values."""
    own = np.stack([digest(value) for value in values.values()])
    table = all_gather(world, own)
    different = [name for i, name in enumerate(values) if (table[:, i] != table[0, i]).any()]
    if not different:
        return
    hosts = [text(row) for row in all_gather(world, to_bytes(world.host))]
    name, *others = different
    shown = all_gather(world, to_bytes(describe(values[name])))
    groups: dict[bytes, list[int]] = {}
    for rank, row in enumerate(table[:, list(values).index(name)]):
        groups.setdefault(row.tobytes(), []).append(rank)
    found = [
        f"{name_ranks(ranks, hosts)} {'has' if len(ranks) == 1 else 'have'} {text(shown[ranks[0]])}"
        for ranks in groups.values()
    ]
    also = f" (and {shorten(others)} differ)" if others else ""
    raise InputError(f"{name} must be equal on all ranks, but {shorten(found)}{also}")


def name_ranks(ranks: Sequence[int], hosts: Sequence[str]) -> str:
    """Return ranks and the hosts that they are on, as text."""
    names = list(dict.fromkeys(hosts[rank] for rank in ranks))
    return f"rank{'s' if len(ranks) > 1 else ''} {shorten(ranks)} on {shorten(names)}"


def shorten(items: Sequence[Any]) -> str:
    """Return the items as text, at most NAMED of them and the number of the others."""
    shown, more = [str(item) for item in items[:NAMED]], len(items) - NAMED
    if more > 0:
        shown.append(f"{more} more")
    *first, last = shown
    return f"{', '.join(first)} and {last}" if first else last


def describe(value: Any) -> str:
    """Return the value if it is short, else the beginning of its digest."""
    if not isinstance(value, np.ndarray) and len(repr(value)) < SHOWN:
        return show(value)
    return f"SHA-256 {digest(value).tobytes().hex()[:8]}"


def all_gather(world: World, own: Array) -> Array:
    """(...) -> (N, ...). Return the arrays of all ranks."""
    table = np.empty((world.size, *own.shape), own.dtype)
    world.comm.Allgather(own, table)
    return table


def to_bytes(text: str) -> Array:
    """Return the beginning of a text as (SHOWN,) uint8."""
    return np.frombuffer(text.encode()[:SHOWN].ljust(SHOWN, b"\0"), np.uint8)


def text(row: Array) -> str:
    """Return the text that `to_bytes` has encoded."""
    return row.tobytes().rstrip(b"\0").decode(errors="replace")


def digest(value: Any) -> Array:
    """Return the SHA-256 digest of a value as (32,) uint8."""
    data: Any = repr(value).encode()
    if isinstance(value, np.ndarray):
        data = np.ascontiguousarray(value).view(np.uint8).reshape(-1)
    return np.frombuffer(hashlib.sha256(data).digest(), np.uint8)


def settings(*configs: Any) -> dict[str, Any]:
    """Return the fields of dataclasses under a name for the message."""
    return {f"the setting {key}": value for one in configs for key, value in asdict(one).items()}


def sample(tokens: Array | MappedTokens | MixedTokens) -> Any:
    """Return the part of the tokens that is compared: all of an array, the ends of files."""
    if isinstance(tokens, MixedTokens):
        return *map(sample, tokens.sources), tokens.weights
    if not isinstance(tokens, MappedTokens):
        return np.asarray(tokens)
    count = min(ENDS, len(tokens))
    ends = [tokens.read(start, count) for start in (0, len(tokens) - count)]
    return len(tokens), *(digest(end).tobytes() for end in ends)
