"""A dump as it is read: its tensors by npgpt's names, and the probe that the port computed with."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from npgpt.arrays import Array
from npgpt.config import Config
from npgpt.errors import InputError
from npgpt.model import params
from npgpt.model.params import named, size
from npgpt.parity import findings, matching, order, rounding, sixteen_bits
from npgpt.parity.budget import Layouts, Task
from npgpt.parity.dump import Dump
from npgpt.parity.findings import Finding
from npgpt.parity.op_by_op import with_parameters
from npgpt.parity.order import INPUTS, kind_of, step_of
from npgpt.parity.probe import Probe

PARAMETERS = ("param", "grad")
NO_GRADIENT = "not in the dump"
STEPPED = 1 << 24  # parameters of a model whose steps are compared, at most
KINDS = ("act", "loss", "grad", "dact", "after", "cached_logits")  # kinds that are missed
SHOWN = 3  # names of a note; more are counted


@dataclass(frozen=True, eq=False)
class Reading:
    """A dump as it is read.

    names : the port's names of the tensors
    own : the port's tensors, by canonical names
    given : the probe that was asked for; its head is not tied if the port's is not
    task : with the parameters that the port used
    parameters : the port's parameters beside those of `given`
    """

    names: Mapping[str, str]
    own: Mapping[str, Layouts]
    given: Probe
    task: Task
    parameters: tuple[Finding, ...]
    notes: tuple[str, ...]
    unused: tuple[str, ...]
    unknown: tuple[str, ...]
    dropped: Mapping[str, float]
    not_dumped: tuple[str, ...]  # kinds
    inferred: frozenset[str]  # known as the input of a layer alone
    is_split: bool  # the gradient of the tied wte is two, apart

    def equals(self, other: "Reading") -> bool:
        """Return True if all tensors have the same names and layouts."""
        return (
            self.names == other.names
            and self.own.keys() == other.own.keys()
            and all(
                np.array_equal(self.own[name][0], other.own[name][0])
                for name in self.own
                if kind_of(name) == "param"
            )
        )

    def from_the_last(self) -> "Reading | None":
        """Return the tensors of a port that numbers its blocks from the last one to the first.

        None if it has parameters, by whose values its blocks are known.
        """
        renamed = {name: renumber(name, self.given.config) for name in self.own}
        if any(kind_of(name) == "param" for name in self.own) or set(renamed.values()) - {
            *self.own
        }:
            return None
        note = "blocks: numbered from the last one to the first, with which all tensors agree"
        return replace(
            self,
            names={renamed.get(name, name): own for name, own in self.names.items()},
            own={renamed[name]: layouts for name, layouts in self.own.items()},
            notes=(*self.notes, note),
        )


def renumber(name: str, config: Config) -> str:
    """Return the name of the same tensor of the block that is this one, counted from the last."""
    kind, _, rest = name.partition("/")
    if not rest.startswith("h."):
        return name
    _, block, layer = rest.split(".", 2)
    return f"{kind}/h.{config.n_layer - 1 - int(block)}.{layer}"


def read(
    dump: Dump, probe: Probe, renames: Mapping[str, str], *, by_names: bool = False
) -> Reading:
    """Return a dump as it is read: names against values of parameters only if `by_names`.

    Raises InputError if the dump has nothing to compare, or tensors cannot be matched.
    """
    dump, lost = without_lost_parameters(dump)
    match = matching.match(dump, probe, renames, by_names=by_names)
    if match.is_untied and probe.config.tied:
        probe = untie(probe)
        match = matching.match(dump, probe, renames, by_names=by_names)
    if (logits := match.tensors.pop("act/logits", None)) is not None:  # a module's output
        match.tensors.setdefault("logits", logits)
    notes = notes_of(match, probe) + lost
    notes += fill_gradients(match, probe)
    leave_steps_out(match, probe)
    own = {name: (x, *match.alternatives.get(name, ())) for name, x in match.tensors.items()}
    present = [name for name in order.sort(own, probe.config) if kind_of(name) not in INPUTS]
    if not present:
        raise InputError(
            f"{dump.path} has nothing to compare: it must hold a loss, gradients or activations"
        )
    arithmetic = rounding.recognize(match.tensors, probe.params)
    used, masks = with_parameters(probe, match.tensors), masks_of(match.tensors, probe)
    task = sixteen_bits.arithmetic_of(Task(used, tuple(present), masks, arithmetic), own)
    return Reading(
        names=match.names, own=own, given=probe,
        task=task,
        parameters=tuple(findings.compare_parameters(own, probe, match.names, arithmetic)),
        notes=(*notes, *shared_blocks(match), *sentences(match.notes)),
        unused=tuple(match.unused), unknown=tuple(match.unknown), dropped=match.dropped,
        not_dumped=not_dumped(present), inferred=frozenset(match.inferred),
        is_split=match.is_split,
    )  # fmt: skip


def without_lost_parameters(dump: Dump) -> tuple[Dump, list[str]]:
    """Return the dump without parameters that are nan or infinite, and a line that says so."""
    floats = {name: x for name, x in dump.tensors.items() if x.dtype.kind == "f"}
    lost = [
        name for name, x in floats.items() if kind_of(name) == "param" and not np.isfinite(x).all()
    ]
    if not lost:
        return dump, []
    kept = {name: x for name, x in dump.tensors.items() if name not in lost}
    return replace(dump, tensors=kept), [
        f"parameters: nan or infinite in {few(lost)}, as after a step (dump copies, before it): "
        "the probe's are used"
    ]


def untie(probe: Probe) -> Probe:
    """Return the probe with a head of its own, which has the numbers of wte."""
    config = replace(probe.config, tied=False)
    known = dict(named(probe.params))
    tree = params.zeros(config, probe.params.wte.weight.dtype)
    for name, leaf in named(tree):
        leaf[...] = known.get(name, probe.params.wte.weight)
    return replace(probe, config=config, params=tree)


def fill_gradients(match: matching.Match, probe: Probe) -> list[str]:
    """Add a gradient of 0 for each parameter without one, if most of the others have one.

    A port dumps no gradient that it has not computed. PyTorch's optimizers leave such a parameter
    as it is, without decay: it is not compared after a step, and no tensor is after the second.
    Return a line that says so, if it concerns any.
    """
    shapes = {name: leaf.shape for name, leaf in named(probe.params)}
    missing = [name for name in shapes if f"grad/{name}" not in match.tensors]
    if 2 * len(missing) > len(shapes) or any(name.startswith("grad/") for name in match.unused):
        return []
    for name in missing:
        match.tensors[f"grad/{name}"] = np.zeros(shapes[name])
        match.names[f"grad/{name}"] = NO_GRADIENT
    stepped = [name for name in shapes if name in missing or is_partial(name, match)]
    left_out = [
        after
        for after in match.tensors
        if stepped and step_of(after) and (step_of(after) > 1 or leaf_of(after) in stepped)
    ]
    for after in left_out:
        del match.tensors[after]
    if not left_out:
        return []
    later = ", and no parameter after the second step" * any(step_of(one) > 1 for one in left_out)
    return [f"no gradient: {few(stepped)}. An optimizer may leave such a parameter as it is: it is "
            f"not compared after a step{later}"]  # fmt: skip


def leave_steps_out(match: matching.Match, probe: Probe) -> None:
    """Leave out the parameters after a large model's steps, with a note.

    Each mistake of an optimizer is a training step in float64: 24 GB of memory for 124M parameters.
    """
    steps = [name for name in match.tensors if step_of(name)]
    if steps and (count := size(probe.config)) > STEPPED:
        for name in steps:
            del match.tensors[name]
        match.notes.append(
            f"steps: not compared, as the model has {count:,} parameters, more than {STEPPED:,}. "
            "Dump those of the tiny probe: they show the same mistakes"
        )


def is_partial(name: str, match: matching.Match) -> bool:
    """Return True if a port has stepped more parts of a parameter than it has gradients of."""
    grad, after = (match.names.get(f"{kind}/{name}", "") for kind in ("grad", "after1"))
    return grad.count(",") < after.count(",")


def notes_of(match: matching.Match, probe: Probe) -> list[str]:
    """Return the line about the matching: how many parameters in what layout, and those missing."""
    names = [name for name, _ in named(probe.params)]
    present = {name.partition("/")[2] for name in match.tensors if kind_of(name) in PARAMETERS}
    missing = [name for name in names if name not in present]
    phrases = [note for note in match.notes if ":" not in note]
    line = f"matched {len(names) - len(missing)} of {len(names)} parameters"
    layout = f" ({'; '.join(phrases)})" if phrases else ""
    lost = 0 < len(missing) < len(names) / 2
    return [line + layout, *([f"the dump has no {few(missing)}"] if lost else [])]


def sentences(notes: Sequence[str]) -> list[str]:
    """Return the notes that are lines of their own: of each sort the first ones, and a count."""
    sorts: dict[tuple[str, ...], list[str]] = {}
    for note in notes:
        if ":" in note:
            words = tuple(word for word in note.split()[1:] if "." not in word)  # without the kind
            sorts.setdefault(words, []).append(note)
    found = []
    for same in sorts.values():
        more = f", and {len(same) - 1} more like it" * (len(same) > 1)
        found.append(same[0] + more)
    return found


def shared_blocks(match: matching.Match) -> list[str]:
    """Return a line for each set of blocks that have the very same gradients."""
    blocks: dict[str, list[int]] = {}  # hashes of the gradients, in the order of their names
    for name, grad in sorted(match.tensors.items()):
        if name.startswith("grad/h.") and grad.any() and np.isfinite(grad).all():
            blocks.setdefault(name.split(".")[1], []).append(hash(grad.tobytes()))
    equal: dict[tuple[int, ...], list[str]] = {}
    for block, hashes in blocks.items():
        equal.setdefault(tuple(hashes), []).append(f"h.{block}")
    return [f"{', '.join(names)}: the very same gradients, as of one module that the port shares"
            for names in equal.values() if len(names) > 1]  # fmt: skip


def masks_of(tensors: Mapping[str, Array], probe: Probe) -> dict[str, Array] | None:
    """Return the dropout masks of the port by the names of activations, None without dropout.

    Raises InputError if one of them is missing.
    """
    if not probe.settings.dropout:
        return None
    names = order.mask_names(probe.config)
    for name in names:
        if f"mask/{name}" not in tensors:
            raise InputError(f"dropout is {probe.settings.dropout}, but the dump has no mask/{name}"
                             ": dump all masks, or compute without dropout")  # fmt: skip
    return {name: tensors[f"mask/{name}"] for name in names}


def not_dumped(names: Sequence[str]) -> tuple[str, ...]:
    """Return the kinds of tensors that the dump could have held."""
    present = {"after" if step_of(name) else kind_of(name) for name in names}
    return tuple(kind for kind in KINDS if kind not in present)


def leaf_of(name: str) -> str:
    """Return a name without its kind: "ln_f.bias" of "after1/ln_f.bias"."""
    return name.partition("/")[2]


def few(names: Sequence[str]) -> str:
    """Return the first names, and how many more there are."""
    more = f" and {len(names) - SHOWN} more" * (len(names) > SHOWN)
    return ", ".join(names[:SHOWN]) + more
