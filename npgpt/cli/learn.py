"""npgpt learn."""

import shutil
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Optional

import tyro

from npgpt.cli.common import default
from npgpt.errors import InputError
from npgpt.system.shell import quote
from npgpt.system.terminal import printable_text

if TYPE_CHECKING:
    from npgpt.learn.exercise import Exercise
    from npgpt.learn.workspace import Workspace

Action = Literal["init", "check", "watch", "hint", "solution", "list"]

Name = Annotated[Optional[str], default("the file saved last", "NAME")]  # noqa: UP045


@dataclass(kw_only=True)
class Learn:
    """Learn backpropagation with 25 exercises. The check names the cause of a wrong answer.

    Exit status of check: 0 if the answer is right, 1 if not, 2 for invalid input. That of solution
    is 1 if it is not shown yet.

    Parameters
    ----------
    action
        init DIR writes the exercises. check [NAME] checks one, by default the file saved last.
        watch checks each file that is saved. hint [NAME] gives one hint more. solution [NAME] shows
        npgpt's own, after yours has passed or when asked twice. list shows all.
    name
        An exercise by its name, number or file; of init, the directory.
    dir
        The directory of the exercises.
    """

    action: tyro.conf.Positional[Action]
    name: tyro.conf.Positional[Name] = None
    dir: Path = Path(".")

    def run(self) -> int:
        """Do what `action` names; return the exit status."""
        from npgpt.learn import workspace

        if self.action == "init":
            return init(Path(self.name) if self.name else self.dir)
        where = workspace.load(self.dir)
        if self.action == "list":
            return show_list(where)
        if self.action == "watch":
            return watch(where)
        exercises = workspace.find(self.name) if self.name else [where.current()]
        if self.action == "check":
            return max(check(where, exercise) for exercise in exercises)
        if self.action == "solution":
            return max(solution(where, exercise) for exercise in exercises)
        for exercise in exercises:
            hint(where, exercise)
        return 0


def init(directory: Path) -> int:
    """Write the exercises into a directory."""
    from npgpt.learn import workspace
    from npgpt.learn.catalogue import ENTRIES, EXERCISES

    where, written = workspace.create(directory)
    if not written:
        print(f"{directory} has all {len(ENTRIES)} exercises; nothing was changed.")
    else:
        kept = "" if written == len(EXERCISES) else "; files that existed were kept"
        print(f"{len(ENTRIES)} exercises are in {directory}{kept}.")
    first = where.following()
    if directory.resolve() != Path.cwd():
        print(f"  cd {quote(directory)}")
    if first:
        print(f"Open {where.path(first).name}, write its function, then:\n  npgpt learn check")
    return 0


def check(where: "Workspace", exercise: "Exercise") -> int:
    """Check one file, print the verdict and keep it; return 0 if it passed."""
    from npgpt.learn.check import PASSED, check_file

    path = where.path(exercise)
    if not path.is_file():
        again = f"npgpt learn init {quote(where.directory)}"
        raise InputError(f"{path} does not exist: {again} writes it anew")
    verdict = check_file(exercise, path)
    if verdict.printed.strip():
        print(f"{path.name} prints:")
        print(printable_text(verdict.printed.rstrip(), sys.stdout))
        print()
    passed = verdict.status == PASSED
    for line in verdict.text.splitlines():
        print(printable_text(wrapped(line), sys.stdout))
    if passed != where.passed(exercise):
        where.set(exercise, passed=passed)
    if not passed:
        print(f"npgpt learn hint {exercise.name} gives a hint.")
        return 1
    print(f"npgpt learn solution {exercise.name} shows npgpt's own.")
    if following := where.following(exercise):
        print(f"Next: {following.title}, in {where.path(following).relative_to(where.directory)}")
    else:
        print("All exercises are passed. You have written GPT-2, forward and backward.")
    return 0


def wrapped(line: str) -> str:
    """Return a cause or a note in lines of the terminal's width; other lines as they are."""
    if not line.startswith(("cause: ", "note: ")):
        return line
    indent = " " * (line.index(":") + 2)
    return textwrap.fill(line, width(), subsequent_indent=indent, break_long_words=False)


def width() -> int:
    """Return the width of text: that of the terminal, and at most 100."""
    return min(100, shutil.get_terminal_size().columns)


def watch(where: "Workspace") -> int:
    """Check each file when it is saved, until Ctrl-C."""
    from npgpt.learn.catalogue import EXERCISES
    from npgpt.learn.watch import changes

    files = {where.path(exercise): exercise for exercise in EXERCISES}
    print(f"Watching {len(files)} files. Save one to check it; Ctrl-C ends.", flush=True)
    for path in changes(files):
        print(f"\n--- {path.name}")
        check(where, files[path])
        sys.stdout.flush()
    return 0


def hint(where: "Workspace", exercise: "Exercise") -> None:
    """Print one hint more than the last time."""
    hints = exercise.texts.hints
    shown = min(where.count(exercise, "hints") + 1, len(hints))
    if shown != where.count(exercise, "hints"):
        where.set(exercise, hints=shown)
    print(f"{exercise.name}, hint {shown} of {len(hints)}:")
    for kind, text in list(zip(("idea", "equation", "line"), hints, strict=True))[:shown]:
        lines = textwrap.wrap(text, width() - 12)
        print(f"  {kind + ':':<10}" + f"\n{' ' * 12}".join(lines))
    if shown < len(hints):
        print(f"Once more for the next: npgpt learn hint {exercise.name}")


def solution(where: "Workspace", exercise: "Exercise") -> int:
    """Print the solution, if the exercise is passed or it was asked for before; else return 1."""
    from npgpt.learn.exercise import shown_solution

    asked = where.count(exercise, "asked")
    if not where.passed(exercise) and not asked:
        where.set(exercise, asked=asked + 1)
        print(f"{exercise.name} is not passed yet. A hint: npgpt learn hint {exercise.name}")
        print(f"To see the solution all the same: npgpt learn solution {exercise.name}")
        return 1
    print(shown_solution(exercise), end="")
    return 0


def show_list(where: "Workspace") -> int:
    """Print all exercises and their state."""
    from npgpt.learn.catalogue import ENTRIES
    from npgpt.learn.workspace import NAMES

    longest = max(map(len, NAMES)) + 2
    for number, entry in enumerate(ENTRIES, 1):
        print(f"{mark(where.is_done(entry))} {number:>2}  {entry.name:<{longest}}{entry.title}")
        if len(entry.exercises) > 1:
            for part in entry.exercises:
                print(f"{mark(where.passed(part))}       {part.name:<{longest - 3}}{part.title}")
    done = sum(map(where.is_done, ENTRIES))
    print(f"{done} of {len(ENTRIES)} passed")
    return 0


def mark(passed: bool) -> str:
    """Return the sign in front of a line of the list."""
    return "+" if passed else " "
