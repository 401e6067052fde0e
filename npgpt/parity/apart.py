"""The tensor that would tell several causes apart, if a port dumped it too."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from itertools import combinations

from npgpt.ops.linear_cross_entropy import IGNORED
from npgpt.parity.budget import Task
from npgpt.parity.causes import Chain, Lab
from npgpt.parity.order import INPUTS, all_names, kind_of

OTHER_BATCH = "a batch with ignored targets"


def tell_apart(lab: Lab, chains: Sequence[Chain]) -> str:
    """Return the tensor that is not in the dump and tells most of the chains apart, or "".

    If none does, another batch may.
    """
    probe = lab.task.probe
    names = list(all_names(probe.config, max(1, probe.settings.steps)))
    known = {*lab.task.names, "dact/logits"}  # which is part of the loss
    missing = [name for name in names if name not in known and kind_of(name) not in INPUTS]
    best = max(missing, key=(told := counts(lab.task, missing, chains)).__getitem__, default="")
    if best and told[best]:
        return best
    targets = probe.targets.copy()
    targets[0, : targets.shape[1] // 2] = IGNORED
    if (probe.targets != IGNORED).all() and lab.task.masks is None:
        task = replace(lab.task, probe=replace(probe, targets=targets))
        passes = [name for name in lab.task.names if kind_of(name) in ("loss", "grad")]
        return OTHER_BATCH if any(counts(task, passes, chains).values()) else ""
    return ""


def counts(task: Task, names: Collection[str], chains: Sequence[Chain]) -> dict[str, int]:
    """Return how many pairs of chains differ in each tensor by more than rounding."""
    lab = Lab(replace(task, names=tuple(names)))
    runs = [lab.run(chain) for chain in chains]
    return {
        name: sum(a.factor(name, (b.exact[name],)) > 1 for a, b in combinations(runs, 2))
        for name in names
    }
