"""The formula of an op, from its docstring, and the code that computes it."""

import inspect
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import npgpt
from npgpt.model import block

RESIDUAL = "x = x + layer(x)        backward: dx = dx + dlayer(x)"
SUMS = "np.add(dx, dh"  # the lines of npgpt/model/block.py where two gradients meet


class Code(NamedTuple):
    """Lines of one file."""

    file: str  # "npgpt/ops/linear.py"
    line: int  # number of the first one, from 1
    text: str
    highlighted: tuple[int, ...] = ()  # numbers of the lines that matter


def formula(module: ModuleType | None) -> str:
    """Return the indented lines of an op's docstring, and those of the residual stream for None.

    A docstring without any begins with the formula.
    """
    if module is None:
        return RESIDUAL
    paragraphs = (inspect.getdoc(module) or "").split("\n\n")
    indented = [text for text in paragraphs if text.startswith("    ")]
    if not indented:
        return paragraphs[0].partition(",")[0]
    return "\n\n".join(inspect.cleandoc("\n" + text) for text in indented)


@cache
def code(function: Callable) -> Code:
    """Return the source of a function. It is empty if there is none, as of a compiled one."""
    try:
        lines, first = inspect.getsourcelines(function)
        path = Path(inspect.getsourcefile(function) or "")
    except (OSError, TypeError):
        return Code("", 0, "")
    root = Path(npgpt.__file__).parents[1]
    if path.is_relative_to(root):
        path = path.relative_to(root)
    return Code(path.as_posix(), first, "".join(lines))


def backward_of(op: Any) -> tuple[Code, ...]:
    """Return the code of an op's backward; of the head, that of its forward too.

    The head computes its gradient in forward.
    """
    parts = ("forward", "backward") if hasattr(op, "evaluate") else ("backward",)
    return tuple(code(getattr(op, part)) for part in parts)


def residual(first: bool) -> Code:
    """Return the code of a block's backward, with the first or the second sum highlighted."""
    whole = code(block.backward)
    lines = enumerate(whole.text.splitlines(), whole.line)
    sums = [number for number, line in lines if SUMS in line]
    return whole._replace(highlighted=(sums[0 if first else 1],))
