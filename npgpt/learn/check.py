"""Check a learner's answers: the contract, the shapes, then the numbers and their cause."""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from npgpt.arrays import Array
from npgpt.learn import contract, recognise, runner, sandbox, sizes
from npgpt.learn.exercise import Case, Exercise
from npgpt.learn.recognise import Mistaken, Question, wrong_elements
from npgpt.learn.sandbox import Outcome
from npgpt.learn.slope import slope

PASSED, STUB, WRONG, FAILED = "passed", "not written yet", "wrong", "failed"
AGAIN = "a second call with the same arguments"
SINGLE = "arguments of float32"
RESIZED = "other sizes"
HARD_CODED = "is a size written as a number? Take it from the shape of an argument"
TOLERANCE = {np.dtype(np.float32): 1e-3}  # of the largest number; else the exercise's own


@dataclass
class Verdict:
    """The result of a check."""

    exercise: Exercise
    status: str = PASSED
    lines: list[str] = field(default_factory=list)
    cause: str | None = None
    notes: list[str] = field(default_factory=list)
    printed: str = ""

    @property
    def text(self) -> str:
        """Return the verdict as the learner reads it."""
        cause = [f"cause: {self.cause}"] if self.cause else []
        notes = [f"note: {note}" for note in self.notes]
        return "\n".join([f"{self.exercise.name}: {self.status}", *self.lines, *cause, *notes])


def check_file(exercise: Exercise, path: Path, seconds: float = sandbox.SECONDS) -> Verdict:
    """Check a file, in a process of its own."""
    return check(exercise, lambda calls: sandbox.run_file(path, calls, seconds))


def check_source(exercise: Exercise, source: str) -> Verdict:
    """Check a text in this process. For tests: its author is trusted."""

    def run(calls: list[dict[str, Any]]) -> Outcome:
        reply = runner.run(source, "answer.py", calls)
        return Outcome(runner.decode(runner.encode(reply)), "")  # as it passes between processes

    return check(exercise, run)


def check(exercise: Exercise, run: Callable[[list[dict[str, Any]]], Outcome]) -> Verdict:
    """Call the learner's functions by `run`, and compare the answers with the right ones."""
    cases, _ = plan(exercise)
    outcome = run([call_of(exercise, case) for case in cases])
    verdict = Verdict(exercise, printed=outcome.printed)
    reply = outcome.reply
    if reply is None or not isinstance(reply.get("answers"), list):
        verdict.status, verdict.lines = FAILED, [f"There is no answer: {outcome.ended}."]
        return verdict
    answers = reply["answers"][: len(cases)]
    with np.errstate(all="ignore"):  # of -inf, and of any number of the learner's
        if not all(grade(verdict, answers, i) for i in range(len(answers))):
            return verdict
    if reply.get("error"):
        report_error(verdict, reply, cases, outcome.ended)
    return verdict


def call_of(exercise: Exercise, case: Case) -> dict[str, Any]:
    """Return a case as the runner reads it."""
    return {
        "function": exercise.function_of(case),
        "arguments": case.arguments,
        "each": case.each,
        "quiet": case.about in (AGAIN, SINGLE, RESIZED),
    }


@functools.lru_cache(maxsize=64)
def plan(exercise: Exercise) -> tuple[list[Case], list[Any]]:
    """Return all calls of an exercise, with the right answers.

    These are its cases; the first of each function twice, in float32, and with other sizes.
    """
    cases = exercise.cases(sizes.USUAL)
    firsts = first_cases(exercise, cases)
    others = first_cases(exercise, exercise.cases(sizes.OTHER))
    for name in exercise.functions:
        first = firsts[name]
        cases.append(replace(first, about=AGAIN))
        if first.each is None and not exercise.broken:
            cases.append(replace(others[name], about=RESIZED))
        if first.each is None:
            cases.append(replace(first, arguments=to_float32(first.arguments), about=SINGLE))
    cases.sort(key=lambda case: exercise.functions.index(exercise.function_of(case)))
    return cases, answers_of(exercise, exercise.solution, cases)


def first_cases(exercise: Exercise, cases: list[Case]) -> dict[str, Case]:
    """Return the first case of each function."""
    return {exercise.function_of(case): case for case in reversed(cases)}


