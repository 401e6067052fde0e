"""Signs that a port's forward pass is random: dropout is on, or two runs of one input differ."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from npgpt.arrays import Array
from npgpt.config import Config
from npgpt.ops import attention
from npgpt.ops.attention import merge_heads, split_heads
from npgpt.parity.budget import Layouts
from npgpt.parity.matching.dropped import CLOSE, LEAST, factor_of

TRIED = 8  # positions: 2^8 masks of the last one


@dataclass(frozen=True)
class Randomness:
    """Signs that a forward pass is random.

    dropped : activations some of whose numbers are 0, and the others scaled up
    rate : of their dropout
    again : True if logits and logits_again differ
    """

    dropped: tuple[str, ...] = ()
    rate: float = 0.0
    again: bool = False

    def __bool__(self) -> bool:
        return bool(self.dropped) or self.again


NOT_RANDOM = Randomness()


def find(
    own: Mapping[str, Layouts],
    computed: Mapping[str, Array],
    dropped: Mapping[str, float],
    config: Config,
    budget: Array | None,
) -> Randomness:
    """Return the signs of randomness in a port's tensors.

    dropped : activations of which the dump has both, before and after dropout, and their factors
    computed : what the right ops make of the port's own inputs
    budget : of the logits, None if they are not dumped
    """
    again = (
        budget is not None
        and "logits_again" in own
        and bool((np.abs(own["logits"][0] - own["logits_again"][0]) > budget).any())
    )
    factors = dict(dropped)
    for name, before, after in branches(own, computed, config):
        if factor := factor_of(before, after):
            factors.setdefault(name, factor)
    for name, qkv, heads in attentions(own, config):
        if factor := factor_of_probs(qkv, heads, config.n_head):
            factors.setdefault(name, factor)
    rate = 1 - 1 / max(factors.values(), default=1.0)
    return Randomness(tuple(factors), rate, again)


def branches(
    own: Mapping[str, Layouts], computed: Mapping[str, Array], config: Config
) -> Iterator[tuple[str, Array, Array]]:
    """Yield the activations that dropout follows: name, what it should be, and what it is."""
    plain = {name: found[0] for name, found in own.items() if len(found) == 1}
    if "act/embedding" in plain and "act/embedding" in computed:
        yield "embedding", computed["act/embedding"], plain["act/embedding"]
    before = "act/embedding"
    for i in range(config.n_layer):
        for layer in ("attn.probs", "attn.heads", "attn.c_proj", "mlp.c_proj"):
            name = f"act/h.{i}.{layer}"
            if name in plain and name in computed:
                yield name[4:], computed[name], plain[name]
        for branch, stream in (("attn.c_proj", "after_attn"), ("mlp.c_proj", "after_mlp")):
            names = before, f"act/h.{i}.{branch}", f"act/h.{i}.{stream}"
            if all(name in plain for name in names):
                yield f"h.{i}.{stream}", plain[names[1]], plain[names[2]] - plain[before]
            before = names[2]


def attentions(own: Mapping[str, Layouts], config: Config) -> Iterator[tuple[str, Array, Array]]:
    """Yield the probabilities that are not dumped: name, queries to values, and the result."""
    for i in range(config.n_layer):
        name = f"h.{i}.attn.probs"
        found = [own.get(f"act/h.{i}.attn.{layer}", ()) for layer in ("c_attn", "heads")]
        if f"act/{name}" not in own and all(len(one) == 1 for one in found):
            yield name, found[0][0], found[1][0]


def factor_of_probs(qkv: Array, heads: Array, n_head: int) -> float | None:
    """Return the factor of the probabilities that dropout has kept, None if this is no dropout.

    The first position attends to itself alone: its result is the value, scaled up or 0. It tells
    the factor. For the next ones, all masks are tried.
    """
    _, cache = attention.forward(qkv.astype(np.float64), n_head=n_head)
    found = split_heads(heads.astype(np.float64), n_head)
    factor = factor_of(merge_heads(cache.v[:, :, :1]), merge_heads(found[:, :, :1]))
    if factor is None:
        factor = least_factor(cache.v[:, :, 0], found[:, :, 0])
    return factor if factor and is_dropped(cache.probs, cache.v, found, factor) else None


def least_factor(values: Array, found: Array) -> float | None:
    """Return the factor of values none of which are lost, None if they have no common one."""
    factor = float(np.vdot(values, found) / np.vdot(values, values))
    is_close = np.abs(found - factor * values).max() <= CLOSE * np.abs(found).max()
    return factor if is_close and factor > LEAST else None


def is_dropped(probs: Array, v: Array, found: Array, factor: float) -> bool:
    """Return True if the results of the next positions are those of dropped probabilities."""
    lost = not np.any(found[:, :, 0], -1).all()
    for t in range(1, min(TRIED, found.shape[2])):
        masks = (np.arange(1 << (t + 1))[:, None] >> np.arange(t + 1)) & 1
        dropped = factor * masks * probs[:, :, t, None, : t + 1]
        off = np.abs(dropped @ v[:, :, : t + 1] - found[:, :, t, None]).max(-1)
        lost |= bool((off.argmin(-1) < len(masks) - 1).any())  # the last mask keeps all
        if (off.min(-1) > CLOSE * max(1.0, float(np.abs(found).max()))).any():
            return False
    return lost
