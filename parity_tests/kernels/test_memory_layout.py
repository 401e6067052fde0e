"""The bits of a kernel do not depend on where its arrays lie in memory.

LLVM vectorises a loop that loads one array and stores to another behind a check of their addresses:
if the stored array begins less than some vectors after the loaded one, the loop runs element by
element. A sum then adds its terms in another order.
"""

import ast
from pathlib import Path

import pytest

import npgpt

FILES = [
    file
    for package in ("fused", "mixed", "kernels")
    for file in sorted((Path(npgpt.__file__).parent / package).glob("*.py"))
]


def sums(loop):
    """Return the names and elements to which a loop adds, the same one in every iteration."""
    variable = {node.id for node in ast.walk(loop.target) if isinstance(node, ast.Name)}
    changing = variable | {
        name.id
        for node in loop.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        for name in ast.walk(target)
        if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store)
    }
    found = []
    for node in loop.body:
        if isinstance(node, ast.AugAssign) and isinstance(node.op, ast.Add | ast.Sub):
            names = {name.id for name in ast.walk(node.target) if isinstance(name, ast.Name)}
            if not names & changing and not isinstance(node.value, ast.Constant):
                found.append(node.target)
    return found


def arrays(loop, context):
    """Return the names of the arrays that a loop indexes, to load (ast.Load) or to store."""
    return {
        node.value.id
        for node in ast.walk(loop)
        if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name)
        if isinstance(node.ctx, context)
    }


def problem(loop):
    """Return True for an innermost loop that sums, and stores to one of several arrays."""
    nested = sum(isinstance(node, ast.For | ast.While) for node in ast.walk(loop)) > 1
    stored = arrays(loop, ast.Store)
    several = len(stored | arrays(loop, ast.Load)) > 1
    return not nested and bool(sums(loop)) and bool(stored) and several


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_loop_that_sums_stores_nothing(file):
    """A loop over a single array may do both: its addresses need no check."""
    loops = [
        node for node in ast.walk(ast.parse(file.read_text("utf-8"))) if isinstance(node, ast.For)
    ]
    wrong = [f"{file}:{loop.lineno}" for loop in loops if problem(loop)]
    assert not wrong, "sum in a loop of its own: docs/kernels.md#sums-and-stores"


@pytest.mark.parametrize(
    ("body", "fails"),
    [
        ("total += x[c]", False),
        ("e = x[c]; x[c] = e; total += e", False),
        ("out[c] = x[c] * w[c]", False),
        ("out[c] += x[c]", False),
        ("out[c] = x[c]; total += out[c]", True),
        ("out[i] += x[c] * y[c]", True),
    ],
)
def test_what_the_rule_finds(body, fails):
    (loop,) = ast.parse(f"for c in range(C):\n    {body}").body
    assert problem(loop) == fails
