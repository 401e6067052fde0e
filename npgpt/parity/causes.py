"""Causes by reproduction: the mistakes with which GPT-2 computes all of the port's numbers.

A chain of mistakes is found greedily, in the order of computation: with each mistake, the first
tensor that is not reproduced must come later.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import combinations

import numpy as np

from npgpt.arrays import Array
from npgpt.config import Config
from npgpt.model.backend import OPS
from npgpt.model.params import named, shapes, size
from npgpt.parity import progress
from npgpt.parity.budget import MULTIPLE, Layouts, Run, Task, closest, distance, scale_of
from npgpt.parity.graph import has_inputs, ops_of
from npgpt.parity.mistakes import (
    CHANGES,
    COMMON,
    MISTAKES,
    VARIANTS,
    Mistake,
    dropout,
    micro_batches,
)
from npgpt.parity.order import STAGES, kind_of, stage_of, step_of
from npgpt.parity.port import RIGHT
from npgpt.parity.preview import Preview
from npgpt.parity.rounding import EPS

Chain = tuple[Mistake, ...]
Own = Mapping[str, Layouts]  # the port's tensors by canonical names
Starts = list[tuple[Chain, int]]  # with the index of the first tensor that a chain leaves wrong
LONGEST = 3  # mistakes of a chain
WIDTH = 4  # chains of each length that are continued: those that explain most
# How many budgets of the right port's a mistake may be off before its own budgets are measured
LOOSE, LOOSEST, LOOSE_16 = 20, 1000, 8  # LOOSEST: mistakes that round; LOOSE_16: ports in 16 bits
DECODED = "cached_logits"
KEPT = 1 << 20  # parameters of a model whose runs are kept
# Seconds of the processor for chains of several mistakes, and for those of a small model
PATIENCE, PATIENCE_SMALL = 20.0, 4.0
PATIENCE_CHANGES = 2.0  # and for changes of a line


class Lab:
    """GPT-2 with mistakes, on one task. Every run is kept."""

    def __init__(self, task: Task):
        self.task = task
        self.runs: dict[Chain, Run] = {}
        self.indices = {name: i for i, name in enumerate(task.names)}
        self.preview = Preview(task)
        self.size = size(task.probe.config)
        self.nan_from = len(task.names)  # from here on, what follows nan may be anything
        self.continued: set[Chain] = set()  # whose runs are kept

    @property
    def is_small(self) -> bool:
        """True for a model whose runs are kept."""
        return self.size <= KEPT

    @property
    def patience(self) -> float:
        """Seconds of the processor for chains of several mistakes."""
        return PATIENCE_SMALL if self.is_small else PATIENCE

    def computes(self, task: Task) -> bool:
        """Return True if a task has the runs of this one."""
        one, other = self.task, task
        return (
            one.probe.params is other.probe.params
            and one.probe.settings == other.probe.settings
            and (one.names, one.arithmetic) == (other.names, other.arithmetic)
            and not one.masks
            and not other.masks
        )

    def run(self, chain: Chain) -> Run:
        """Return the run with these mistakes."""
        if chain in self.runs:
            return self.runs[chain]
        port = RIGHT
        for mistake in chain:
            port = mistake.change(port)
        run = Run(port, self.task, self.run(()) if chain else None)
        if not chain or chain in self.continued or (len(chain) == 1 and self.is_small):
            self.runs[chain] = run
        return run

    def position(self, chain: Chain, own: Own, beyond: int = -1, *, partly: bool = True) -> int:
        """Return the index of the first tensor that a chain does not reproduce.

        The result is exact only if it is above `beyond`: most chains are rejected by a tensor that
        is far away, before their own budgets are measured. Without `partly`, it is exact only if
        there is no such tensor.
        """
        names = self.task.names
        loose = LOOSE if all(one.smooth for one in chain) else LOOSEST

        def near(name: str, x: Array, limit: float = loose) -> bool:
            """Compare a tensor with the port's, cached logits with those of the first tokens."""
            found = own[name]
            if name == DECODED:
                found = tuple(one[:, : x.shape[1]] for one in found)
            return self.is_near(name, x, found, limit)

        overwritten = any(one.overwrites for one in chain)  # activations: not known at once
        if beyond >= 0 and not self.is_small and not overwritten:
            early = self.preview.rejects(chain, beyond, own, near)
            if early is not None:
                return early
        run = self.run(chain)
        before = self.run(chain[:-1]).exact
        for name, exact in run.try_stream():
            index = self.indices[name]
            if index == beyond and np.array_equal(exact, before[name]):
                return index  # the last mistake does not change the tensor that must change
            decides = index <= beyond or not (partly or step_of(name))  # steps: of wide budgets
            if decides and not self.is_near(name, exact, own[name], loose):
                return index
        if run.fails:
            return -1
        if self.fits(run, own, self.run(()).budgets):
            return len(names)
        wrong = (i for i, name in enumerate(names) if self.factor(run, name, own) > 1)
        return next(wrong, len(names))

    def changes(self, mistake: Mistake, name: str) -> bool:
        """Return True if a mistake alone changes a tensor: one that does not is idle in a chain."""
        run, right = self.run((mistake,)), self.run(()).exact[name]
        for _ in run.try_stream() if name not in run.found else ():
            if name in run.found:
                break
        return name in run.found and not np.array_equal(run.found[name], right)

    def fits(self, run: Run, own: Own, budgets: Mapping[str, Array]) -> bool:
        """Return True if all tensors are within these budgets of a run's."""
        return all(self.factor(run, name, own, budgets) <= 1 for name in self.task.names)

    def factor(
        self, run: Run, name: str, own: Own, budgets: Mapping[str, Array] | None = None
    ) -> float:
        """Return the largest difference of a tensor from that of a run, in budgets."""
        return run.factor(name, self.finite(name, own[name], run.exact[name]), budgets)

    def finite(self, name: str, own: Layouts, exact: Array) -> Layouts:
        """Return a tensor with the exact numbers where one of the two is nan, after the first nan.

        There, 0 * nan is 0 in some programs, which leave out what is masked.
        """
        if self.indices[name] < self.nan_from or own[0].shape != exact.shape:
            return own
        return tuple(np.where(np.isfinite(one) & np.isfinite(exact), one, exact) for one in own)

    def closest(self, chains: list[Chain], own: Own) -> list[Chain]:
        """Return the chains that fit by budgets of their own too, if any does."""
        if len(chains) == 1:
            return chains
        runs = [self.run(chain) for chain in chains]
        fit = [self.fits(run, own, run.budgets) for run in runs]
        found = [chain for chain, fits in zip(chains, fit, strict=True) if fits or not any(fit)]
        exact = [chain for chain in found if all(one.smooth for one in chain)]  # of tight budgets
        return sorted(exact or found, key=lambda chain: STAGES.index(chain[0].stage))

    def is_near(self, name: str, exact: Array, own: Layouts, loose: float) -> bool:
        """Return True unless a tensor is far outside of any budget that a mistake may have."""
        if exact.shape != own[0].shape:
            return False
        own, kind = self.finite(name, own, exact), self.task.arithmetic
        smallest = MULTIPLE * EPS[kind] * scale_of(exact)
        loose = min(loose, LOOSE_16) if kind != "float32" else loose
        allowed = loose * np.maximum(self.run(()).budgets[name], smallest)
        return bool((distance(closest(own, exact), exact) <= allowed).all())


