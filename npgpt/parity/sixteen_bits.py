"""Tell whether a port computes in 16 bits, or rounds to them at one point alone: a mistake."""

from dataclasses import replace

from npgpt.parity import causes
from npgpt.parity.budget import Task
from npgpt.parity.causes import Lab
from npgpt.parity.mistakes import MISTAKES

PAGE = "docs/backprop/precision.md"
ARITHMETIC = "matmul-in-"  # entries that are an arithmetic of products


def arithmetic_of(task: Task, own: causes.Own) -> Task:
    """Return a task whose 16 bits were recognized; in float32 if they are those of a mistake.

    From gradients alone, both look the same: but products in 16 bits have errors that are larger
    than those of rounding their results.
    """
    exact = replace(task, arithmetic="float32")
    return (
        exact if task.arithmetic != "float32" and is_mistake(exact, task.arithmetic, own) else task
    )


def is_mistake(task: Task, kind: str, own: causes.Own) -> bool:
    """Return True if products in float32, and one mistake that rounds, compute a port's numbers."""
    lab, names = Lab(task), task.names
    start = lab.position((), own)
    return start < len(names) and any(
        lab.position((one,), own, start) == len(names)
        for one in MISTAKES
        if one.page == PAGE and kind in one.name and not one.name.startswith(ARITHMETIC)
    )