def answers_of(exercise: Exercise, source: str, cases: list[Case]) -> list[Any]:
    """Run a solution, or one with a mistake, on these cases."""
    reply = runner.run(source, f"<{exercise.name}>", [call_of(exercise, case) for case in cases])
    answers: list[Any] = reply["answers"]
    return answers


def to_float32(value: Any) -> Any:
    """Return an argument with all arrays of float64 in float32."""
    if isinstance(value, dict):
        return {name: to_float32(one) for name, one in value.items()}
    if isinstance(value, list):
        return [to_float32(one) for one in value]
    if isinstance(value, np.ndarray) and value.dtype == np.float64:
        return value.astype(np.float32)
    return value


def report_error(verdict: Verdict, reply: dict[str, Any], cases: list[Case], limit: str) -> None:
    """Put the error that stopped the learner's code into the verdict."""
    case = cases[min(len(reply["answers"]), len(cases) - 1)]
    function = verdict.exercise.function_of(case)
    text = str(reply.get("text", "")).rstrip()
    match reply["error"]:
        case "stub":
            verdict.status = STUB
            if len(verdict.exercise.functions) > 1:
                verdict.lines = [f"The next function to write is {function}."]
        case "missing":
            verdict.status = FAILED
            verdict.lines = [f"The file has no function {function}. Keep its name as in the stub."]
        case "time":
            where = function if reply.get("called") else "reading the file"
            verdict.status = FAILED
            verdict.lines = [
                f"{limit}: {where} takes milliseconds; look for a loop without an end.",
                *text.splitlines(),
            ]
        case _:
            verdict.status = FAILED
            verdict.lines = text.splitlines()
            if not reply.get("called"):  # the file itself has failed
                return
            given = contract.signature(case)
            verdict.lines.append(f"It was called {contract.when(case.about)}with {given}.")
            verdict.cause = HARD_CODED if case.about == RESIZED else None


def grade(verdict: Verdict, answers: list[Any], index: int) -> bool:
    """Compare one answer with the right one. Return False if it is wrong."""
    exercise = verdict.exercise
    cases, right = plan(exercise)
    case, answer = cases[index], answers[index]
    told = contract.read_answer(exercise, case, answer)
    if isinstance(told, str):
        return reject(verdict, case, [told], None)
    expected = contract.read_answer(exercise, case, right[index])
    assert not isinstance(expected, str)
    if said := contract.changed_argument(exercise, case, answer[1]):
        return reject(verdict, case, [], said)
    if said := contract.structure(told, expected, exercise.tolerance):
        return reject(verdict, case, [said], None)
    for name, one in expected.items():
        shape_cause = contract.shape(exercise, name, told[name], one)
        if shape_cause and case.about == RESIZED:
            return reject(verdict, case, shape_cause[0], HARD_CODED)
        if shape_cause:
            return reject(verdict, case, *shape_cause)
        if said := contract.dtype(name, told[name], one, verdict.notes):
            return reject(verdict, case, [said], None)
    known = functools.partial(mistaken, exercise, answers, index)
    return grade_numbers(verdict, case, told, expected, known)


def grade_numbers(
    verdict: Verdict,
    case: Case,
    told: dict[str, Array],
    expected: dict[str, Array],
    known: Callable[[], Iterator[Mistaken]],
) -> bool:
    """Compare the numbers of all results. Return False if one is wrong."""
    exercise = verdict.exercise
    tolerance = tolerance_of(exercise, case)
    wrong = {
        name: mask for name, one in expected.items()
        if (mask := wrong_elements(told[name], one, tolerance)).any()
    }  # fmt: skip
    if not wrong:
        return True
    if case.about == AGAIN:
        said = "A second call with the same arguments gives other numbers."
        return reject(verdict, case, [said], "a call must not depend on the calls before it")
    if case.about == RESIZED:
        said = "With arguments of other sizes, the numbers are wrong."
        return reject(verdict, case, [said], HARD_CODED)
    name = next(iter(wrong))
    question = Question(exercise, case, name, told[name], expected[name], known, told, expected)
    lines = []
    if len(expected) > 1:
        good = [one for one in expected if one not in wrong]
        lines.append(f"right: {names(good) if good else 'none'}; wrong: {names(list(wrong))}")
    lines += describe(question, wrong[name])
    return reject(verdict, case, lines, recognise.cause(question))


