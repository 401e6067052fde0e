"""Answers to the exercises of npgpt learn, read from text files: right ones and wrong ones."""

import re
from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).parents[1] / "learn"


class Answer(NamedTuple):
    exercise: str
    expected: str  # a pattern that the verdict must match; "" of a right answer
    code: str


def read_answers(name: str) -> list[Answer]:
    """Read a file whose answers begin with "=== exercise | pattern"."""
    _, *parts = re.split(r"(?m)^=== ", (FOLDER / name).read_text("utf-8"))
    found = []
    for part in parts:
        head, code = part.split("\n", 1)
        exercise, _, expected = (one.strip() for one in head.partition(" | "))
        found.append(Answer(exercise, expected, f"import numpy as np\n\n{code}"))
    return found
