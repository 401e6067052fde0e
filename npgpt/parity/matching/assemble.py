"""The tensors of npgpt, from the arrays of a port that are their parts."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from npgpt.arrays import Array
from npgpt.errors import InputError, show
from npgpt.parity.matching import axes
from npgpt.parity.matching.axes import AXES, Slot
from npgpt.parity.matching.dropped import factor_of


@dataclass(frozen=True, eq=False)
class Piece:
    """One array of the port, and the arrangements of its axes that are possible, best first."""

    name: str
    array: Array
    slot: Slot
    arrangements: tuple[str, ...]
    rank: int = 0  # of several arrays of one tensor, the lowest counts


@dataclass
class Assembled:
    """The tensors of one kind by their canonical names, without the kind."""

    tensors: dict[str, Array]
    alternatives: dict[str, tuple[Array, ...]]
    names: dict[str, str]
    unused: list[str]
    remarks: list[str]
    repeated: list[tuple[Piece, Piece]]  # equal arrays of one tensor
    dropped: dict[str, float]  # names of which one array is the other after dropout, and its factor


def assemble(
    pieces: list[Piece], sizes: Mapping[str, int], *, strict: bool, zeros: bool = False
) -> Assembled:
    """Return the tensors that these pieces make up.

    `strict`: two different arrays of one tensor are an InputError. Else the first one counts.
    `zeros`: if queries, keys or values are missing beside others, they are 0.
    """
    found = Assembled({}, {}, {}, [], [], [], {})
    groups: dict[tuple[str, int | None], list[Piece]] = {}
    for piece in pieces:
        groups.setdefault((piece.slot.family, piece.slot.layer), []).append(piece)
    ordered = sorted(groups.items(), key=lambda group: (group[0][1] is not None, group[0][1] or 0))
    for (family, layer), group in ordered:
        kept = distinct(group, sizes, found, strict=strict)
        count = sum(math.prod(sizes[a] for a in piece.slot.axes) for piece in kept)
        own = [axis for axis in AXES[family] if axis != "L" or layer is None]
        whole = count == math.prod(sizes[axis] for axis in own)
        if not whole and zeros and all(piece.slot.part is not None for piece in kept):
            found.remarks.append(f"{kept[0].slot} is only {names_of(kept)}: the rest counts as 0")
        elif not whole:
            found.unused += [piece.name for piece in kept]
            found.remarks.append(f"{kept[0].slot} is incomplete: only {names_of(kept)}")
            continue
        choices = max(len(piece.arrangements) for piece in kept)
        versions = [join(kept, i, "".join(own), sizes) for i in range(choices)]
        shape = axes.plain_shape(AXES[family].replace("L", ""), sizes)
        for i in range(sizes["L"]) if "L" in own else [layer]:
            name = family if i is None else family.replace("#", str(i))
            arrays = [one[i] if "L" in own else one for one in versions]
            arrays = [one.reshape(shape) for one in arrays]
            if name in found.tensors:
                found.unused += [piece.name for piece in kept]
                continue
            found.tensors[name], *others = arrays
            found.names[name] = names_of(kept)
            if others:
                found.alternatives[name] = tuple(others)
    return found


def join(pieces: list[Piece], i: int, own: str, sizes: Mapping[str, int]) -> Array:
    """Return the tensor of these pieces with the axes `own`, all in their i-th arrangement."""
    if len(pieces) == 1 and pieces[0].slot.axes == own:
        return arranged(pieces[0], sizes, i)
    out = np.zeros([sizes[axis] for axis in own], np.result_type(*(p.array for p in pieces)))
    for piece in pieces:
        index = piece.slot.indices
        at = tuple(index[a] if a in index and a != "L" else slice(None) for a in own)
        out[at] = arranged(piece, sizes, i)
    return out


def distinct(
    group: list[Piece], sizes: Mapping[str, int], found: Assembled, *, strict: bool
) -> list[Piece]:
    """Return one piece for every part of a tensor. Repeated ones must be equal."""
    whole = [piece for piece in group if piece.slot.part is None and piece.slot.head is None]
    found.unused += [piece.name for piece in group if whole and piece not in whole]
    kept: dict[Slot, Piece] = {}
    for piece in sorted(whole or group, key=lambda piece: piece.rank):
        first = kept.setdefault(piece.slot, piece)
        if first is piece:
            continue
        found.unused.append(piece.name)
        one, other = arranged(first, sizes), arranged(piece, sizes)
        if are_equal(one, other):
            found.repeated.append((first, piece))
            continue
        if not strict and (factor := factor_of(one, other) or factor_of(other, one)):
            found.dropped[str(piece.slot)] = factor
            continue
        if strict and piece.slot.family != "wte.weight":
            refuse_both(first, piece)
        found.remarks.append(f"{piece.name} is not {first.name}, which is taken as {piece.slot}")
    return list(kept.values())


def refuse_both(one: Piece, other: Piece) -> None:
    """Raise InputError for two arrays of one tensor."""
    raise InputError(
        f"{show(one.name)} and {show(other.name)} could both be {one.slot}: add --map "
        f"{one.name}=NAME, or --map {one.name}= to leave it out"
    )


def arranged(piece: Piece, sizes: Mapping[str, int], i: int = 0) -> Array:
    """Return a piece with the axes of its slot, in its i-th arrangement, or in the last."""
    arrangement = piece.arrangements[min(i, len(piece.arrangements) - 1)]
    return axes.view(piece.array, arrangement, piece.slot.axes, sizes)


def are_equal(a: Array, b: Array) -> bool:
    """Return True if two arrays have the same numbers."""
    if np.array_equal(a, b):
        return True
    return a.dtype.kind == b.dtype.kind == "f" and np.array_equal(a, b, equal_nan=True)


def names_of(pieces: list[Piece]) -> str:
    """Return the names of pieces, by their parts."""
    ordered = sorted(pieces, key=lambda p: (p.slot.part or 0, p.slot.head or 0))
    return ", ".join(piece.name for piece in ordered)