def find(
    lab: Lab,
    own: Own,
    *,
    longest: int = LONGEST,
    changes: bool = True,
    otherwise: Callable[[], list[Chain]] = list,
) -> list[Chain]:
    """Return the shortest chains that reproduce all tensors, none if there is no such chain.

    `changes`: of a line, too. `otherwise`: called once no single mistake is found. Its chains, if
    any, are the result.
    """
    lab.nan_from = len(lab.task.names)
    first = lab.position((), own)
    if not np.isfinite(own[lab.task.names[first]][0]).all():
        lab.nan_from = first + 1
    found, partial = alone(lab, own, first, changes=changes)
    if found := found or otherwise():
        return found
    if longest == 1:
        return []
    if not partial:
        return pairs(lab, own) if lab.is_small else []
    return together(lab, own, partial, longest)


def alone(lab: Lab, own: Own, first: int, *, changes: bool) -> tuple[list[Chain], Starts]:
    """Return the single mistakes that reproduce all tensors, and those that explain a part of them.

    `first`: the index of the first wrong tensor, which the second list explains.
    """
    is_late = step_of(lab.task.names[first]) > 1  # most of such mistakes are in the steps
    partial: Starts = []
    lab.continued = {()}
    for mistakes in (MISTAKES, VARIANTS, CHANGES if lab.is_small and changes else ()):
        of_lines = mistakes is CHANGES
        tried = extend(lab, own, mistakes, [((), first)])
        last = time.process_time() + PATIENCE_CHANGES if of_lines else np.inf
        found, more = attempt(lab, own, tried, last, partly=not of_lines)
        partial += more
        hidden = () if is_late or of_lines else mistakes
        if is_late and mistakes is VARIANTS and not found:
            hidden = (*MISTAKES, *VARIANTS)
        if found := [*found, *(one for one in quiet(hidden, lab, own, first) if one not in found)]:
            return fewest(lab, own, found), []
    return [], partial


