"""A search for the numbers of an array among the parameters of the probe, in any layout."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from npgpt.arrays import Array
from npgpt.model.finite import ignore_overflow
from npgpt.model.params import Params, named
from npgpt.parity.matching import axes
from npgpt.parity.matching.axes import PARAMETERS, Slot

SAMPLES = 12  # numbers compared first
ROUGH = 2.0**-7  # relative: bfloat16 has 8 bits
EXACT = 1e-6  # relative: float32 has 24
CHUNK = 1 << 20


@dataclass(frozen=True)
class Hit:
    """A slot whose numbers in the probe are those of an array, in this arrangement."""

    slot: Slot
    arrangement: str
    distance: float  # the largest, relative to the largest number


class Values:
    """The parameters of a probe, to find those of a port among."""

    def __init__(self, tree: Params, sizes: Mapping[str, int]):
        self.sizes, self.key = sizes, tuple(sizes.items())
        self.leaves: dict[str, list[Array]] = {}  # by family, one per layer
        for name, leaf in named(tree):
            start, _, rest = name.partition(".")
            family = f"h.#.{rest.partition('.')[2]}" if start == "h" else name
            shape = [sizes[axis] for axis in PARAMETERS[family] if axis != "L"]
            self.leaves.setdefault(family, []).append(leaf.reshape(shape))
        self.samples: dict[tuple[str, str], tuple[list[Slot], Array]] = {}

    def find(self, array: Array) -> list[Hit]:
        """Return the hits of an array, the nearest: several if the probe repeats these numbers."""
        found: list[Hit] = []
        for family in self.leaves:
            for present in axes.axes_of_size(family, array.size, self.key):
                for arrangement in axes.arrangements(present, array.shape, self.sizes):
                    found += self.find_arranged(array, family, present, arrangement)
        nearest = min((hit.distance for hit in found), default=0.0)
        return [hit for hit in found if hit.distance <= max(2 * nearest, 1e-12)]

    def find_arranged(self, array: Array, family: str, present: str, arrangement: str) -> list[Hit]:
        """Return the hits of an array with these axes in this arrangement."""
        slots, expected = self.sample(family, present)
        plain = axes.view(array, arrangement, present, self.sizes)
        own = plain[positions(present, self.sizes)]
        close = near(own, expected).all(-1)
        hits = (self.compare(plain, slots[i], arrangement) for i in np.flatnonzero(close))
        return [hit for hit in hits if hit is not None]

    def sample(self, family: str, present: str) -> tuple[list[Slot], Array]:
        """Return the slots of a family with these axes, and SAMPLES numbers of each."""
        if (family, present) not in self.samples:
            slots = list(axes.slots_of(family, present, self.sizes))
            where = positions(present, self.sizes)
            numbers = np.array([self.numbers(slot, where) for slot in slots])
            self.samples[family, present] = slots, numbers
        return self.samples[family, present]

    def numbers(self, slot: Slot, where: tuple[Array, ...]) -> Array:
        """Return the numbers of a slot at these positions."""
        if slot.layer is None and "L" in slot.axes:
            layers = [self.part(slot, i) for i in range(self.sizes["L"])]
            return np.array([layers[i][*at] for i, *at in zip(*where, strict=True)])
        return self.part(slot, slot.layer or 0)[where]

    def part(self, slot: Slot, layer: int) -> Array:
        """Return one layer of a slot, by its axes without L."""
        leaf = self.leaves[slot.family][layer]
        index = {"Q": slot.part, "H": slot.head}
        own = [axis for axis in PARAMETERS[slot.family] if axis != "L"]
        return leaf[tuple(slice(None) if index.get(a) is None else index[a] for a in own)]

    def compare(self, plain: Array, slot: Slot, arrangement: str) -> Hit | None:
        """Return the hit of an array, by the slot's axes, if its numbers are the slot's."""
        stacked = slot.layer is None and "L" in slot.axes
        pairs = [(plain[i], i) for i in range(len(plain))] if stacked else [(plain, slot.layer)]
        largest = scale = 0.0
        for one, layer in pairs:
            other = self.part(slot, layer or 0)
            rows = max(1, CHUNK // max(1, other[:1].size))
            for start in range(0, len(other), rows):
                a, b = one[start : start + rows], other[start : start + rows]
                if (a == b).all():
                    continue
                if not near(a, b).all():
                    return None
                largest = max(largest, float(np.abs(a - b).max()))
                scale = max(scale, float(np.abs(b).max()))
        return Hit(slot, arrangement, largest / (scale or 1.0))


@ignore_overflow()
def near(a: Array, b: Array) -> Array:
    """Return where two arrays are equal up to the rounding of bfloat16."""
    size = np.abs(b)
    return np.abs(a - b) <= ROUGH * size + 1e-4 * ROUGH * size.max(initial=0)


def positions(present: str, sizes: Mapping[str, int]) -> tuple[Array, ...]:
    """Return SAMPLES positions in an array with these axes."""
    j = np.arange(1, SAMPLES + 1)
    steps = (7919, 104729, 1299709, 15485863, 32452843, 49979687)
    return tuple((j * step + j * j) % sizes[a] for a, step in zip(present, steps, strict=False))
