"""The diagnosis of a port: its first wrong tensor, the causes, and the ops that are wrong."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from npgpt.config import Config
from npgpt.errors import InputError
from npgpt.model.params import named, shapes
from npgpt.parity import causes, loading, op_by_op, order, pairing, randomness, reading, where
from npgpt.parity.budget import Run
from npgpt.parity.causes import Lab
from npgpt.parity.dump import Dump
from npgpt.parity.findings import Finding, compare
from npgpt.parity.loading import Loaded
from npgpt.parity.mistakes import MISTAKES, Mistake
from npgpt.parity.op_by_op import WrongOp
from npgpt.parity.order import kind_of, step_of
from npgpt.parity.probe import Probe
from npgpt.parity.randomness import NOT_RANDOM, Randomness
from npgpt.parity.reading import Reading

IN_EVALUATION = next(one for one in MISTAKES if one.name == "dropout-in-evaluation")


@dataclass(frozen=True)
class Diagnosis:
    """All that is known of a port's errors.

    findings : the tensors that were compared, in the order of computation. All but parameters are
        compared with what the port's own parameters give
    loaded : what the port has in the place of the probe's parameters, of those that are wrong
    causes : chains of mistakes, most of one; each chain reproduces every tensor
    right_cache : True if the causes explain all but the cached logits, which are right
    tell_apart : the tensor that would tell several causes apart, "" if none would
    randomness : signs that the forward pass is random
    is_overwritten : True if activations, their gradients or parameters are wrong, and all that is
        computed from them is right: the port has not computed with what it has dumped
    wrong_ops : ops that are wrong on the port's own inputs
    between : the last right tensor before the first wrong one but for parameters, and that one
    where : a sentence about it
    """

    findings: tuple[Finding, ...]
    loaded: tuple[Loaded, ...] = ()
    causes: tuple[tuple[Mistake, ...], ...] = ()
    right_cache: bool = False
    tell_apart: str = ""
    randomness: Randomness = NOT_RANDOM
    is_overwritten: bool = False
    wrong_ops: tuple[WrongOp, ...] = ()
    between: tuple[str, str] = ("", "")
    where: str = ""
    arithmetic: str = "float32"
    within: str = (
        ""  # a coarser arithmetic whose budgets all tensors are within, if no cause is known
    )
    not_dumped: tuple[str, ...] = ()  # kinds
    notes: tuple[str, ...] = ()  # of the matching
    unused: tuple[str, ...] = ()  # tensors of the dump that are not compared
    unknown: tuple[str, ...] = ()  # those of them that match none of GPT-2

    @property
    def first_wrong(self) -> Finding | None:
        """The first tensor outside of its budget, in the order of computation."""
        return next((one for one in self.findings if not one.is_right), None)

    @property
    def parameters(self) -> tuple[Finding, ...]:
        """The findings about parameters, which come first."""
        return tuple(one for one in self.findings if kind_of(one.name) == "param")

    @property
    def computed(self) -> tuple[Finding, ...]:
        """The other findings."""
        return self.findings[len(self.parameters) :]

    @property
    def first_computed_wrongly(self) -> Finding | None:
        """The first wrong tensor that is no parameter."""
        return next((one for one in self.computed if not one.is_right), None)

    @property
    def is_before_backward(self) -> bool:
        """Return True if the first wrong tensor is of the forward pass or the loss."""
        first = self.first_computed_wrongly
        return first is not None and first.stage in ("forward", "loss")

    @property
    def agrees(self) -> bool:
        """Return True if no tensor is wrong."""
        return self.first_wrong is None


@np.errstate(all="ignore")  # numbers of a wrong port may be beyond float32
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
    renames, labs = dict(renames or {}), [] if labs is None else labs
    by_names = None
    try:
        first = reading.read(dump, probe, renames)
    except InputError:  # two parameters with the numbers of one are undecided by values
        by_names = read_by_names(dump, probe, renames)
        if by_names is None:
            raise
        first = by_names
    case = Case(first, labs)
    if not case.found.agrees and by_names is None:
        by_names = read_by_names(dump, probe, renames)
        if by_names is not None and not by_names.equals(first):
            return better(case, Case(by_names, labs))
    return case.explain()


def read_by_names(dump: Dump, probe: Probe, renames: Mapping[str, str]) -> Reading | None:
    """Return a dump as its names say, None if they leave a parameter undecided."""
    try:
        return reading.read(dump, probe, renames, by_names=True)
    except InputError:
        return None


class Case:
    """A dump as it is read in one way, its comparison, and the search for causes."""

    def __init__(self, dump: Reading, labs: list[Lab]):
        self.reading, self.own, self.task = dump, dump.own, dump.task
        lab = next((one for one in labs if one.computes(dump.task)), None)
        if lab is None:
            labs.append(lab := Lab(dump.task))
        computed = compare(lab.run(()), dump.own, dump.names)
        if not all_right(dump.parameters) and not all_right(computed):
            asked = Lab(replace(dump.task, probe=dump.given))
            others = compare(asked.run(()), dump.own, dump.names)
            if all_right(others):  # the port has computed with other parameters than it has dumped
                lab, computed = asked, others
        self.lab = lab
        self.found = Diagnosis(
            findings=(*dump.parameters, *computed),
            arithmetic=dump.task.arithmetic, notes=dump.notes, unused=dump.unused,
            unknown=dump.unknown, not_dumped=dump.not_dumped,
        )  # fmt: skip

    def wrong_ops(self) -> tuple[WrongOp, ...]:
        """Return the ops that are wrong on the port's own inputs."""
        return tuple(op_by_op.wrong_ops(self.task.probe, self.own, self.found.arithmetic))

    def explain(self) -> Diagnosis:
        """Return the diagnosis with the causes of the wrong tensors."""
        found = self.found
        if found.agrees:
            return found
        wrong = [one.name for one in found.parameters if not one.is_right]
        mistake = None
        if wrong:
            given, names = self.reading.given, [name.partition("/")[2] for name in wrong]
            found = replace(found, loaded=loading.explain(names, self.own, given))
            if self.lab.task.probe is given:
                return replace(found, between=("", wrong[0]), is_overwritten=True)
            mistake = loading.known(self.own, given)
        first = found.first_computed_wrongly
        if first is None:
            return replace(found, causes=((mistake,),) if mistake else (), between=("", wrong[0]))
        right = [one.name for one in found.computed[: found.computed.index(first)]]
        config = self.task.probe.config
        found = replace(
            found,
            between=(where.last_before(first.name, right, config), first.name),
            where=where.sentence(first.name, first.at, first.found, right, config),
            is_overwritten=is_overwritten(found, config),
        )
        if found.is_overwritten:
            return found
        found = replace(found, randomness=self.randomness(found))
        if found.randomness.dropped:  # and most ops seem to be wrong
            return replace(found, causes=((IN_EVALUATION,),))
        found = replace(found, wrong_ops=self.wrong_ops())
        if not np.isfinite(first.found):  # which no mistake reproduces
            return found
        found = self.with_causes(found)
        if mistake:
            found = replace(found, causes=tuple((mistake, *chain) for chain in found.causes))
        return found

    def with_causes(self, found: Diagnosis) -> Diagnosis:
        """Return the diagnosis with the causes of the wrong tensors but for parameters."""
        first, lab, own = found.first_computed_wrongly, self.lab, self.own
        assert first is not None
        if found.randomness.again and not lab.task.masks:  # is the first of the two explained?
            rest = tuple(name for name in lab.task.names if name != "logits_again")
            lab = Lab(replace(lab.task, names=rest))
        chains, right_cache = causes.find(lab, own), False
        cache = next((one for one in found.findings if one.name == "cached_logits"), None)
        if cache and cache.is_right:  # and no mistake of decoding makes up for one of forward
            chains = [chain for chain in chains if all(one.stage != "cache" for one in chain)]
        if not chains and cache and cache.is_right and cache is not first:
            # a decoding loop is often code of its own, which lacks the mistake
            rest = tuple(name for name in lab.task.names if name != cache.name)
            chains = causes.find(Lab(replace(lab.task, names=rest)), own)
            right_cache = bool(chains)
        if not chains and found.randomness.again and lab.task.masks:
            chains = [(IN_EVALUATION,)]
        is_coarser = not chains and may_be_coarser(found)
        return replace(
            found,
            causes=tuple(chains),
            right_cache=right_cache,
            within=coarser(lab.run(()), own, first.name) if is_coarser else "",
            tell_apart=causes.tell_apart(lab, chains) if len(chains) > 1 else "",
        )

    def randomness(self, found: Diagnosis) -> Randomness:
        """Return the signs that the port's forward pass is random."""
        if self.task.masks:  # which are known; evaluation alone may be random
            return Randomness(again=draws_again(found, self.own))
        computed = op_by_op.activations(self.task.probe, self.own)
        run, wrong = self.lab.run(()), {one.name for one in found.computed if not one.is_right}
        budget = run.budgets["logits"] if "logits" in wrong else None
        config, dropped = self.task.probe.config, self.reading.dropped
        return randomness.find(self.own, computed, dropped, config, budget)


