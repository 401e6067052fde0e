"""Signs that a port's forward pass is random: dropout is on, or two runs of one input differ."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from npgpt.arrays import Array
from npgpt.config import Config
from npgpt.parity.budget import Layouts
from npgpt.parity.matching.dropped import factor_of


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
