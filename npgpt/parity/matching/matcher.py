"""Translate the dump of a port: its names and layouts to those of npgpt."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from npgpt.arrays import Array
from npgpt.errors import InputError
from npgpt.parity.dump import Dump
from npgpt.parity.matching import axes, layouts, map_option, names
from npgpt.parity.matching.assemble import (
    Assembled,
    Piece,
    are_equal,
    arranged,
    assemble,
    refuse_both,
)
from npgpt.parity.matching.axes import Slot
from npgpt.parity.matching.choices import Chooser
from npgpt.parity.matching.conventions import DROPPED
from npgpt.parity.matching.values import Values
from npgpt.parity.probe import Probe

PARAMETER_KIND = re.compile(r"param|grad|after\d+")
ACTIVATION_KINDS = "act", "dact", "mask"
SCORES = "logits", "logits_again", "cached_logits"
MOST = 1000  # names of a dump, and more for each layer and head


@dataclass(eq=False)
class Match:
    """The tensors of a dump by npgpt's names, in npgpt's layout.

    Parameters
    ----------
    tensors : dict of str to array
        "loss", "grad/h.0.attn.c_attn.weight", ...
    names : dict of str to str
        The port's name of each, without the kind; several are joined by commas.
    notes : list of str
        Phrases about the layout ("weights are (out, in)"), and sentences about exceptions.
    unused : list of str
        Names in the dump of the tensors that are not compared.
    unknown : list of str
        Those of them that are no tensor of GPT-2 by value or name.
    dropped : dict of str to float
        Activations of which the dump has both, before and after dropout, and its factor.
    inferred : set of str
        Activations, and gradients of them, that are known as the input of a layer alone.
    alternatives : dict of str to tuple of array
        The other layouts that a tensor may have, by the names of `tensors`. A square gradient has
        one if neither values nor siblings tell whether it is (in, out) or (out, in). The tensor is
        right if any of them is.
    is_split : bool
        True if the dump has two gradients of the tied wte, and no step that tells if they add.
    is_untied : bool
        True if the port has another matrix in its output head than wte, which the probe ties to it.
    """

    tensors: dict[str, Array]
    names: dict[str, str]
    notes: list[str]
    unused: list[str]
    alternatives: dict[str, tuple[Array, ...]] = field(default_factory=dict)
    is_untied: bool = False
    is_split: bool = False
    unknown: list[str] = field(default_factory=list)
    dropped: dict[str, float] = field(default_factory=dict)
    inferred: set[str] = field(default_factory=set)


def match(
    dump: Dump,
    probe: Probe,
    renames: Mapping[str, str] | None = None,
    *,
    by_names: bool = False,
) -> Match:
    """Return the tensors of a port's dump by npgpt's names, in npgpt's layout.

    Parameters
    ----------
    dump : Dump
    probe : Probe
        The model and the batch that the port computed with.
    renames : mapping of str to str or None, default None
        The port's names and npgpt's, of tensors or layers, for those that are not found:
        {"blocks.{i}.foo": "h.{i}.attn.c_proj"}. An empty name leaves a tensor out.
    by_names : bool, default False
        Believe a name that has one meaning against the values of its parameter, which a port may
        have loaded wrongly.

    Returns
    -------
    Match

    Raises
    ------
    InputError
        If a tensor could be several of npgpt's, if the dump is of another model or batch, or if a
        name in `renames` is in neither.
    """
    return Matcher(dump, probe, renames or {}, by_names=by_names).run()


class Matcher:
    """The tensors of a dump by kind, and what is found of them so far."""

    def __init__(
        self, dump: Dump, probe: Probe, renames: Mapping[str, str], *, by_names: bool = False
    ):
        self.dump, self.probe, self.by_names = dump, probe, by_names
        self.sizes = axes.sizes_of(probe.config, probe.tokens)
        self.renames = map_option.parse(renames)
        self.kinds: dict[str, dict[str, Array]] = {}
        self.found = Match({}, {}, [], [])
        most = MOST + 10 * probe.config.n_layer * (3 * probe.config.n_head + 20)
        if len(dump.tensors) > most:
            raise InputError(
                f"{dump.path} has {len(dump.tensors):,} tensors; at most {most:,} are read"
            )
        for name, array in dump.tensors.items():
            kind, _, own = name.partition("/")
            if own and (PARAMETER_KIND.fullmatch(kind) or kind in ACTIVATION_KINDS):
                self.kinds.setdefault(kind, {})[own] = array
            elif name not in ("tokens", "targets", "loss", *SCORES):
                self.found.unused.append(name)
                self.found.unknown.append(name)

    def run(self) -> Match:
        """Return the match."""
        self.translate_outside()
        chooser = self.choose()
        arrangements = layouts.decide(chooser.chosen)
        for kind, arrays in self.kinds.items():
            if PARAMETER_KIND.fullmatch(kind):
                self.translate_parameters(kind, arrays, chooser, arrangements)
        for kind in ACTIVATION_KINDS:
            if kind in self.kinds:
                self.translate_activations(kind, chooser, arrangements)
        known = {name for kind in self.kinds.values() for name in kind} | set(self.dump.tensors)
        map_option.check_used(self.renames, chooser.used, known)
        self.found.notes[:0] = layouts.describe(chooser.chosen, arrangements) + chooser.remarks
        return self.found

    def translate_outside(self) -> None:
        """Take the tensors without a kind: the batch, the loss, the logits."""
        for name, array in self.dump.tensors.items():
            if name in ("tokens", "targets"):
                self.found.tensors[name] = self.batch(name, array)
            elif name == "loss":
                if array.size != 1:
                    raise InputError(f"loss is {array.shape}, but must be one number: its mean")
                self.found.tensors[name] = array.reshape(())
            elif name in SCORES:
                piece = self.activation_piece(name, array, Slot("logits"), "", 0)
                if piece is None:
                    expected = axes.plain_shape("BTV", self.sizes)
                    raise InputError(f"{name} is {array.shape}, but must be {expected}")
                self.add(name, assemble([piece], self.sizes, strict=True))

    def batch(self, name: str, array: Array) -> Array:
        """Return the tokens or the targets (B, T), of which (T, B) may be the port's shape."""
        expected: Array = getattr(self.probe, name)
        plain = np.squeeze(array)
        if plain.shape == expected.shape[::-1] and not np.array_equal(plain, expected):
            plain = plain.T
        if plain.size != expected.size:
            raise InputError(
                f"{self.dump.path}: {name} is {array.shape}, but must be {expected.shape}: is the "
                "dump of another batch?"
            )
        return plain.reshape(expected.shape)

    def choose(self) -> Chooser:
        """Return which parameter each name of the dump is, by the first kind that has it."""
        kinds = sorted(filter(PARAMETER_KIND.fullmatch, self.kinds), key=precedence)
        arrays: dict[str, tuple[str, Array]] = {}
        aliases: dict[str, str] = {}
        for kind in kinds:
            for name, array in self.kinds[kind].items():
                aliases[name] = plain_name(name, kind, arrays)
                arrays.setdefault(aliases[name], (kind, array))
        for kind in kinds:
            self.kinds[kind] = {aliases[name]: a for name, a in self.kinds[kind].items()}
        values = Values(self.probe.params, self.sizes)
        chooser = Chooser(
            self.probe.config, self.sizes, values, self.renames, by_names=self.by_names
        )
        chooser.run(arrays)
        return chooser

    def translate_parameters(
        self,
        kind: str,
        arrays: Mapping[str, Array],
        chooser: Chooser,
        arrangements: Mapping[str, tuple[str, ...]],
    ) -> None:
        """Take the tensors of one kind that has the names of parameters."""
        pieces = []
        for name, array in arrays.items():
            if name not in chooser.chosen:
                self.found.unused.append(f"{kind}/{name}")
                if name not in chooser.known:
                    self.found.unknown.append(f"{kind}/{name}")
                continue
            choice = chooser.chosen[name]
            fitting = chooser.fit(choice.slot, array)
            allowed = axes.arrangements(choice.slot.axes, fitting.shape, self.sizes)
            kept = tuple(one for one in arrangements[name] if one in allowed)
            kept = kept or chooser.arrangements(choice.slot, array, choice.order)
            if not kept:
                expected = axes.plain_shape(choice.slot.axes, self.sizes)
                raise InputError(f"{kind}/{name} is {array.shape}, but {choice.slot} is {expected}")
            rank = int("head" in name.lower() and choice.slot.family == "wte.weight")
            pieces.append(Piece(name, fitting, choice.slot, kept, rank))
        assembled = assemble(pieces, self.sizes, strict=True, zeros=kind == "grad")
        families = {piece.slot.family for piece in pieces}
        for pair in assembled.repeated:  # is one of the two a tensor that is missing?
            if pair[0].slot.family != "wte.weight" and len(families) < len(chooser.values.leaves):
                refuse_both(*pair)
        self.add(kind, assembled)
        self.add_halves_of_tied(kind, pieces)

    def add_halves_of_tied(self, kind: str, pieces: list[Piece]) -> None:
        """Consider the sum of two gradients of one matrix, which a port may add in its step.

        Two different parameters are no tied head.
        """
        halves = [
            arranged(piece, self.sizes) for piece in pieces if piece.slot == Slot("wte.weight")
        ]
        if len(halves) != 2 or are_equal(*halves):
            return
        self.found.is_untied |= kind == "param"
        if kind != "grad":
            return
        name = "grad/wte.weight"
        first, second = (piece.name for piece in pieces if piece.slot == Slot("wte.weight"))
        if any(other.startswith("after") for other in self.kinds):  # which tell if they are added
            others = self.found.alternatives.get(name, ())
            self.found.alternatives[name] = (*others, halves[0] + halves[1])
            says = "each, and their sum, is compared. A step with both apart unties the head"
        else:
            self.found.is_split = True
            says = "a port that adds them in its step must dump their sum"
        self.found.notes.append(
            f"grad: {first} and {second} are two gradients of the tied wte.weight: {says}"
        )

    def translate_activations(
        self, kind: str, chooser: Chooser, arrangements: Mapping[str, tuple[str, ...]]
    ) -> None:
        """Take the tensors of one kind that has the names of activations."""
        orders = {
            choice.slot.layer: layouts.columns(arrangements[name][0])
            for name, choice in chooser.chosen.items()
            if choice.slot.family == "h.#.attn.c_attn.weight"
        }
        pieces = []
        modules, numbering = self.blocks_of(chooser)
        for name, array in self.kinds[kind].items():
            slot, rank, order = None, 0, ""
            if rename := map_option.find(self.renames, kind, name):
                chooser.used.add(rename.text)
                slot = rename.slot(kind, name, self.sizes)
            elif self.is_tied_head(modules.get(name), array):
                slot = Slot("logits")
            elif meaning := names.activation(
                name, chooser.convention, modules, self.sizes, numbering
            ):
                slot, rank = meaning.slot, meaning.rank
                order = meaning.order or orders.get(slot.layer if slot else None, "")
            elif name not in modules and not any(
                other.startswith(f"{name}.") for other in self.kinds[kind]
            ):
                self.found.unknown.append(f"{kind}/{name}")  # and no module that contains others
            if slot and kind == "mask":
                slot = replace(slot, family=DROPPED.get(slot.family, slot.family))
            piece = slot and self.activation_piece(name, array, slot, order, rank)
            if piece:
                pieces.append(piece)
            else:
                self.found.unused.append(f"{kind}/{name}")
        assembled = assemble(pieces, self.sizes, strict=False)
        self.add(kind, assembled)
        self.found.inferred |= {
            f"{kind}/{name}"
            for name, own in assembled.names.items()
            if all(names.words(one).endswith(names.INPUT_WORDS) for one in own.split(", "))
        }

    def blocks_of(self, chooser: Chooser) -> tuple[dict[str, Slot], names.Numbering]:
        """Return the layers of the port by name, and its blocks' numbers, both for activations.

        The values of parameters tell which block is which. If there is but one block, it stands in
        the place of all, and its activations are those of its first call.
        """
        modules, numbering, blocks = chooser.modules, chooser.numbering, chooser.blocks
        every = range(self.sizes["L"])
        if len(blocks) == 1 < len(every):
            number, layer = next(iter(blocks.items()))
            modules = {name: replace(slot, layer=number) if slot.layer == layer else slot
                       for name, slot in modules.items()}  # fmt: skip
        elif sorted(blocks) == sorted(blocks.values()) == [*every]:
            numbering = replace(numbering, order=tuple(blocks[i] for i in every))
        return modules, numbering

    def is_tied_head(self, module: Slot | None, array: Array) -> bool:
        """Return True for the output of the layer that has wte's numbers and is the head."""
        rows = self.probe.tokens.size
        return module == Slot("wte") and array.size // rows not in (0, self.sizes["C"])

    def activation_piece(
        self, name: str, array: Array, slot: Slot, order: str, rank: int
    ) -> Piece | None:
        """Return an activation with the arrangements that its shape allows; None if it has others.

        `order`: that of the columns of c_attn.
        """
        slot = axes.without_single(slot, self.sizes)
        cropped = axes.crop(array, slot.axes, self.sizes)
        fitting = array if cropped is None else cropped
        found = axes.arrangements(slot.axes, fitting.shape, self.sizes)
        usual = [one for one in found if axes.is_natural(one)]
        if slot.family == "h.#.attn.c_attn" and order not in ("", "QHD"):
            usual = [one for one in found if order in one] or usual
        return Piece(name, fitting, slot, tuple(usual[: layouts.MOST]), rank) if usual else None

    def add(self, kind: str, found: Assembled) -> None:
        """Add assembled tensors. `kind`: that of their names, or one of SCORES."""

        def full(name: str) -> str:
            if kind in SCORES:
                return kind
            return name if (kind, name) == ("act", "logits") else f"{kind}/{name}"

        self.found.tensors.update({full(name): array for name, array in found.tensors.items()})
        self.found.names.update({full(name): own for name, own in found.names.items()})
        others = {full(name): arrays for name, arrays in found.alternatives.items()}
        self.found.alternatives.update(others)
        self.found.unused.extend(f"{kind}/{name}" for name in found.unused)
        self.found.notes.extend(f"{kind}: {remark}" for remark in found.remarks)
        if kind == "act":
            self.found.dropped.update(found.dropped)


def precedence(kind: str) -> tuple[bool, bool, int]:
    """Return a key that puts `param` first, then `grad`, then the steps."""
    number = int(kind.removeprefix("after")) if kind.startswith("after") else 0
    return kind != "param", kind != "grad", number


def plain_name(name: str, kind: str, known: Mapping[str, object]) -> str:
    """Return the name of the parameter of a gradient: "W_q" of "dW_q" or "W_q.grad"."""
    if kind != "grad" or name in known:
        return name
    start, leaf = name[: name.rfind(".") + 1], name[name.rfind(".") + 1 :]
    bare = re.sub(r"^(d_?|grad_|g_)(?=\w)|[._]grad$", "", leaf)
    for one in (re.sub(r"[._]grad$", "", name), start + bare):
        if one in known:
            return one
    return re.sub(r"[._]grad$", "", name)
