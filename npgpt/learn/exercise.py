"""An exercise: the function to write, its right answer, and known ways to be wrong."""

import ast
import functools
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from npgpt.arrays import Array
from npgpt.learn import runner
from npgpt.learn.sizes import Sizes
from npgpt.learn.texts import Mistake, Texts, read_texts

Arguments = dict[str, Any]
Summands = Mapping[str, Array]
SOLUTIONS = Path(__file__).parent / "solutions"


@dataclass(frozen=True)
class Case:
    """One call of a function of the exercise.

    `extra` are numbers that the forward pass needs beside the arguments. `about` says what the
    case adds to the first one. `each` names an argument whose values are passed one by one.
    """

    arguments: Arguments
    extra: Arguments = field(default_factory=dict)
    function: str = ""
    each: str | None = None
    about: str = ""


class Region(NamedTuple):
    """A set of elements that has a name: the masked ones, say."""

    says: str
    mask: Array  # bool


@dataclass(frozen=True, eq=False)
class Exercise:
    """One exercise.

    `results` names the results of each function, `axes` the axes of each result: "B T H*D". The
    gradient `results[i]` is that of the argument `inputs[...]` of `loss`. `summands` are the terms
    of the right answer, by result. `quantities` are arrays by which a row or column may be off.
    """

    name: str
    title: str
    results: Mapping[str, tuple[str, ...]]  # by function; the first function is the main one
    axes: Mapping[str, str]
    cases: Callable[[Sizes], list[Case]]
    source: str = ""  # file in solutions/, if it is not `name`
    changes: tuple[str, ...] = ()  # arguments that are the result: written in place
    adds: tuple[str, ...] = ()  # of these, the ones that are added to
    inputs: Mapping[str, str] = field(default_factory=dict)
    loss: Callable[[Arguments], Any] | None = None
    summands: Callable[[Arguments], Mapping[str, Summands]] | None = None
    quantities: Callable[[Arguments], Mapping[str, Array]] | None = None
    regions: Callable[[Arguments], Mapping[str, list[Region]]] | None = None
    observe: Callable[[Arguments, Array], str | None] | None = None  # a rule of its own
    factors: str = ""  # names of sizes whose powers may be a wrong factor: "B T"
    kinds: Mapping[str, str] = field(default_factory=dict)  # of results that are not arrays
    causes: Mapping[float, str] = field(default_factory=dict)  # factors with a text of their own
    broken: bool = False  # a port with the one mistake of its text file in it
    tolerance: float = 1e-7  # relative to the largest number of the result

    @property
    def functions(self) -> tuple[str, ...]:
        """The names of the functions to write, in order."""
        return tuple(self.results)

    @functools.cached_property
    def solution(self) -> str:
        """The text of the solution."""
        return (SOLUTIONS / f"{self.source or self.name}.py").read_text("utf-8")

    @property
    def texts(self) -> Texts:
        """The hints and the known mistakes."""
        return read_texts(self.name)

    def function_of(self, case: Case) -> str:
        """Return the name of the function that a case calls."""
        return case.function or self.functions[0]

    def mistaken(self, mistake: Mistake) -> str:
        """Return the solution with a mistake in it."""
        source = replace_once(self.solution, mistake)
        return source if "import numpy" in source else f"import numpy as np\n\n{source}"


def replace_once(source: str, mistake: Mistake) -> str:
    """Return a source with a mistake in it, whose right text must occur once in the code."""
    found = []
    for name, (start, end) in bodies(source).items():
        if mistake.function in ("", name):
            at = [i for i in range(start, end) if source.startswith(mistake.right, i)]
            found += at
    if len(found) != 1:
        raise ValueError(f"{mistake.right!r} occurs {len(found)} times")
    start = found[0]
    return source[:start] + mistake.wrong + source[start + len(mistake.right) :]


def bodies(source: str) -> dict[str, tuple[int, int]]:
    """Return the first and last character of each function's code, without its docstring."""
    lines = source.splitlines(keepends=True)

    def offset(line: int) -> int:
        return sum(map(len, lines[:line]))

    return {
        node.name: (offset(node.body[0].end_lineno or 0), offset(node.end_lineno or 0))
        for node in ast.parse(source).body
        if isinstance(node, ast.FunctionDef)
    }


def span(source: str, function: str) -> tuple[int, int]:
    """Return the first and last character of a function in a source."""
    return source.index(f"def {function}("), bodies(source)[function][1]


def stub(exercise: Exercise) -> str:
    """Return the file that the learner fills: the solution without its lines of code.

    A broken port is the solution with one line replaced.
    """
    source = exercise.solution
    if exercise.broken:
        (mistake,) = exercise.texts.mistakes
        symptom = textwrap.fill(exercise.texts.symptom, 100)
        return replace_once(source, mistake).replace("SYMPTOM", symptom)
    lines = source.splitlines()
    for node in reversed(ast.parse(source).body):
        if isinstance(node, ast.FunctionDef) and node.name in exercise.functions:
            first, last = node.body[0], node.body[-1]
            assert first.end_lineno and last.end_lineno
            empty = f'    raise NotImplementedError("{runner.STUB}")'
            lines[first.end_lineno : last.end_lineno] = [empty]
    if "import numpy as np" not in lines:
        first = ast.parse(source).body[0]
        assert first.end_lineno
        lines[first.end_lineno : first.end_lineno] = ["", "import numpy as np"]
    return "\n".join(lines) + "\n"


def shown_solution(exercise: Exercise) -> str:
    """Return the lines that solve an exercise; of a broken port, the wrong and the right one."""
    if exercise.broken:
        (mistake,) = exercise.texts.mistakes
        return f"wrong:\n{mistake.wrong}\n\nright:\n{mistake.right}\n"
    source = exercise.solution
    return "\n\n".join(source[slice(*span(source, name))] for name in exercise.functions)
