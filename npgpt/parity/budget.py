"""Rounding budgets: how far a right port's numbers may be from the exact ones, per tensor.

    budget = MULTIPLE * max |float32 run - float64 run|

over RUNS float32 runs, whose parameters are off by up to one ulp. A port adds in another order, and
computes exp and tanh in other ways: its error is another draw of the same size. The largest error
of a single run can be small by chance: several runs prevent it, and errors below half an ulp of the
largest number count as half an ulp.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from npgpt.arrays import Array
from npgpt.model.params import Params, map_leaves, named, size
from npgpt.parity.compute import cast, tensors
from npgpt.parity.order import kind_of, step_of
from npgpt.parity.port import Port
from npgpt.parity.probe import Probe
from npgpt.parity.rounding import EPS, round_products
from npgpt.parity.step_budget import spreads

Layouts = tuple[Array, ...]  # of one tensor: several if the dump does not tell which is meant
RUNS = 3
LARGE = 1 << 20  # parameters
TINY = 1e-300
MULTIPLE = 8  # clean ports stay below 3: docs/find-the-bug.md#budgets


@dataclass(frozen=True, eq=False)
class Task:
    """A probe, and which of its tensors a port computed, in the order of computation, and how."""

    probe: Probe
    names: tuple[str, ...]
    masks: Mapping[str, Array] | None = None
    arithmetic: str = "float32"  # of the products, a key of EPS

    @property
    def wide(self) -> Probe:
        """The probe with parameters in float64."""
        return kept(WIDE, self.probe, lambda probe: cast(probe.params, np.float64))

    @cached_property
    def kinds(self) -> set[str]:
        """The kinds of these tensors, as `compute` takes them."""
        steps = max(map(step_of, self.names), default=0)
        kinds = {kind_of(name) for name in self.names if not step_of(name)}
        return kinds | ({f"after{steps}"} if steps else set())


class Run:
    """A port on a task: its exact numbers and their budgets, computed as far as they are read.

    right : the run of the right port. Its numbers are those of a layer that `port` leaves out.
    """

    def __init__(self, port: Port, task: Task, right: "Run | None" = None):
        self.port, self.task, self.right = port, task, right
        self.rough: Port | None = None  # whose float32 runs measure the budgets, if it is another
        self.found: dict[str, Array] = {}  # so far
        self.fails = False
        self.rest = self.compute(port, task.wide, np.float64)

    def stream(self) -> Iterator[tuple[str, Array]]:
        """Yield the numbers in float64 by name, as they are computed."""
        yield from tuple(self.found.items())
        for name, array in self.rest:
            self.found[name] = array
            yield name, array

    def try_stream(self) -> Iterator[tuple[str, Array]]:
        """Yield as `stream` does. Set `fails` in place of raising the error of a mistake.

        Two mistakes may be in the same lines, and not every mistake can compute every model:
        positions beyond the last, heads that do not divide the channels.
        """
        try:
            yield from self.stream()
        except MemoryError:  # is no property of the mistake
            raise
        except Exception:
            self.fails = True

    @cached_property
    def exact(self) -> dict[str, Array]:
        """The numbers in float64."""
        found = dict(self.stream())
        return found if self.right is None else self.right.exact | found

    @cached_property
    @np.errstate(all="ignore")  # a mistake's numbers may be beyond float32: inf - inf
    def budgets(self) -> dict[str, Array]:
        """The largest difference that rounding explains: one per tensor, after a step per element.

        An element after a step has, in addition, what the budgets of the gradients explain.
        """
        task = self.task
        port = self.rough or round_products(self.port, task.arithmetic)
        wide = replace(task, names=(*task.names, *self.gradients()))
        run = self if wide.names == task.names else Run(self.port, wide)
        exact, smallest = dict(run.stream()), EPS[task.arithmetic]
        errors = {name: [float(smallest * scale_of(x))] for name, x in exact.items()}
        rough = [dict(run.compute(port, nudge_parameters(task.probe, seed), np.float32))
                 for seed in range(runs_of(task.probe))]  # fmt: skip
        for name in exact:
            if not step_of(name):
                errors[name] += [scale_of(one[name] - exact[name]) for one in rough]
        found = {name: np.asarray(MULTIPLE * max(sizes)) for name, sizes in errors.items()}
        steps = {name: x for name, x in exact.items() if step_of(name)}
        spread = spreads(self.port, task.probe, steps, found, task.masks) if steps else {}
        for name, more in spread.items():
            rest = [largest_of(np.fmax(np.abs(one[name] - exact[name]) - more, 0)) for one in rough]
            found[name] = MULTIPLE * max(*errors[name], *rest) + more
        others = {} if self.right is None else self.right.budgets
        return {name: found[name] if name in found else others[name] for name in task.names}

    def gradients(self) -> list[str]:
        """Return the gradients that the budgets of the steps depend on and the dump has not."""
        names = self.task.names
        if not any(map(step_of, names)):
            return []
        full = (f"grad/{name}" for name, _ in named(self.task.probe.params))
        return [name for name in full if name not in names]

    def compute(self, port: Port, probe: Probe, dtype: Any) -> Iterator[tuple[str, Array]]:
        """Yield the tensors of the task as they are computed."""
        names = set(self.task.names)
        computed = tensors(port, probe, self.task.kinds, dtype=dtype, masks=self.task.masks)
        while True:
            with np.errstate(all="ignore"):  # not over a yield: it would hold in the caller
                found = next(computed, None)
            if found is None:
                return
            if found[0] in names:
                yield found

    def rounded(self, kind: str, names: tuple[str, ...]) -> "Run":
        """Return the run of the same port with products in 16 bits, beside its exact numbers."""
        other = Run(self.port, replace(self.task, names=names, arithmetic=kind))
        other.found, other.rest = {name: self.exact[name] for name in names}, iter(())
        return other

    def beside(self, port: Port) -> "Run":
        """Return the run of the same port, with budgets of what another port computes."""
        other = Run(self.port, self.task)
        other.found, other.rest, other.rough = dict(self.exact), iter(()), port
        return other

    def factor(
        self, name: str, found: Layouts, budgets: Mapping[str, Array] | None = None
    ) -> float:
        """Return the largest difference of a tensor from the exact one, in budgets."""
        budgets, exact = budgets or self.budgets, self.exact[name]
        if exact.shape != found[0].shape:
            return np.inf
        return largest_of(excess(closest(found, exact), exact, budgets[name]))


def runs_of(probe: Probe) -> int:
    """Return the number of float32 runs. A large tensor's largest error needs but one."""
    return RUNS if size(probe.config) <= LARGE else 1