def together(lab: Lab, own: Own, partial: Starts, longest: int) -> list[Chain]:
    """Return the shortest chains of several mistakes that reproduce all tensors, in limited time.

    `partial`: single mistakes that explain the first wrong tensor, and their first wrong ones.
    """
    end = time.process_time() + lab.patience
    for length in range(2, longest + 1):
        frontier = sorted(partial, key=lambda one: -one[1])[:WIDTH]
        lab.continued, partial = {chain for chain, _ in frontier}, []
        for mistakes in (MISTAKES, VARIANTS):
            tried = extend(lab, own, mistakes, frontier)
            found, more = attempt(lab, own, tried, end, partly=length < longest)
            partial += more
            if found:
                return fewest(lab, own, found)
        if time.process_time() > end:
            return []
    return []


def extend(lab: Lab, own: Own, mistakes: Sequence[Mistake], frontier: Starts) -> Starts:
    """Return the chains with one more mistake that may explain what the frontier's do not."""
    return [((*chain, one), start) for chain, start in frontier
            for one in candidates(mistakes, lab.task, own, chain, start)]  # fmt: skip


def attempt(
    lab: Lab, own: Own, tried: Starts, end: float, *, partly: bool
) -> tuple[list[Chain], Starts]:
    """Return the chains that reproduce all tensors, and those that reproduce more than before.

    end : time of the processor
    partly : False if the second list may be empty: most chains are then rejected early
    """
    found: dict[frozenset[Mistake], Chain] = {}
    partial: dict[frozenset[Mistake], tuple[Chain, int]] = {}
    for done, (chain, start) in enumerate(tried):
        if time.process_time() > end:
            break
        progress.tell(done, len(tried), min(lab.patience, end - time.process_time()))
        several = len(chain) > 1 and lab.is_small
        if several and not lab.changes(chain[-1], lab.task.names[start]):
            continue
        position = lab.position(chain, own, start, partly=partly)
        if position == len(lab.task.names):
            found.setdefault(frozenset(chain), chain)
        elif position > start:
            partial.setdefault(frozenset(chain), (chain, position))
    return [*found.values()], [*partial.values()] if partly else []


def fewest(lab: Lab, own: Own, chains: Sequence[Chain]) -> list[Chain]:
    """Return the chains that fit best, each once."""
    return without_equals(lab, without_twins(lab.closest(with_fewest_variants(chains), own)))


def quiet(mistakes: Sequence[Mistake], lab: Lab, own: Own, start: int) -> list[Chain]:
    """Return mistakes of an earlier stage whose results are right, that reproduce everything.

    At initial weights, another GELU changes the loss by less than rounding, and gradients by more;
    a backward of LayerNorm without the weight, which is 1, shows in the second step.
    """
    names = lab.task.names
    stages: tuple[str, ...] = ()
    if step_of(names[start]) > 1:
        stages = "forward", "loss", "backward"
    elif stage_of(names[start]) == "backward" and not {"act", "logits"} & {*map(kind_of, names)}:
        stages = ("forward", "loss") if "loss" in names[:start] else ()
    chains = [(one,) for one in mistakes if one.stage in stages and lab.is_small]
    return [one for one in chains if lab.position(one, own, start, partly=False) == len(names)]


