"""Read an exercise's hints and known mistakes from its text file.

idea            a hint: indented lines, joined; so are `equation`, `line` and `symptom`
    x reaches every output.
mistake         and the cause as the learner reads it
    the matrix is not transposed
- weight.T      text of the solution's code, which occurs there once
+ weight        what replaces it; several lines of one kind are joined
@ linear_dx     the function, where several have the same text
"""

import functools
from pathlib import Path
from typing import NamedTuple

TEXTS = Path(__file__).parent / "texts"


class Mistake(NamedTuple):
    """A known way to be wrong: the solution with one piece of its text replaced."""

    says: str  # the cause, as the learner reads it
    right: str
    wrong: str
    function: str  # "": any


class Texts(NamedTuple):
    """The prose of an exercise."""

    hints: tuple[str, str, str]  # idea, equation, line
    mistakes: tuple[Mistake, ...]
    symptom: str


@functools.cache
def read_texts(name: str) -> Texts:
    """Return the hints and mistakes of the exercise `name`."""
    kind = "said"
    sections: list[tuple[str, dict[str, list[str]]]] = []
    for line in (TEXTS / f"{name}.txt").read_text("utf-8").splitlines():
        if line.startswith("    "):
            sections[-1][1][kind].append(line.strip() if kind == "said" else line)
        elif line[:2] in ("- ", "+ ", "@ "):
            kind = line[0]
            sections[-1][1][kind].append(line[2:])
        elif line:
            kind = "said"
            sections.append((line, {"said": [], "-": [], "+": [], "@": []}))
    said = {title: " ".join(parts["said"]) for title, parts in sections}
    mistakes = tuple(
        Mistake(" ".join(parts["said"]), *("\n".join(parts[sign]) for sign in "-+@"))
        for title, parts in sections
        if title == "mistake"
    )
    hints = said["idea"], said["equation"], said["line"]
    return Texts(hints, mistakes, said.get("symptom", ""))
