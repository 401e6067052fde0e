"""A learner's directory: one file per exercise, and one state file."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from npgpt.errors import InputError, show
from npgpt.learn.catalogue import ENTRIES, EXERCISES, Entry
from npgpt.learn.exercise import Exercise, stub
from npgpt.system.atomic import atomic_write, make_directory
from npgpt.system.files import read_input
from npgpt.system.shell import quote

STATE = ".npgpt-learn.json"
MAX_STATE = 1 << 20  # bytes
MAX_SOURCE = 1 << 20
NAMES = sorted({entry.name for entry in ENTRIES} | {one.name for one in EXERCISES})


class Workspace:
    """The files of a directory, and what was passed, hinted and asked for."""

    def __init__(self, directory: Path):
        self.directory = directory
        self.state: dict[str, dict[str, Any]] = {}

    def path(self, exercise: Exercise) -> Path:
        """Return the file of an exercise."""
        return self.directory / FILES[exercise.name]

    def passed(self, exercise: Exercise) -> bool:
        """Return True if the last check of an exercise passed."""
        return self.get(exercise, "passed") is True

    def is_done(self, entry: Entry) -> bool:
        """Return True if all parts of an entry are passed."""
        return all(map(self.passed, entry.exercises))

    def get(self, exercise: Exercise, key: str) -> Any:
        """Return a value of the state, or None."""
        return self.state.get(exercise.name, {}).get(key)

    def count(self, exercise: Exercise, key: str) -> int:
        """Return a count of the state: of hints, or of requests for the solution."""
        value = self.get(exercise, key)
        return value if isinstance(value, int) and 0 <= value < 1000 else 0

    def set(self, exercise: Exercise, **values: Any) -> None:
        """Change the state of an exercise and write the file."""
        self.state.setdefault(exercise.name, {}).update(values)
        with atomic_write(self.directory / STATE) as file:
            file.write(json.dumps({"version": 1, "exercises": self.state}, indent=1).encode())

    def is_touched(self, exercise: Exercise) -> bool:
        """Return True if the file of an exercise exists and is no longer the stub."""
        try:
            return self.path(exercise).read_bytes() != stub(exercise).encode()
        except OSError:
            return False

    def current(self) -> Exercise:
        """Return the exercise whose file was saved last, else the first that is not passed."""
        touched = [one for one in EXERCISES if self.is_touched(one)]
        if touched:
            return max(touched, key=lambda one: self.path(one).stat().st_mtime)
        return self.following() or EXERCISES[0]

    def following(self, exercise: Exercise | None = None) -> Exercise | None:
        """Return the first exercise after this one that is not passed, else the first of all."""
        start = EXERCISES.index(exercise) + 1 if exercise else 0
        order = (*EXERCISES[start:], *EXERCISES[:start])
        return next((one for one in order if not self.passed(one)), None)


FILES = {
    exercise.name: (
        f"{number:02}_{entry.name}.py"
        if len(entry.exercises) == 1
        else f"{number:02}_{entry.name}/{exercise.name}.py"
    )
    for number, entry in enumerate(ENTRIES, 1)
    for exercise in entry.exercises
}


def create(directory: Path) -> tuple[Workspace, int]:
    """Write all stubs that do not exist yet, and the state file. Return the number of stubs."""
    if directory.exists() and not directory.is_dir():
        raise InputError(f"{directory} must be a directory or a new path, but is a file")
    workspace = load(directory) if (directory / STATE).exists() else Workspace(directory)
    written = 0
    for exercise in EXERCISES:
        path = workspace.path(exercise)
        make_directory(path.parent)
        if not path.exists():
            with atomic_write(path) as file:
                file.write(stub(exercise).encode())
            written += 1
    workspace.set(EXERCISES[0])
    return workspace, written


def load(directory: Path) -> Workspace:
    """Return the workspace in a directory. Raise InputError if it has no state file."""
    path = directory / STATE
    if not path.exists():
        raise InputError(
            f"{directory} has no exercises: run npgpt learn init DIR, then work in DIR "
            "or name it with --dir"
        )
    advice = f"delete it ({quote(path)}); your answers are kept, and checking marks them again"
    try:
        found = json.loads(read_input(path, MAX_STATE))
        exercises = found["exercises"]
        if not isinstance(exercises, dict) or not all(
            isinstance(one, dict) for one in exercises.values()
        ):
            raise ValueError
    except (ValueError, TypeError, KeyError, RecursionError):
        raise InputError(f"{path} is not a state file of npgpt learn: {advice}") from None
    workspace = Workspace(directory)
    known = {one.name for one in EXERCISES}
    workspace.state = {name: one for name, one in exercises.items() if name in known}
    return workspace


def find(name: str) -> Sequence[Exercise]:
    """Return the exercises that a name, a number or a file stands for."""
    wanted = Path(name).stem.lower().replace("-", "_")
    for number, entry in enumerate(ENTRIES, 1):
        numbers = str(number), f"{number:02}"
        if wanted in (entry.name, f"{numbers[1]}_{entry.name}", *numbers):
            return entry.exercises
    for exercise in EXERCISES:
        if wanted == exercise.name:
            return [exercise]
    import difflib

    near = difflib.get_close_matches(wanted, NAMES, n=1)
    advice = f"did you mean {near[0]}?" if near else "npgpt learn list shows all names"
    raise InputError(f"unknown exercise {show(name)}: {advice}")