def pairs(lab: Lab, own: Own) -> list[Chain]:
    """Return the pairs of common mistakes that reproduce a dump without activations.

    No tensor tells which of them is the first: the loss is wrong with either. All pairs of the
    catalogue would take a minute of the processor.
    """
    from_start = kind_of(lab.task.names[0]) == "loss" and lab.position((), own) == 0
    tried = [*combinations(COMMON, 2)] if from_start else []
    found: list[Chain] = []
    end = time.process_time() + PATIENCE_CHANGES
    for done, chain in enumerate(tried):
        if time.process_time() > end:
            break
        progress.tell(done, len(tried), PATIENCE_CHANGES)
        if lab.position(chain, own, 0, partly=False) == len(lab.task.names):
            found.append(chain)
    return lab.closest(found, own) if found else []


def candidates(
    mistakes: Sequence[Mistake], task: Task, own: Own, chain: Chain, start: int
) -> list[Mistake]:
    """Return the mistakes that can explain the first wrong tensor, which has the index `start`.

    None is of a later stage, or of one whose results are right. If all inputs of the tensor's op
    are right, none is in another op.
    """
    name, right = task.names[start], task.names[:start]
    config = task.probe.config
    whole = () if size(config) <= KEPT else ("cache",)  # stages whose variants take too long
    known = [one for one in right if len(own[one]) == 1]  # and not one of two layouts
    stages = STAGES[first_stage(known, config) : STAGES.index(stage_of(name)) + 1]
    if name == DECODED:  # which no loss, backward or step changes
        stages = tuple(one for one in stages if one in ("forward", "cache"))
    ops = set(OPS)
    if kind_of(name) in ("act", "dact", "grad") and has_inputs(name, right, config):
        ops = {*ops_of(name), "dropout"}
    others = {f"npgpt.ops.{op}" for op in OPS if op not in ops}
    return [
        one
        for one in mistakes
        if one.stage in stages
        and one not in chain
        and (task.masks or one.page != dropout.page.page or one.name in dropout.WITHOUT_MASKS)
        and not (len(task.probe.tokens) == 1 and one.name.startswith(micro_batches.PREFIX))
        and not (one.stage in whole and mistakes is VARIANTS)
        and (one.overwrites or any(edit.module not in others for edit in one.edits))
    ]


def first_stage(right: Sequence[str], config: Config) -> int:
    """Return the index of the first stage whose results are not among the right tensors."""
    if all(f"grad/{name}" in right for name, _ in named(shapes(config))):
        return STAGES.index("step")
    return STAGES.index(
        "backward" if "loss" in right else "loss" if "logits" in right else "forward"
    )


def with_fewest_variants(chains: Iterable[Chain]) -> list[Chain]:
    """Return the chains with most entries of the catalogue itself: a variant may equal an entry."""
    counts = {chain: sum(one not in MISTAKES for one in chain) for chain in chains}
    return [chain for chain, count in counts.items() if count == min(counts.values())]


def without_twins(chains: Sequence[Chain]) -> list[Chain]:
    """Return chains without those that differ from one before in an equivalent mistake only."""
    found: dict[frozenset[str], Chain] = {}
    for chain in chains:
        key = frozenset(min((one.name, *one.twins)) for one in chain)
        found.setdefault(key, chain)
    return list(found.values())


def without_equals(lab: Lab, chains: Sequence[Chain]) -> list[Chain]:
    """Return chains without changes of a line that compute the same numbers as one before."""
    found: list[Chain] = []
    for chain in chains:
        exact = lab.run(chain).exact
        if chain[-1] not in CHANGES or not any(
            all(np.allclose(x, lab.run(one).exact[name], rtol=1e-9) for name, x in exact.items())
            for one in found
        ):
            found.append(chain)
    return found
