"""The choice of a parameter for each tensor of a port: by value, by name, by siblings.

A tensor that could be several is an InputError that asks for --map, never a guess.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from npgpt.arrays import Array
from npgpt.config import Config
from npgpt.errors import InputError, show
from npgpt.parity.matching import axes, map_option, names
from npgpt.parity.matching.axes import AXES, Slot
from npgpt.parity.matching.conventions import LEAVES
from npgpt.parity.matching.names import Meaning
from npgpt.parity.matching.values import EXACT, Hit, Values

SHOWN = 3  # candidates in a message


@dataclass(frozen=True)
class Choice:
    """The slot of a tensor, and the arrangements that its shape and values allow, best first."""

    slot: Slot
    arrangements: tuple[str, ...]
    by: str  # "map", "value", "name", "sibling" or "rest"
    order: str = ""  # of the columns of c_attn, if the name says it


@dataclass
class Chooser:
    """The state of the search: what is chosen, and the candidates of the rest."""

    config: Config
    sizes: Mapping[str, int]
    values: Values
    renames: list[map_option.Rename]
    by_names: bool = False  # a name with one meaning counts more than values
    convention: str = ""
    numbering: names.Numbering = names.USUAL  # of the port's blocks
    chosen: dict[str, Choice] = field(default_factory=dict)
    open: dict[str, list[Choice]] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    known: set[str] = field(default_factory=set)  # of those that are left out: no parameters
    used: set[str] = field(default_factory=set)  # renames
    remarks: list[str] = field(default_factory=list)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def run(self, arrays: Mapping[str, tuple[str, Array]]) -> None:
        """Choose for every name. `arrays`: the kind and the array by which a name is known."""
        self.numbering = names.numbering_of(arrays, self.sizes)
        read = [names.from_zero(name, self.numbering) for name in arrays]
        self.convention = names.choose_convention(read, self.sizes)
        for name, (kind, array) in arrays.items():
            self.shapes[name] = array.shape
            self.consider(name, kind, array)
        while self.open and (self.by_siblings() or self.by_what_is_left()):
            pass
        self.refuse_open()

    @property
    def modules(self) -> dict[str, Slot]:
        """The layers of the port, by name, as slots whose family is a layer of npgpt."""
        found = {}
        for name, choice in self.chosen.items():
            slot, own = choice.slot, parent(name)
            if own and name[len(own) + 1 :].lower() in LEAVES:
                found[own] = Slot(slot.module, slot.layer, slot.part, slot.head)
        return found

    @property
    def blocks(self) -> dict[int, int]:
        """The blocks of the port by their numbers, from 0, as those that their parameters are."""
        found: dict[int, set[int]] = {}
        for name, choice in self.chosen.items():
            split = names.from_zero(name, self.numbering).split()
            if (at := names.block_at(split)) and choice.slot.layer is not None:
                found.setdefault(int(split[at]), set()).add(choice.slot.layer)
        return {number: min(layers) for number, layers in found.items() if len(layers) == 1}

    def consider(self, name: str, kind: str, array: Array) -> None:
        """Choose for a name on its own, or note its candidates."""
        if rename := map_option.find(self.renames, kind, name):
            self.used.add(rename.text)
            slot = rename.slot(kind, name, self.sizes)
            if slot is None:
                self.left_out.append(name)
                self.known.add(name)
            else:
                self.chosen[name] = self.mapped(self.own(slot), kind, array, name, rename.text)
            return
        meanings = self.meanings(name)
        if any(one.slot is None for one in meanings):
            self.left_out.append(name)
            self.known.add(name)
            return
        by_value = kind == "param" and not (self.by_names and len(meanings) == 1)
        found = self.by_value(name, array, meanings) if by_value else []
        found = found or self.by_name(array, meanings)
        if not found and meanings:
            self.refuse_another_model(f"{kind}/{name}", array, meanings)
        found = found or self.by_shape(array)
        if len(found) == 1 and found[0].by != "rest":
            self.chosen[name] = found[0]
        elif found:
            self.open[name] = found
        else:
            self.left_out.append(name)

    def meanings(self, name: str) -> list[Meaning]:
        """Return the parameters that a name can mean in this model."""
        found = []
        for one in names.parameters(name, self.convention, self.sizes, self.numbering):
            slot = one.slot and self.own(axes.without_single(one.slot, self.sizes))
            if slot is None or slot.family in self.values.leaves:
                found.append(replace(one, slot=slot))
            else:  # a bias of c_attn, say, that the probe does not have
                found.append(Meaning(None))
        return found

    def own(self, slot: Slot) -> Slot:
        """Return the slot that a tied head is: the token embedding."""
        tied = self.config.tied and slot.family == "lm_head.weight"
        return Slot("wte.weight") if tied else slot

    def mapped(self, slot: Slot, kind: str, array: Array, name: str, text: str) -> Choice:
        """Return the choice that a rename makes."""
        if found := [hit for hit in self.hits(array, [slot]) if kind == "param"]:
            return Choice(slot, tuple(hit.arrangement for hit in found), "map")
        if arrangements := self.arrangements(slot, array):
            return Choice(slot, arrangements, "map")
        raise InputError(
            f"--map {text}: {show(name)} is {array.shape}, but {slot} is "
            f"{axes.plain_shape(slot.axes, self.sizes)}"
        )

    def hits(self, array: Array, slots: Iterable[Slot]) -> list[Hit]:
        """Return the hits of an array among these slots."""
        found = []
        for slot in slots:
            fitting = self.fit(slot, array)
            for arrangement in axes.arrangements(slot.axes, fitting.shape, self.sizes):
                hits = self.values.find_arranged(fitting, slot.family, slot.axes, arrangement)
                found += [hit for hit in hits if hit.slot == slot]
        return found

    def fit(self, slot: Slot, array: Array) -> Array:
        """Return the array without the rows beyond the probe's vocabulary or context."""
        cropped = axes.crop(array, slot.axes, self.sizes)
        return array if cropped is None else cropped

    def by_value(self, name: str, array: Array, meanings: list[Meaning]) -> list[Choice]:
        """Return the choices among the slots with these numbers: one, unless numbers repeat."""
        named = [one.slot for one in meanings if one.slot]
        found = self.hits(array, named)
        if not any(hit.distance <= EXACT for hit in found):
            found = self.values.find(array) or found or self.cropped_hits(array)
        slots = list(dict.fromkeys(hit.slot for hit in found))
        agreed = [slot for slot in slots if slot in named]
        if named and len(slots) == 1 and not agreed:
            self.remarks.append(f"param: {name} has the numbers of {slots[0]}, not of {named[0]}")
        return [
            Choice(slot, tuple(hit.arrangement for hit in found if hit.slot == slot), "value")
            for slot in agreed or slots
        ]

    def cropped_hits(self, array: Array) -> list[Hit]:
        """Return the hits of a matrix that is longer than the probe's."""
        longer = [Slot(one) for one in ("wte.weight", "lm_head.weight", "wpe.weight")]
        present = [slot for slot in longer if slot.family in self.values.leaves]
        return self.hits(array, [s for s in present if self.fit(s, array) is not array])

    def by_name(self, array: Array, meanings: list[Meaning]) -> list[Choice]:
        """Return the choices among the slots that a name means and that have this shape."""
        found = []
        for one in meanings:
            if one.slot and (arrangements := self.arrangements(one.slot, array, one.order)):
                found.append(Choice(one.slot, arrangements, "name", one.order))
        return found

    def by_shape(self, array: Array) -> list[Choice]:
        """Return the choices among all slots of this shape, but those of single heads."""
        found = []
        for family in self.values.leaves:
            for present in axes.axes_of_size(family, array.size, self.values.key):
                if "H" in AXES[family] and "H" not in present:
                    continue
                for slot in axes.slots_of(family, present, self.sizes):
                    if arrangements := self.arrangements(slot, array):
                        found.append(Choice(slot, arrangements, "rest"))
        return found

    def arrangements(self, slot: Slot, array: Array, order: str = "") -> tuple[str, ...]:
        """Return the usual arrangements that an array's shape allows for a slot.

        `order`: that of the columns of c_attn, which a name has said.
        """
        fitting = self.fit(slot, array)
        found = axes.arrangements(slot.axes, fitting.shape, self.sizes)
        said = [one for one in found if order and order in one]
        return tuple(said or [one for one in found if axes.is_natural(one)])

    def refuse_another_model(self, name: str, array: Array, meanings: list[Meaning]) -> None:
        """Raise InputError if a name has one meaning, and the array another size."""
        slots = [one.slot for one in meanings if one.slot and one.rank != names.GUESSED]
        if len(slots) == 1 and len(meanings) == 1 and array.size > 1:
            expected = axes.plain_shape(slots[0].axes, self.sizes)
            raise InputError(
                f"{show(name)} is {array.shape}, but the probe's {slots[0]} is {expected}: is the "
                "dump of another model?"
            )

    def by_siblings(self) -> bool:
        """Choose where the tensors of the same layer, or of the same block, leave one candidate."""
        layers, blocks = self.relatives()
        changed = False
        for name, found in list(self.open.items()):
            kept = found
            if same := layers.get(parent(name)):
                kept = [one for one in kept if where(one.slot) in same] or kept
            for prefix in prefixes(name):
                if prefix in blocks:
                    kept = [one for one in kept if one.slot.layer in blocks[prefix]] or kept
                    break
            if len(kept) < len(found):
                self.resolve(name, kept, "sibling")
                changed = True
        return changed

    def relatives(self) -> tuple[dict[str, set], dict[str, set]]:
        """Return the layers by the names' parents, and the numbers of blocks by their prefixes.

        Only where all tensors with the parent or the prefix agree.
        """
        layers: dict[str, set] = {}
        blocks: dict[str, set] = {}
        for name, choice in self.chosen.items():
            layers.setdefault(parent(name), set()).add(where(choice.slot))
            for prefix in prefixes(name):
                blocks.setdefault(prefix, set()).add(choice.slot.layer)
        layers = {key: found for key, found in layers.items() if key and len(found) == 1}
        blocks = {key: found for key, found in blocks.items() if len(found) == 1}
        return layers, blocks

    def by_what_is_left(self) -> bool:
        """Choose where all other candidates are the slots of other tensors."""
        taken: dict[str, list[Slot]] = {}
        for choice in self.chosen.values():
            taken.setdefault(choice.slot.family, []).append(choice.slot)
        changed = False
        for name, found in list(self.open.items()):
            kept = [c for c in found if not is_taken(c.slot, taken)]
            changed |= len(kept) < len(found)
            self.open[name] = kept
            if not kept:
                del self.open[name]
                self.left_out.append(name)
        single = [found[0].slot for found in self.open.values() if len(found) == 1]
        for name, found in list(self.open.items()):
            if len(found) == 1 and single.count(found[0].slot) == 1:
                self.resolve(name, found, "rest")
                changed = True
        return changed

    def resolve(self, name: str, kept: list[Choice], by: str) -> None:
        """Choose the one candidate that is left, or keep several."""
        if len(kept) == 1:
            self.chosen[name] = replace(kept[0], by=by)
            del self.open[name]
        else:
            self.open[name] = kept

    def refuse_open(self) -> None:
        """Raise InputError if a tensor has several candidates."""
        for name, found in self.open.items():
            slots = [str(choice.slot) for choice in found]
            shown = [*slots[: SHOWN - 1], f"{len(slots) - SHOWN + 1} more"]
            shown = shown if len(slots) > SHOWN else slots
            others = len(self.open) - 1
            more = f" ({others} more tensors are undecided)" if others else ""
            raise InputError(
                f"{show(name)} {self.shapes[name]} could be {' or '.join(shown)}: add --map "
                f"{name}=NAME, or --map {name}= to leave it out{more}"
            )


def parent(name: str) -> str:
    """Return a name without its last part: "h.0.ln_1" of "h.0.ln_1.weight"."""
    return name[: max(name.rfind("."), name.rfind("/"), 0)]


def prefixes(name: str) -> list[str]:
    """Return the beginnings of a name that end with a number, the longest first."""
    return [name[: found.end()] for found in re.finditer(r"\d+(?=[./_])", name)][::-1]


def where(slot: Slot) -> tuple:
    """Return the layer of a parameter: what a weight and its bias have in common."""
    return slot.module, slot.layer, slot.part, slot.head


def is_taken(slot: Slot, taken: Mapping[str, list[Slot]]) -> bool:
    """Return True if another tensor has numbers of this slot. `taken`: slots by their family."""
    return any(overlap(slot, one) for one in taken.get(slot.family, []))


def overlap(one: Slot, other: Slot) -> bool:
    """Return True if two slots of a family have numbers in common."""
    pairs = ((one.layer, other.layer), (one.part, other.part), (one.head, other.head))
    return all(a is None or b is None or a == b for a, b in pairs)
