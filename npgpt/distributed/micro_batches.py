"""The cut of a step's batch into micro-batches, which ranks share evenly.

A step has R = batch_size x grad_accumulation windows: the global batch. It is cut into M
micro-batches, whose sizes differ by at most one window. M is grad_accumulation if that is a
multiple of the parts, and else the least common multiple of the two:

    parts = V leaves, if the run is deterministic: M does not depend on the number of ranks
    parts = N ranks, if it is not

So a batch that is not accumulated is cut by its windows.
"""

import math

from npgpt.config import TrainingConfig
from npgpt.errors import InputError

SHOWN = 8  # numbers of ranks in a message


def count_windows(training: TrainingConfig) -> int:
    """Return R, the number of windows in a step."""
    return training.batch_size * training.grad_accumulation


def count_parts(training: TrainingConfig, size: int) -> int:
    """Return the number of partial sums: V, or the number of ranks N."""
    return training.leaves if training.deterministic else size


def count_micro_batches(training: TrainingConfig, size: int) -> int:
    """Return M for N = `size` ranks. Raise InputError if they cannot share a step evenly."""
    windows, leaves = count_windows(training), training.leaves
    made_of = f"batch size {training.batch_size}, accumulation {training.grad_accumulation}"
    if training.deterministic and math.lcm(training.grad_accumulation, leaves) > windows:
        raise InputError(
            f"leaves is {leaves}, but a step has {windows} windows ({made_of}), too few for as "
            "many micro-batches: use a larger batch size, or fewer leaves"
        )
    if not fits(training, size):
        fitting = [n for n in range(1, windows + 1) if fits(training, n)]
        shared = f"a step of {windows} windows ({made_of})"
        shared += f" and {leaves} leaves" if training.deterministic else ""
        shown = fitting[-SHOWN:] if size > windows else nearest(fitting, size)
        raise InputError(
            f"{size} ranks cannot share {shared} evenly: start {' or '.join(map(str, shown))}, "
            "or change the batch size"
        )
    return math.lcm(training.grad_accumulation, count_parts(training, size))


def fits(training: TrainingConfig, size: int) -> bool:
    """Return True if `size` ranks can share a step evenly."""
    if training.deterministic:
        return training.leaves % size == 0
    return math.lcm(training.grad_accumulation, size) <= count_windows(training)


def nearest(numbers: list[int], target: int) -> list[int]:
    """Return the SHOWN numbers that are nearest to `target`, in order."""
    return sorted(sorted(numbers, key=lambda number: abs(number - target))[:SHOWN])


def describe(training: TrainingConfig, size: int) -> str:
    """Return how the windows of a step are shared."""
    windows, count = count_windows(training), count_micro_batches(training, size)
    each = f"{windows // count}" + (f" or {windows // count + 1}" if windows % count else "")
    plural = "" if each == "1" else "s"
    return (
        f"{windows} windows a step in {count} micro-batches of {each} window{plural}, "
        f"{count // size} for each rank"
    )
