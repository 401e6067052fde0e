"""The axes of every tensor of GPT-2, and the arrangements of them that an array's shape allows.

A port may keep a tensor with its axes in another order, with several axes in one, or in parts. Its
arrangement is a text with one group of axes per axis of the array: "QHD C" is the fused matrix of
queries, keys and values as torch.nn.Linear keeps it, (3C, C); "C H D" is a query matrix of Flax.

    L  layer      B  row of the batch   C  channel           V  token
    Q  q, k or v  T  position           F  channel of MLP    P  position of wpe
    H  head       S  position that T attends to              D  channel of a head
"""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

from npgpt.arrays import Array
from npgpt.config import Config

PARAMETERS = {  # "#" is the number of the layer, the axis L; inputs before outputs
    "wte.weight": "VC", "wpe.weight": "PC",
    "h.#.ln_1.weight": "LC", "h.#.ln_1.bias": "LC",
    "h.#.attn.c_attn.weight": "LCQHD", "h.#.attn.c_attn.bias": "LQHD",
    "h.#.attn.c_proj.weight": "LHDC", "h.#.attn.c_proj.bias": "LC",
    "h.#.ln_2.weight": "LC", "h.#.ln_2.bias": "LC",
    "h.#.mlp.c_fc.weight": "LCF", "h.#.mlp.c_fc.bias": "LF",
    "h.#.mlp.c_proj.weight": "LFC", "h.#.mlp.c_proj.bias": "LC",
    "ln_f.weight": "C", "ln_f.bias": "C", "lm_head.weight": "VC",
}  # fmt: skip
ACTIVATIONS = {
    "embedding": "BTC",
    "h.#.ln_1": "LBTC", "h.#.attn.c_attn": "LBTQHD", "h.#.attn.probs": "LBHTS",
    "h.#.attn.heads": "LBTHD", "h.#.attn.c_proj": "LBTC", "h.#.after_attn": "LBTC",
    "h.#.ln_2": "LBTC", "h.#.mlp.c_fc": "LBTF", "h.#.mlp.gelu": "LBTF",
    "h.#.mlp.c_proj": "LBTC", "h.#.after_mlp": "LBTC",
    "ln_f": "BTC", "logits": "BTV",
}  # fmt: skip
AXES = PARAMETERS | ACTIVATIONS
PARTS = "LQH"  # axes of which an array may hold one index only
OUTPUTS = {  # axes of a linear layer's matrix that are its outputs
    "h.#.attn.c_attn.weight": "QHD", "h.#.attn.c_proj.weight": "C",
    "h.#.mlp.c_fc.weight": "F", "h.#.mlp.c_proj.weight": "C",
}  # fmt: skip
CROPPED = "VP"  # axes that a port may make longer: a padded vocabulary, a longer context
JOINED = "LBT", "QHD", "BH"  # axes that ports join
NATURAL = "LBTQHDSVPCF"  # the order of axes within one axis of an array


@dataclass(frozen=True, order=True)
class Slot:
    """A tensor of GPT-2, or the part of it that one array of a port holds.

    An index of None is the axis as a whole: layer None is an array stacked over all layers.
    """

    family: str  # "h.#.attn.c_attn.weight"
    layer: int | None = None
    part: int | None = None  # 0, 1, 2: query, key, value
    head: int | None = None

    @property
    def indices(self) -> dict[str, int]:
        """The axes of which this is one index."""
        found = zip(PARTS, (self.layer, self.part, self.head), strict=True)
        return {axis: index for axis, index in found if index is not None}

    @property
    def axes(self) -> str:
        """The axes that an array of this slot has, in npgpt's order."""
        return "".join(axis for axis in AXES[self.family] if axis not in self.indices)

    @property
    def module(self) -> str:
        """The layer of a parameter: "h.#.attn.c_attn"."""
        return self.family.rpartition(".")[0]

    def __str__(self) -> str:
        name = self.family if self.layer is None else self.family.replace("#", str(self.layer))
        part = "" if self.part is None else f".{'qkv'[self.part]}"
        part += "" if self.head is None else f".{self.head}"
        layer, dot, leaf = name.rpartition(".")
        if self.family in PARAMETERS:
            return f"{layer}{part}{dot}{leaf}"
        return f"{name}{part}"


def sizes_of(config: Config, tokens: Array) -> dict[str, int]:
    """Return the size of every axis. `tokens`: (B, T)."""
    B, T = tokens.shape
    C, H = config.n_embd, config.n_head
    return dict(
        L=config.n_layer, Q=3, H=H, D=C // H, C=C, F=4 * C, V=config.vocab_size,
        P=config.context_length, B=B, T=T, S=T,
    )  # fmt: skip


def without_single(slot: Slot, sizes: Mapping[str, int]) -> Slot:
    """Return the same slot, with an axis of size 1 always as a whole."""
    layer, part, head = (
        None if sizes[axis] == 1 else index
        for axis, index in zip(PARTS, (slot.layer, slot.part, slot.head), strict=True)
    )
    return Slot(slot.family, layer, part, head)


