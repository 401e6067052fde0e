"""The diagnosis of a port: its first wrong tensor, the causes, and the ops that are wrong."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from npgpt.config import Config
from npgpt.errors import InputError
from npgpt.model.params import named, shapes
from npgpt.parity import (
    apart,
    causes,
    coarser,
    loading,
    op_by_op,
    order,
    pairing,
    randomness,
    reading,
    where,
)
from npgpt.parity.budget import Layouts, Run, closest, excess
from npgpt.parity.causes import DECODED, Lab
from npgpt.parity.dump import Dump
from npgpt.parity.findings import Finding, compare
from npgpt.parity.loading import Loaded
from npgpt.parity.mistakes import MISTAKES, Mistake
from npgpt.parity.mistakes.regions import REGIONS
from npgpt.parity.op_by_op import WrongOp
from npgpt.parity.order import kind_of, step_of
from npgpt.parity.probe import Probe
from npgpt.parity.randomness import NOT_RANDOM, Randomness
from npgpt.parity.reading import Reading
from npgpt.parity.rounding import ROUND

IN_EVALUATION = next(one for one in MISTAKES if one.name == "dropout-in-evaluation")
UNTIED = next(one for one in MISTAKES if one.name == "head-untied")


@dataclass(frozen=True)
class Diagnosis:
    """All that is known of a port's errors.

    findings : the tensors that were compared, in the order of computation. All but parameters are
        compared with what the port's own parameters give
    loaded : what the port has in the place of the probe's parameters, of those that are wrong
    causes : chains of mistakes, most of one; each chain reproduces every tensor. With `within`, a
        part of the model that is computed in this arithmetic
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
    within: str = ""  # a coarser arithmetic whose budgets all tensors are within
    moved: int = 0  # inputs of layers that the causes move, and do not explain
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
    if not case.found.agrees and (other := first.from_the_last()):
        from_the_last = Case(other, labs)
        if from_the_last.found.agrees:
            return from_the_last.found
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
        self.lab, self.moved, self.right_cache = lab, 0, False
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
            mistake = loading.known(names, self.own, given)
        first = found.first_computed_wrongly
        if first is None:
            return replace(found, causes=((mistake,),) if mistake else (), between=("", wrong[0]))
        right = [one.name for one in found.computed[: found.computed.index(first)]]
        config = self.task.probe.config
        found = replace(
            found,
            between=(where.last_before(first.name, right, config), first.name),
            where=where.sentence(first.name, first.at, first.found, right, config)
            + multiple(self.lab.run(()), first.name, self.own[first.name]),
            is_overwritten=not self.task.masks and is_overwritten(found, config),
        )
        if found.is_overwritten:
            return found
        found = replace(found, randomness=self.randomness(found))
        if found.randomness.dropped:  # and most ops seem to be wrong
            return replace(found, causes=((IN_EVALUATION,),))
        found = replace(found, wrong_ops=self.wrong_ops())
        found = self.with_causes(found)
        if mistake:
            found = replace(found, causes=tuple((mistake, *chain) for chain in found.causes))
        return found

    def with_causes(self, found: Diagnosis) -> Diagnosis:
        """Return the diagnosis with the causes of the wrong tensors but for parameters."""
        first, lab, own = found.first_computed_wrongly, self.lab, self.own
        assert first is not None
        if found.randomness.again and not lab.task.masks:  # is the first of the two explained?
            lab = without(lab, ("logits_again",))
        chains = self.find(lab, first.name)
        right_cache = self.right_cache
        cache = next((one for one in found.findings if one.name == "cached_logits"), None)
        if cache and cache.is_right:  # and no mistake of decoding makes up for one of forward
            chains = [chain for chain in chains if all(one.stage != "cache" for one in chain)]
        if not chains and cache and cache.is_right and cache is not first:
            # a decoding loop is often code of its own, which lacks the mistake
            chains = self.find(without(lab, (cache.name,)), first.name)
            right_cache = bool(chains)
        if not chains and found.randomness.again and lab.task.masks:
            chains = [(IN_EVALUATION,)]
        if self.reading.is_split:  # a head of its own, and no gradient that is missing
            chains = [chain for chain in chains if UNTIED in chain] or chains
        named = {one for chain in chains for one in chain}
        within = next(
            (kind for kind in ROUND for one in named & {*REGIONS} if kind in one.name), ""
        )
        if not chains and may_be_coarser(found):
            within = coarser.arithmetic(lab.run(()), own, first.name)
        moved = self.moved if chains else 0
        if moved or any(one.overwrites for one in named):  # ops have not read what was dumped
            found = replace(found, wrong_ops=())
        return replace(
            found,
            causes=tuple(chains),
            right_cache=right_cache,
            within=within,
            moved=moved,
            tell_apart=apart.tell_apart(lab, chains) if len(chains) > 1 else "",
        )

    def find(self, lab: Lab, first: str) -> list[causes.Chain]:
        """Return the chains that reproduce all tensors of a lab.

        Before the search for several mistakes: is a part of the model computed in 16 bits? Does the
        port read as the input of a layer what is another tensor with a mistake?
        """
        own, findings = self.own, self.found.findings
        right = next((one for one in findings if one.name == DECODED), None)

        def once_no_single_one_does() -> list[causes.Chain]:
            part = coarser.part(lab.run(()), own, first) if may_be_coarser(self.found) else None
            if part is not None:
                return [(part,)]
            if right and right.is_right and DECODED in lab.task.names and first != DECODED:
                chains = causes.find(without(lab, (DECODED,)), own, longest=1, changes=False)
                if chains:
                    self.right_cache = True
                    return chains
            moved = [name for name in lab.task.names if name in self.reading.inferred]
            if first not in moved:
                return []
            chains = causes.find(without(lab, moved), own, longest=1, changes=False)
            self.moved = len(moved) if chains else 0
            return chains

        is_finite = bool(np.isfinite(own[first][0]).all())  # what follows nan says little more
        longest = causes.LONGEST if is_finite else 1
        return causes.find(lab, own, longest=longest, otherwise=once_no_single_one_does)

    def randomness(self, found: Diagnosis) -> Randomness:
        """Return the signs that the port's forward pass is random."""
        if self.task.masks:  # which are known; evaluation alone may be random
            return Randomness(again=draws_again(found, self.own))
        computed = op_by_op.activations(self.task.probe, self.own)
        run, wrong = self.lab.run(()), {one.name for one in found.computed if not one.is_right}
        budget = run.budgets["logits"] if "logits" in wrong else None
        config, dropped = self.task.probe.config, self.reading.dropped
        return randomness.find(self.own, computed, dropped, config, budget)


