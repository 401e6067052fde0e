"""The tensors of a port beside the exact ones, in rounding budgets."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from npgpt.arrays import Array
from npgpt.model.params import named
from npgpt.parity.budget import Layouts, Run, closest, excess, largest_of
from npgpt.parity.order import stage_of
from npgpt.parity.probe import Probe
from npgpt.parity.rounding import EPS


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


def compare(run: Run, own: Mapping[str, Layouts], port_names: Mapping[str, str]) -> list[Finding]:
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
    own: Mapping[str, Layouts], probe: Probe, port_names: Mapping[str, str], arithmetic: str
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
