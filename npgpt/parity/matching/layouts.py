"""The choice of an arrangement for a tensor whose own values do not tell: as its siblings.

A port keeps all its matrices as (in, out), or all as (out, in). A rectangular one shows which, and
so does every one with values. If they disagree, or all are square, both remain possible.
"""

from collections.abc import Iterable, Mapping

from npgpt.parity.matching.axes import OUTPUTS
from npgpt.parity.matching.choices import Choice, overlap

IN_OUT, OUT_IN = "(in, out)", "(out, in)"
MOST = 4  # arrangements that remain possible


def orientation(family: str, arrangement: str) -> str | None:
    """Return the orientation of a matrix; None for one of another number of axes, or a vector."""
    groups = [group for group in arrangement.split() if not set(group) <= {"L", "Q"}]
    if family not in OUTPUTS or len(groups) != 2:
        return None
    return OUT_IN if set(groups[0]) <= set(OUTPUTS[family]) else IN_OUT


def columns(arrangement: str) -> str:
    """Return the order of the columns of c_attn: "QHD" of "QHD C"."""
    return "".join(axis for axis in arrangement if axis in "QHD")


def votes(choices: Iterable[Choice]) -> tuple[str | None, dict[str, str]]:
    """Return the orientation of all matrices, and that of each family, where all agree."""
    found: dict[str, set[str]] = {}
    for choice in choices:
        family = choice.slot.family
        own = {orientation(family, one) for one in choice.arrangements}
        if len(own) == 1 and (single := own.pop()):
            found.setdefault(family, set()).add(single)
    every = set().union(*found.values()) if found else set()
    families = {family: min(own) for family, own in found.items() if len(own) == 1}
    return (min(every) if len(every) == 1 else None), families


def decide(choices: Mapping[str, Choice]) -> dict[str, tuple[str, ...]]:
    """Return the arrangements of every tensor that its siblings leave, the likeliest first."""
    everywhere, families = votes(choices.values())
    found: dict[str, tuple[str, ...]] = {}
    for name, choice in choices.items():
        kept, family = choice.arrangements, choice.slot.family
        if agreed := families.get(family, everywhere):
            kept = tuple(one for one in kept if orientation(family, one) == agreed) or kept
        found[name] = kept
    for name, choice in choices.items():
        if len(found[name]) > 1 and "c_attn" in choice.slot.family:
            orders = orders_of_siblings(choice, choices, found)
            kept = tuple(one for one in found[name] if columns(one) in orders)
            found[name] = kept or found[name]
    return {name: kept[:MOST] for name, kept in found.items()}


def orders_of_siblings(
    choice: Choice, choices: Mapping[str, Choice], found: Mapping[str, tuple[str, ...]]
) -> set[str]:
    """Return the orders of columns of the same layer's other tensors, or of other layers'."""
    near: set[str] = set()
    far: set[str] = set()
    for name, other in choices.items():
        if "c_attn" not in other.slot.family or other is choice:
            continue
        orders = {columns(one) for one in found[name]}
        if len(orders) == 1:
            same = other.slot.module == choice.slot.module and overlap(other.slot, choice.slot)
            (near if same else far).update(orders)
    return near or (far if len(far) == 1 else set())


def describe(choices: Mapping[str, Choice], found: Mapping[str, tuple[str, ...]]) -> list[str]:
    """Return phrases that describe the layout, and sentences about exceptions from it."""
    phrases, sentences = [], []
    by_orientation: dict[str, list[str]] = {}
    qkv = set()
    stacked = False
    for name, choice in choices.items():
        slot, kept = choice.slot, found[name]
        if len(kept) == 1 and (one := orientation(slot.family, kept[0])):
            by_orientation.setdefault(one, []).append(name)
        stacked |= slot.layer is None and kept[0].replace(" ", "").find("L") >= 0
        if slot.family == "h.#.attn.c_attn.weight":
            qkv.add(describe_attention(choice, kept[0]))
    if by_orientation:
        usual = max(by_orientation, key=lambda one: len(by_orientation[one]))
        phrases.append(f"weights are {usual}")
        for other, own in by_orientation.items():
            if other != usual:
                sentences.append(f"{', '.join(own[:3])}{' ...' * (len(own) > 3)}: {other}, "
                                 f"the others {usual}")  # fmt: skip
    phrases += sorted(qkv)
    if stacked:
        phrases.append("layers stacked")
    return phrases + sentences


def describe_attention(choice: Choice, arrangement: str) -> str:
    """Return how queries, keys and values are kept."""
    if choice.slot.head is not None:
        return "one q, k, v matrix per head"
    if choice.slot.part is not None:
        return "q, k, v split"
    return "q, k, v fused" + (" per head" if columns(arrangement).startswith("H") else "")