def mistaken(exercise: Exercise, learners: list[Any], index: int) -> Iterator[Mistaken]:
    """Yield all known mistakes with their answers to the call `index`.

    `learners`: the answers to all calls, of which a mistake may give every one.
    """
    cases, right = plan(exercise)
    if exercise.broken:  # its mistake is the solution
        return

    def read(answers: list[Any], i: int) -> dict[str, Array]:
        told = contract.read_answer(exercise, cases[i], answers[i])
        return {} if isinstance(told, str) else told

    def equal(some: list[Any], others: list[Any], i: int) -> bool:
        tolerance, told = tolerance_of(exercise, cases[i]), read(others, i)
        return all(
            recognise.agree(told[name], one, tolerance)
            for name, one in read(some, i).items()
            if name in told
        )

    count = len(learners)
    passed = functools.cache(lambda: [i for i in range(count) if equal(right, learners, i)])

    def possible(answers: list[Any]) -> bool:
        return all(equal(right, answers, i) for i in passed() if i < len(answers))

    def gives_all(answers: list[Any]) -> bool:
        return all(equal(answers, learners, i) for i in range(min(count, len(answers))))

    for i, mistake in enumerate(exercise.texts.mistakes):
        answers = mistaken_answers(exercise, i)
        if index < len(answers):
            told = (functools.partial(one, answers) for one in (possible, gives_all))
            yield Mistaken(mistake.says, read(answers, index), *told)


def tolerance_of(exercise: Exercise, case: Case) -> float:
    """Return the tolerance of a case, relative to the largest number."""
    return TOLERANCE.get(first_float(case.arguments), exercise.tolerance)


@functools.lru_cache(maxsize=1024)
def mistaken_answers(exercise: Exercise, i: int) -> list[Any]:
    """Return the answers that a known mistake gives to all calls."""
    cases, _ = plan(exercise)
    return answers_of(exercise, exercise.mistaken(exercise.texts.mistakes[i]), cases)


def describe(question: Question, wrong: Array) -> list[str]:
    """Return how many numbers are wrong, the first of them, and the slope measured there."""
    first = tuple(int(i) for i in np.argwhere(wrong)[0]) if wrong.ndim else ()
    got, right = question.got[first], question.right[first]
    where = f"{question.name}[{', '.join(map(str, first))}]" if first else question.name
    lines = []
    if wrong.size > 1:
        lines.append(f"{wrong.sum()} of {wrong.size} numbers of {question.name} are wrong.")
    lines.append(f"{where} is {shown(got)}, but must be {shown(right)}.")
    if (measured := slope(question.exercise, question.case, question.name, first)) is not None:
        line = f"The slope of the loss, measured there by finite differences, is {shown(measured)}"
        if question.name in question.exercise.adds:
            before = question.case.arguments[question.name][first]
            line += f", and {where} was {shown(before)} before"
        lines.append(f"{line}.")
    return lines


def shown(value: Any) -> str:
    """Return a number in at most seven digits, and 0 without a sign."""
    return f"{float(value) + 0:.7g}" if np.isrealobj(value) else str(value)


def names(which: list[str], most: int = 4) -> str:
    """Return names in a row, at most `most` of them."""
    more = f" and {len(which) - most} more" if len(which) > most else ""
    return ", ".join(which[:most]) + more


def first_float(value: Any) -> Any:
    """Return the dtype of the first floating array among the arguments."""
    if isinstance(value, np.ndarray):
        return value.dtype if value.dtype.kind == "f" else None
    values = value.values() if isinstance(value, dict) else value
    if not isinstance(value, dict | list):
        return None
    return next((found for one in values if (found := first_float(one)) is not None), None)


def reject(verdict: Verdict, case: Case, lines: list[str], cause: str | None) -> bool:
    """Make the verdict "wrong", and return False."""
    verdict.status, verdict.cause = WRONG, cause
    several = len(verdict.exercise.functions) > 1
    where = [verdict.exercise.function_of(case)] if several else []
    where += [f"for {case.about}"] if case.about else []
    verdict.lines = [", ".join(where) + ":"] * bool(where) + lines
    return False
