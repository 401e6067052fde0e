"""Exercises: stubs say that they are not written, solutions pass, gradients are the slopes."""

import ast
import re

import numpy as np
import pytest

from npgpt.learn.catalogue import ENTRIES, EXERCISES
from npgpt.learn.check import PASSED, STUB, WRONG, check_source, mistaken_answers, plan
from npgpt.learn.contract import read_answer
from npgpt.learn.exercise import stub
from npgpt.learn.slope import slope
from parity_tests.support.sources import ROOT


def name(exercise):
    return exercise.name


@pytest.mark.parametrize("exercise", EXERCISES, ids=name)
def test_a_stub_is_not_written_yet_and_its_solution_passes(exercise):
    verdict = check_source(exercise, exercise.solution)
    assert (verdict.status, verdict.notes) == (PASSED, [])
    verdict = check_source(exercise, stub(exercise))
    assert verdict.status == (WRONG if exercise.broken else STUB)


@pytest.mark.parametrize("exercise", EXERCISES, ids=name)
def test_a_stub_has_the_formula_and_not_the_solution(exercise):
    text = stub(exercise)
    compile(text, exercise.name, "exec")
    assert "import numpy as np" in text
    assert all(len(line) <= 100 for line in text.splitlines())
    if not exercise.broken:
        assert "\n\n\n\n" not in text
        assert text.count("NotImplementedError") == len(exercise.functions)
        functions = [one for one in ast.parse(text).body if isinstance(one, ast.FunctionDef)]
        assert [one.name for one in functions] == list(exercise.functions)
        assert {type(line) for one in functions for line in one.body} == {ast.Expr, ast.Raise}


GRADIENTS = [
    pytest.param(exercise, result, id=f"{exercise.name}-{result}")
    for exercise in EXERCISES
    for result in exercise.inputs
]


@pytest.mark.parametrize("exercise, result", GRADIENTS)
def test_the_right_gradient_is_the_slope_of_the_loss(exercise, result):
    """At several elements, by finite differences of the forward pass alone."""
    cases, answers = plan(exercise)
    found = [
        (case, read_answer(exercise, case, answer))
        for case, answer in zip(cases, answers, strict=True)
    ]
    case, right = next((case, one) for case, one in found if result in one)
    before = case.arguments[result] if result in exercise.adds else np.zeros_like(right[result])
    for index in list(np.ndindex(right[result].shape))[:: max(1, right[result].size // 20)]:
        measured = slope(exercise, case, result, index)
        assert abs(measured + before[index] - right[result][index]) < 1e-7 * max(1, abs(measured))


@pytest.mark.parametrize("exercise", EXERCISES, ids=name)
def test_known_mistakes_have_answers_of_their_own(exercise):
    """Each is wrong, without an error, and no two give the same numbers to every call."""
    cases, right = plan(exercise)
    seen = [flattened(right)]
    for i, mistake in enumerate(exercise.texts.mistakes):
        answers = mistaken_answers(exercise, i)
        assert len(answers) == len(cases), mistake.says
        flat = flattened(answers)
        assert not any(same_answers(flat, other) for other in seen), mistake.says
        seen.append(flat)


@pytest.mark.parametrize("exercise", EXERCISES, ids=name)
def test_a_known_mistake_is_rejected_and_named(exercise):
    for mistake in exercise.texts.mistakes:
        verdict = check_source(exercise, exercise.mistaken(mistake))
        assert verdict.status == WRONG
        assert verdict.cause == mistake.says or exercise.broken


def flattened(answers):
    """The shapes of all results, and their numbers in one vector."""
    found = list(arrays(answers))
    return [np.shape(one) for one in found], np.concatenate([np.ravel(one) for one in found])


def same_answers(a, b):
    return a[0] == b[0] and np.allclose(a[1], b[1], rtol=1e-9, atol=1e-12, equal_nan=True)


def arrays(value):
    """All arrays and numbers in a tree, but functions."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for one in value:
            yield from arrays(one)
    elif isinstance(value, np.ndarray | np.generic | int | float):
        yield value


@pytest.mark.parametrize("exercise", EXERCISES, ids=name)
def test_there_are_three_hints(exercise):
    hints = exercise.texts.hints
    assert len(hints) == 3
    assert all(hint.endswith(".") for hint in hints)
    assert len(set(hints)) == 3
    for path in re.findall(r"(?:npgpt|docs)/[\w/]+\.(?:py|md)", " ".join(hints)):
        assert (ROOT / path).is_file(), path


def test_names_are_unique():
    names = [exercise.name for exercise in EXERCISES]
    assert len(names) == len(set(names))
    assert len({entry.name for entry in ENTRIES}) == len(ENTRIES)