def all_right(findings: Sequence[Finding]) -> bool:
    """Return True if all tensors are within their budgets."""
    return all(one.is_right for one in findings)


def better(by_values: Case, by_names: Case) -> Diagnosis:
    """Return the diagnosis of the reading with fewer wrong ops, or a later first wrong tensor.

    If the two are equal, that with a cause. A port that differs has loaded its parameters wrongly
    more often than it has given them the names of others.
    """
    cases = by_values, by_names
    ops = [len(case.wrong_ops()) for case in cases]
    starts = [start_of(case) for case in cases]
    if ops[0] != ops[1] or starts[0] != starts[1]:
        return (by_values if (ops[0], -starts[0]) < (ops[1], -starts[1]) else by_names).explain()
    named = by_names.explain()
    if named.causes:
        return named
    valued = by_values.explain()
    return valued if valued.causes else named


def start_of(case: Case) -> int:
    """Return the place in the order of computation of the first wrong tensor but parameters."""
    first = case.found.first_computed_wrongly
    if first is None:
        return 1 << 62
    names = list(order.all_names(case.task.probe.config, max(1, step_of(first.name))))
    return names.index(first.name)


def is_overwritten(found: Diagnosis, config: Config) -> bool:
    """Return True if activations or their gradients are wrong, and all that follows is right.

    Then the port has computed with other numbers than it has dumped.
    """
    wrong = {kind_of(one.name) for one in found.computed if not one.is_right}
    right = [kind_of(one.name) for one in found.computed if one.is_right]
    follows = right.count("grad") == len([*named(shapes(config))]) and {"logits", "loss"} <= {
        *right
    }
    return bool(wrong) and wrong <= {"act", "dact"} and follows


def draws_again(found: Diagnosis, own: causes.Own) -> bool:
    """Return True if dropout alone makes two runs of the forward pass differ, and logits wrong."""
    wrong = {one.name for one in found.findings if not one.is_right}
    return (
        "logits" in wrong
        and wrong <= {"logits", "logits_again", "cached_logits"}
        and "logits_again" in own
        and not np.array_equal(own["logits"][0], own["logits_again"][0])
    )


def may_be_coarser(found: Diagnosis) -> bool:
    """Return True if the first wrong tensor follows from products, unlike parameters and steps."""
    first = found.first_computed_wrongly
    computed = first is not None and not step_of(first.name)
    return computed and found.arithmetic == "float32"


def coarser(exact: Run, own: causes.Own, first: str) -> str:
    """Return the 16 bits whose rounding explains every tensor, "" if neither does.

    The bits of sums do not tell which operands were rounded. `exact`: of the right port. `first`:
    the first wrong tensor.
    """
    for kind in ("float16", "bfloat16"):  # the finer one first
        for names in ((first,), exact.task.names):  # most fail the first wrong one, which is cheap
            run = exact.rounded(kind, names)
            if any(run.factor(name, own[name]) > 1 for name in names):
                break
        else:
            return kind
    return ""