def without(lab: Lab, names: Collection[str]) -> Lab:
    """Return a lab of the same task without some tensors."""
    rest = tuple(name for name in lab.task.names if name not in names)
    return Lab(replace(lab.task, names=rest))


def all_right(findings: Sequence[Finding]) -> bool:
    """Return True if all tensors are within their budgets."""
    return all(one.is_right for one in findings)


def better(by_values: Case, by_names: Case) -> Diagnosis:
    """Return the diagnosis of the reading with fewer wrong ops, or a later first wrong tensor.

    If the two are equal, that by names: a port that differs has loaded its parameters wrongly more
    often than it has given them the names of others. The other one is better if fewer mistakes
    explain it.
    """
    cases = by_values, by_names
    ops = [len(case.wrong_ops()) for case in cases]
    starts = [start_of(case) for case in cases]
    is_by_values = (ops[0], -starts[0]) < (ops[1], -starts[1])
    first, second = cases if is_by_values else cases[::-1]
    found = first.explain()
    if mistakes_of(found) == 1:
        return found
    other = second.explain()
    return other if mistakes_of(other) < mistakes_of(found) else found


def mistakes_of(found: Diagnosis) -> float:
    """Return the number of mistakes that explain a port, inf if none are known."""
    return min(map(len, found.causes), default=math.inf)


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
    follows = right.count("grad") == len([*named(shapes(config))]) and "loss" in right
    again = not {"logits_again", "cached_logits"} & wrong
    return bool(wrong) and wrong <= {"act", "dact", "logits"} and follows and again


def draws_again(found: Diagnosis, own: causes.Own) -> bool:
    """Return True if dropout alone makes two runs of the forward pass differ, and logits wrong."""
    wrong = {one.name for one in found.findings if not one.is_right}
    return (
        "logits" in wrong
        and wrong <= {"logits", "logits_again", "cached_logits"}
        and "logits_again" in own
        and not np.array_equal(own["logits"][0], own["logits_again"][0])
    )


def multiple(run: Run, name: str, own: Layouts) -> str:
    """Return a phrase if all numbers of a tensor are those of a run times one factor, or ""."""
    right = run.exact[name]
    found = closest(own, right)
    if step_of(name) or right.size < 2 or not (square := float(np.vdot(right, right))):
        return ""
    factor = float(np.vdot(right, found)) / square
    size = excess(found, factor * right, run.budgets[name] * max(1.0, abs(factor)))
    return f": its numbers are {factor:.4g} times the right ones" if (size <= 1).all() else ""


def may_be_coarser(found: Diagnosis) -> bool:
    """Return True if the first wrong tensor follows from products, unlike parameters and steps."""
    first = found.first_computed_wrongly
    computed = first is not None and not step_of(first.name)
    return computed and found.arithmetic == "float32"