def excess(found: Array, exact: Array, budget: Array) -> Array:
    """Return the difference of each element in budgets. That of a tensor of zeros is almost 0.

    A budget that is not finite, of numbers beyond float32, explains nothing.
    """
    size = distance(found, exact) / np.fmax(budget, TINY)
    return np.where(np.isfinite(budget), size, np.inf)


def distance(found: Array, exact: Array) -> Array:
    """Return the difference of each element: 0 where both are nan, or the same infinity."""
    size = np.abs(found - exact)
    if not np.isnan(size).any():
        return size
    return np.where((found == exact) | (np.isnan(found) & np.isnan(exact)), 0, size)


def closest(found: Layouts, exact: Array) -> Array:
    """Return the layout of a port's tensor that is closest to the exact one, of the same shape."""
    return min(found, key=lambda one: largest_of(one - exact)) if len(found) > 1 else found[0]


def largest_of(x: Array) -> float:
    """Return the largest absolute value, or inf if any number is nan."""
    found = float(np.abs(x).max(initial=0.0))
    return found if found == found else np.inf


def scale_of(x: Array) -> float:
    """Return the largest absolute value of those that are finite."""
    found = largest_of(x)
    return found if found < np.inf else largest_of(np.where(np.isfinite(x), x, 0))


def nudge_parameters(probe: Probe, seed: int) -> Probe:
    """Return the probe with each parameter one ulp of float32 up or down, or unchanged."""

    def nudged(probe: Probe) -> Params:
        rng = np.random.default_rng(seed)
        return map_leaves(probe.params, lambda leaf: nudge(leaf, rng))

    return kept(NUDGED[seed], probe, nudged)


# The same parameters for all runs of a probe, as long as it exists
Twins = WeakKeyDictionary[Probe, Probe]
WIDE: Twins = WeakKeyDictionary()
NUDGED: tuple[Twins, ...] = tuple(WeakKeyDictionary() for _ in range(RUNS))


def kept(twins: Twins, probe: Probe, change: Callable[[Probe], Params]) -> Probe:
    """Return a probe with other parameters, which is computed once."""
    if probe not in twins:
        twins[probe] = replace(probe, params=change(probe))
    return twins[probe]


def nudge(x: Array, rng: np.random.Generator) -> Array:
    """Return an array in float32, with each number one ulp up or down, or unchanged."""
    x = x.astype(np.float32)
    return x + rng.integers(-1, 2, x.shape, np.int8) * np.spacing(x)
