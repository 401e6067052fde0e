"""Answers as learners write them: wrong ones are rejected with their cause, right ones pass.

The answers are data: wrong_answers.txt, each with a pattern of its cause, and right_answers.txt.
"""

import re
from collections import Counter

import pytest

from npgpt.learn.catalogue import EXERCISES
from npgpt.learn.check import PASSED, check_source
from parity_tests.support.answers import read_answers

BY_NAME = {exercise.name: exercise for exercise in EXERCISES}
WRONG, RIGHT = read_answers("wrong_answers.txt"), read_answers("right_answers.txt")


def test_there_are_enough_answers():
    written = {exercise.name for exercise in EXERCISES if not exercise.broken}
    assert len(WRONG) >= 80
    assert {answer.exercise for answer in WRONG} == written
    assert set(Counter(answer.exercise for answer in RIGHT).items()) == {
        (name, 3) for name in written
    }
    assert len({answer.code for answer in WRONG + RIGHT}) == len(WRONG + RIGHT)


@pytest.mark.parametrize("name", BY_NAME)
def test_wrong_answers_are_rejected_with_their_cause(name):
    for answer in WRONG:
        if answer.exercise == name:
            verdict = check_source(BY_NAME[name], answer.code)
            assert verdict.status != PASSED, answer.code
            said = verdict.cause or " ".join(verdict.lines)
            if answer.expected == "no cause":
                assert verdict.cause is None
            else:
                assert re.search(answer.expected, said), f"{answer.code}\n{verdict.text}"


@pytest.mark.parametrize("name", BY_NAME)
def test_right_answers_written_differently_pass(name):
    for answer in RIGHT:
        if answer.exercise == name:
            verdict = check_source(BY_NAME[name], answer.code)
            assert verdict.status == PASSED, f"{answer.code}\n{verdict.text}"


REPAIRS = {
    "scores = np.where(np.tri(T, dtype=bool), scores, -np.inf)": (
        "scores[..., np.triu(np.ones((T, T), bool), 1)] = -np.inf"
    ),
    "return rstd * (dnorm - via_mean - via_rstd)": (
        "C = norm.shape[-1]\n"
        "    both = C * via_mean + norm * (dnorm * norm).sum(-1, keepdims=True)\n"
        "    return rstd / C * (C * dnorm - both)"
    ),
    "np.add.at(dwte, tokens, dx)": (
        "dwte += np.tensordot(np.eye(len(wte))[tokens], dx, ((0, 1), (0, 1)))"
    ),
}


@pytest.mark.parametrize("old", REPAIRS)
def test_a_port_may_be_repaired_in_another_way(old):
    for exercise in EXERCISES:
        if exercise.broken:
            assert old in exercise.solution
            repaired = exercise.solution.replace(old, REPAIRS[old])
            assert check_source(exercise, repaired).status == PASSED


NOISE = """

right = {0}


def {0}(*arguments, **named):
    out = np.asarray(right(*arguments, **named))
    return out + np.sin(np.arange(1, out.size + 1)).reshape(out.shape)
"""
ONE_ARRAY = [
    exercise.name
    for exercise in EXERCISES
    if not exercise.changes and len(exercise.results[exercise.functions[0]]) == 1
]


@pytest.mark.parametrize("name", sorted({*ONE_ARRAY} - {"clipping"}))
def test_no_cause_is_claimed_for_an_error_that_has_none(name):
    exercise = BY_NAME[name]
    code = f"import numpy as np\n{exercise.solution}{NOISE.format(exercise.functions[0])}"
    verdict = check_source(exercise, code)
    assert verdict.status == "wrong"
    masked = "only the scores that are not masked are wrong"  # -inf with noise is still -inf
    assert verdict.cause == (masked if name == "attention_mask" else None)


ODD = """
    None; 3; True; "a"; []; {}; (1, 2); 1j; 10**30; np.inf; float("nan"); lambda: 0; iter([])
    np.zeros(0); np.zeros((0, 3)); np.ones((1,) * 20); np.ones((2,) * 10); np.zeros(1 << 21)
    np.array(["a"]); np.array([None]); np.datetime64("2020"); np.ma.ones((3, 5, 14))
    np.ones((3, 5, 14)) * 1j; np.ones((3, 5, 14), bool); np.zeros((3, 5, 14), np.float16)
    np.full((3, 5, 14), 1e308); np.full((3, 5, 14), -np.inf); np.full((3, 5, 11), np.nan)
    {"a": [1]}; {1: np.ones(3)}; [np.ones(2)] * 2; [np.ones(2)] * 3; [[[]]]; arguments
    list(arguments.values()); next(iter(arguments.values()))
"""
ODD = [one.strip() for line in ODD.strip().splitlines() for one in line.split(";")]


@pytest.mark.parametrize("name", ["linear_dx", "softmax", "cross_entropy", "clipping"])
def test_a_result_of_any_kind_is_a_verdict(name):
    exercise = BY_NAME[name]
    for odd in ODD:
        code = f"def {exercise.functions[0]}(**arguments):\n    return {odd}\n"
        verdict = check_source(exercise, f"import numpy as np\n{code}")
        assert verdict.status == "wrong", odd
        assert verdict.lines, odd
        assert len(verdict.text) < 1000, odd
