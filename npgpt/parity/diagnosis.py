"""The diagnosis of a port: its first wrong tensor, the causes, and the ops that are wrong."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from npgpt.arrays import Array
from npgpt.config import Config
from npgpt.errors import InputError
from npgpt.model.params import named, size
from npgpt.parity import causes, graph, matching, op_by_op, order, pairing, rounding
from npgpt.parity.budget import Layouts, Run, Task, closest, excess, largest_of
from npgpt.parity.causes import Lab
from npgpt.parity.dump import Dump
from npgpt.parity.mistakes import MISTAKES, Mistake
from npgpt.parity.op_by_op import WrongOp
from npgpt.parity.order import INPUTS, kind_of, stage_of, step_of
from npgpt.parity.port import RIGHT
from npgpt.parity.probe import Probe
from npgpt.parity.rounding import EPS

PARAMETERS = ("param", "grad")
NO_GRADIENT = "not in the dump"
STEPPED = 1 << 24  # parameters of a model whose steps are compared, at most
IN_EVALUATION = next(one for one in MISTAKES if one.name == "dropout-in-evaluation")
KINDS = ("act", "loss", "grad", "dact", "after", "cached_logits")  # kinds that are missed


@dataclass(frozen=True)
class Finding:
    """A tensor of the port beside the exact one."""

    name: str  # canonical
    port_name: str
    stage: str
    factor: float  # the largest difference, in rounding budgets
    at: tuple[int, ...] = ()  # the first element outside of the budget
    found: float = np.nan  # of the port
    expected: float = np.nan

    @property
    def is_right(self) -> bool:
        """Return True if rounding explains every difference."""
        return self.factor <= 1


@dataclass(frozen=True)
class Diagnosis:
    """All that is known of a port's errors.

    findings : the tensors that were compared, in the order of computation
    causes : chains of mistakes, most of one; each chain reproduces every tensor
    right_cache : True if the causes explain all but the cached logits, which are right
    tell_apart : the tensor that would tell several causes apart, "" if none would
    wrong_ops : ops that are wrong on the port's own inputs
    between : the last right tensor before the first wrong one, and that one
    """

    findings: tuple[Finding, ...]
    causes: tuple[tuple[Mistake, ...], ...] = ()
    right_cache: bool = False
    tell_apart: str = ""
    wrong_ops: tuple[WrongOp, ...] = ()
    between: tuple[str, str] = ("", "")
    arithmetic: str = "float32"
    within: str = (
        ""  # a coarser arithmetic whose budgets all tensors are within, if no cause is known
    )
    not_dumped: tuple[str, ...] = ()  # kinds
    notes: tuple[str, ...] = ()  # of the matching
    unused: tuple[str, ...] = ()  # tensors of the dump that match none of GPT-2

    @property
    def first_wrong(self) -> Finding | None:
        """The first tensor outside of its budget, in the order of computation."""
        return next((one for one in self.findings if not one.is_right), None)

    @property
    def agrees(self) -> bool:
        """Return True if no tensor is wrong."""
        return self.first_wrong is None


def diagnose(
    dump: Dump,
    probe: Probe,
    renames: Mapping[str, str] | None = None,
    *,
    labs: list[Lab] | None = None,
) -> Diagnosis:
    """Return the diagnosis of a dump.

    renames : the port's names and npgpt's, for the matching
    labs : of earlier diagnoses with the same probe: one is used if its dump had the same tensors,
        and a new one is added

    Raises InputError if the dump is of another batch or model, has no number to compare, or one
    that is not finite.
    """
    dump = pairing.check(dump, probe)
    probe = replace(probe, settings=probe.settings.with_meta(dump.meta))
    match = matching.match(dump, probe, dict(renames or {}))
    if (logits := match.tensors.pop("act/logits", None)) is not None:  # a module's output
        match.tensors.setdefault("logits", logits)
    fill_gradients(match, probe)
    leave_steps_out(match, probe)
    own = {name: (x, *match.alternatives.get(name, ())) for name, x in match.tensors.items()}
    present = [name for name in order.sort(own, probe.config) if kind_of(name) not in INPUTS]
    arithmetic = rounding.recognize(match.tensors, probe.params)
    findings = compare_parameters(own, probe, match.names, arithmetic)
    given, probe = probe, op_by_op.with_parameters(probe, match.tensors)
    if not present:
        raise InputError(
            f"{dump.path} has nothing to compare: it must hold a loss, gradients or activations"
        )
    task = Task(probe, tuple(present), masks_of(match.tensors, probe), arithmetic)
    labs = [] if labs is None else labs
    lab = next((one for one in labs if one.computes(task)), None)
    if lab is None:
        labs.append(lab := Lab(task))
    findings += compare(lab.run(()), own, match.names)
    found = Diagnosis(
        findings=tuple(findings), arithmetic=arithmetic, notes=notes_of(match, probe),
        unused=tuple(match.unused), not_dumped=not_dumped(present),
    )  # fmt: skip
    if found.agrees:
        return found
    parameters = tuple(one.name for one in found.findings if kind_of(one.name) == "param")
    loaded = Task(given, (*parameters, *present), task.masks, arithmetic)
    return explain(found, lab, own, Lab(loaded))


def fill_gradients(match: matching.Match, probe: Probe) -> None:
    """Add a gradient of 0 for each parameter without one, if most of the others have one.

    A port dumps no gradient that it has not computed. PyTorch's optimizers leave such a parameter
    as it is, without decay: it is not compared after a step, and no tensor is after the second.
    """
    shapes = {name: leaf.shape for name, leaf in named(probe.params)}
    missing = [name for name in shapes if f"grad/{name}" not in match.tensors]
    if 2 * len(missing) > len(shapes) or any(name.startswith("grad/") for name in match.unused):
        return
    for name in missing:
        match.tensors[f"grad/{name}"] = np.zeros(shapes[name])
        match.names[f"grad/{name}"] = NO_GRADIENT
    for name in [name for name in shapes if name in missing or is_partial(name, match)]:
        steps = [one for one in match.tensors if step_of(one)]
        for after in [one for one in steps if step_of(one) > 1 or one.endswith(f"/{name}")]:
            del match.tensors[after]


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


def notes_of(match: matching.Match, probe: Probe) -> tuple[str, ...]:
    """Return lines about the matching: how many parameters, in what layout, and exceptions."""
    names = [name for name, _ in named(probe.params)]
    present = {name.partition("/")[2] for name in match.tensors if kind_of(name) in PARAMETERS}
    phrases = [note for note in match.notes if ":" not in note]
    line = f"matched {len(present.intersection(names))} of {len(names)} parameters"
    layout = f" ({'; '.join(phrases)})" if phrases else ""
    return (line + layout, *shared_blocks(match), *(note for note in match.notes if ":" in note))


def shared_blocks(match: matching.Match) -> list[str]:
    """Return a line for each set of blocks that have the very same gradients."""
    blocks: dict[str, list[int]] = {}  # hashes of the gradients, in the order of their names
    for name, grad in sorted(match.tensors.items()):
        if name.startswith("grad/h.") and grad.any():
            blocks.setdefault(name.split(".")[1], []).append(hash(grad.tobytes()))
    equal: dict[tuple[int, ...], list[str]] = {}
    for block, hashes in blocks.items():
        equal.setdefault(tuple(hashes), []).append(f"h.{block}")
    return [f"{', '.join(names)}: the very same gradients, as of one module that the port shares"
            for names in equal.values() if len(names) > 1]  # fmt: skip


def explain(found: Diagnosis, lab: Lab, own: causes.Own, loaded: Lab) -> Diagnosis:
    """Return the diagnosis with the causes of its wrong tensors.

    loaded : with the probe's parameters, of which the port's are to be explained if they are wrong
    """
    first = found.first_wrong
    assert first is not None
    before = [one.name for one in found.findings[: found.findings.index(first)]]
    source = lab if first.name in lab.task.names else loaded
    chains, right_cache = causes.find(source, own), False
    cache = next((one for one in found.findings if one.name == "cached_logits"), None)
    if cache and cache.is_right:  # and no mistake of decoding makes up for one of forward
        chains = [chain for chain in chains if all(one.stage != "cache" for one in chain)]
    if not chains and cache and cache.is_right and cache is not first:
        # a decoding loop is often code of its own, which lacks the mistake
        rest = tuple(name for name in source.task.names if name != cache.name)
        chains = causes.find(Lab(replace(source.task, names=rest)), own)
        right_cache = bool(chains)
    if not chains and draws_again(found, source.task, own):
        chains = [(IN_EVALUATION,)]
    return replace(
        found,
        causes=tuple(chains),
        right_cache=right_cache,
        within="" if chains or not may_be_coarser(found) else coarser(lab.task, own, first.name),
        tell_apart=causes.tell_apart(source, chains) if len(chains) > 1 else "",
        wrong_ops=tuple(op_by_op.wrong_ops(lab.task.probe, own, found.arithmetic)),
        between=(last_before(first.name, before, lab.task.probe.config), first.name),
    )


def last_before(name: str, right: Sequence[str], config: Config) -> str:
    """Return the last right tensor from which a tensor is computed, "" if there is none."""
    feeding = graph.ancestors(name, config)
    found = [one for one in right if one in feeding] if feeding else right
    return found[-1] if found else ""


def draws_again(found: Diagnosis, task: Task, own: causes.Own) -> bool:
    """Return True if dropout alone makes two runs of the forward pass differ, and logits wrong."""
    wrong = {one.name for one in found.findings if not one.is_right}
    return (
        bool(task.masks)
        and "logits" in wrong
        and wrong <= {"logits", "logits_again", "cached_logits"}
        and "logits_again" in own
        and not np.array_equal(own["logits"][0], own["logits_again"][0])
    )


def may_be_coarser(found: Diagnosis) -> bool:
    """Return True if the first wrong tensor follows from products, unlike parameters and steps."""
    first = found.first_wrong
    computed = first is not None and kind_of(first.name) not in INPUTS and not step_of(first.name)
    return computed and found.arithmetic == "float32"


def coarser(task: Task, own: causes.Own, first: str) -> str:
    """Return the 16 bits whose rounding explains every tensor, "" if neither does.

    The bits of sums do not tell which operands were rounded. `first`: the first wrong tensor.
    """
    for kind in ("float16", "bfloat16"):  # the finer one first
        for names in ((first,), task.names):  # most fail the first wrong one, which is cheap
            run = Run(RIGHT, replace(task, names=names, arithmetic=kind))
            if any(run.factor(name, own[name]) > 1 for name in names):
                break
        else:
            return kind
    return ""


def compare(run: Run, own: causes.Own, port_names: Mapping[str, str]) -> list[Finding]:
    """Return the port's tensors beside the exact ones, in the order of computation."""
    return [
        finding(name, port_names.get(name, name), own[name], run.exact[name], run.budgets[name])
        for name in run.task.names
    ]


def finding(name: str, port_name: str, own: Layouts, exact: Array, budget: Array) -> Finding:
    """Return one tensor beside the exact one, with the first element outside of the budget."""
    found = closest(own, exact)
    size = excess(found, exact, budget)
    result = Finding(name, port_name, stage_of(name), largest_of(size))
    if result.is_right:
        return result
    at = tuple(int(i) for i in np.unravel_index(np.argmax(~(size <= 1)), found.shape))
    return replace(result, at=at, found=float(found[at]), expected=float(exact[at]))


def compare_parameters(
    own: causes.Own, probe: Probe, port_names: Mapping[str, str], arithmetic: str
) -> list[Finding]:
    """Return the port's parameters beside the probe's, which may be rounded to 16 bits."""
    found = []
    for name, leaf in named(probe.params):
        full = f"param/{name}"
        if full in own:
            exact = leaf.astype(np.float64)
            budget = np.asarray(4 * EPS[arithmetic] * largest_of(exact))
            found.append(finding(full, port_names.get(full, name), own[full], exact, budget))
    return found


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