def is_within(slot: Slot, sizes: Mapping[str, int]) -> bool:
    """Return True if the tensor has these indices."""
    axes = AXES[slot.family]
    return all(axis in axes and index < sizes[axis] for axis, index in slot.indices.items())


def slots_of(family: str, axes: str, sizes: Mapping[str, int]) -> Iterator[Slot]:
    """Yield the slots of a family whose arrays have these axes."""
    ranges = [
        range(sizes[axis]) if axis in AXES[family] and axis not in axes else [None]
        for axis in PARTS
    ]
    for layer, part, head in product(*ranges):
        yield Slot(family, layer, part, head)


@lru_cache(maxsize=4096)
def axes_of_size(family: str, size: int, sizes: tuple[tuple[str, int], ...]) -> tuple[str, ...]:
    """Return the axes that an array of `size` numbers can have as one of this family."""
    known, axes = dict(sizes), AXES[family]
    parts = [axis for axis in PARTS if axis in axes and known[axis] > 1]
    found = []
    for left_out in product((False, True), repeat=len(parts)):
        gone = [axis for axis, out in zip(parts, left_out, strict=True) if out]
        rest = "".join(axis for axis in axes if axis not in gone)
        if math.prod(known[axis] for axis in rest) == size:
            found.append(rest)
    return tuple(found)


def arrangements(axes: str, shape: tuple[int, ...], sizes: Mapping[str, int]) -> tuple[str, ...]:
    """Return the arrangements of `axes` that an array of this shape can have, natural ones first.

    Axes of size 1 count neither here nor there.
    """
    dims = tuple(n for n in shape if n != 1)
    wide = "".join(axis for axis in axes if sizes[axis] != 1)
    if len(dims) > len(wide):
        return ()
    single = "".join(axis for axis in axes if sizes[axis] == 1)
    found = arrange(wide, dims, tuple((axis, sizes[axis]) for axis in wide))
    return tuple(f"{groups} {single}".strip() for groups in found)


@lru_cache(maxsize=4096)
def arrange(axes: str, dims: tuple[int, ...], sizes: tuple[tuple[str, int], ...]) -> list[str]:
    """Return the arrangements of `axes`, all above 1, as the axes of an array of sizes `dims`."""
    known = dict(sizes)

    def extend(rest: str, dims: tuple[int, ...]) -> Iterator[list[str]]:
        if not dims:
            if not rest:
                yield []
            return
        for group in groups(rest, dims[0]):
            left = "".join(axis for axis in rest if axis not in group)
            for others in extend(left, dims[1:]):
                yield [group, *others]

    def groups(rest: str, size: int) -> Iterator[str]:
        for axis in rest:
            if size == known[axis]:
                yield axis
            elif size % known[axis] == 0:
                for more in groups(rest.replace(axis, ""), size // known[axis]):
                    yield axis + more

    found = [" ".join(groups) for groups in extend(axes, dims)]
    found = [one for one in found if not ("T" in one and one.find("S") in range(one.find("T")))]
    return sorted(found, key=lambda one: (not is_natural(one), inversions(one, axes)))


def is_natural(arrangement: str) -> bool:
    """Return True if layers come before heads, and axes within one axis in the usual order."""
    if "L" in arrangement and arrangement.find("H") in range(arrangement.index("L")):
        return False
    for group in arrangement.split():
        ranks = [NATURAL.index(axis) for axis in group]
        joinable = len(group) == 1 or any(set(group) <= set(axes) for axes in JOINED)
        if not joinable or ranks != sorted(ranks):
            return False
    return True


def inversions(arrangement: str, axes: str) -> int:
    """Return the number of pairs of axes in another order than npgpt's."""
    ranks = [axes.index(axis) for axis in arrangement.replace(" ", "")]
    return sum(a > b for i, a in enumerate(ranks) for b in ranks[i + 1 :])


def view(array: Array, arrangement: str, axes: str, sizes: Mapping[str, int]) -> Array:
    """Return the array with one axis for each of `axes`, in this order: a view if possible."""
    letters = arrangement.replace(" ", "")
    parted = array.reshape([sizes[axis] for axis in letters])
    return parted.transpose([letters.index(axis) for axis in axes])


def plain_shape(axes: str, sizes: Mapping[str, int]) -> tuple[int, ...]:
    """Return the shape of an array with these axes in npgpt's layout."""
    split = re.sub("QHD|HD", lambda found: f" {found[0]} ", axes).split()
    groups = [group for one in split for group in ([one] if "D" in one else [*one])]
    return tuple(math.prod(sizes[axis] for axis in group) for group in groups)


def crop(array: Array, axes: str, sizes: Mapping[str, int]) -> Array | None:
    """Return the array without the rows beyond V or P, or None if there are none to leave out."""
    array = array.reshape([n for n in array.shape if n != 1])
    longer = [axis for axis in axes if axis in CROPPED]
    if not longer or array.ndim < 2:
        return None
    size = sizes[longer[0]]
    others = math.prod(sizes[axis] for axis in axes if axis not in longer)
    for axis, n in enumerate(array.shape):
        if n > size and array.size == n * others:
            return array[(slice(None),) * axis + (slice(size),)]
    return None
