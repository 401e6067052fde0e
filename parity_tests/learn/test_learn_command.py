"""npgpt learn: init, check, watch, hint, solution, list; and a learner's file in its process."""

import json
import shutil
import threading
import time

import pytest

from npgpt.learn import sandbox, workspace
from npgpt.learn.catalogue import ENTRIES, EXERCISES
from npgpt.learn.check import check_file
from npgpt.learn.watch import changes

RIGHT = "def linear_dx(dout, weight):\n    return dout @ weight.T\n"


@pytest.fixture(scope="module")
def exercises(tmp_path_factory):
    """A directory with all exercises, to be copied."""
    folder = tmp_path_factory.mktemp("exercises")
    workspace.create(folder)
    return folder


@pytest.fixture
def folder(tmp_path, monkeypatch, exercises):
    """The working directory, with all exercises in it."""
    shutil.copytree(exercises, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(folder, code, number=0):
    path = folder / list(workspace.FILES.values())[number]
    path.write_text("import numpy as np\n" + code)
    return path


def test_init_writes_all_stubs_and_keeps_what_exists(tmp_path, monkeypatch, npgpt_):
    monkeypatch.chdir(tmp_path)
    said = npgpt_("learn init exercises").out
    assert said.startswith(f"{len(ENTRIES)} exercises are in exercises.\n")
    assert "  cd exercises\nOpen 01_linear_dx.py" in said
    folder = tmp_path / "exercises"
    monkeypatch.chdir(folder)
    assert {path.name for path in folder.iterdir()} == {
        workspace.STATE, *(file.split("/")[0] for file in workspace.FILES.values())
    }  # fmt: skip
    path = write(folder, RIGHT)
    said = npgpt_("learn init .").out
    assert "nothing was changed" in said
    assert RIGHT in path.read_text()
    path.unlink()
    assert "files that existed were kept" in npgpt_("learn init .").out
    assert "not written yet" in path.read_text()


@pytest.mark.slow
def test_from_a_stub_to_the_solution(folder, npgpt_):
    assert npgpt_("learn check linear_dx", code=1).out.startswith("linear_dx: not written yet\n")
    hints = [npgpt_("learn hint linear_dx").out for _ in range(4)]
    assert [hint.count(":    ") + hint.count("tion: ") for hint in hints] == [1, 2, 3, 3]
    assert "is not passed yet" in npgpt_("learn solution linear_dx", code=1).out
    assert "return dout @ weight.T" in npgpt_("learn solution linear_dx").out
    write(folder, RIGHT)
    said = npgpt_("learn check").out  # the file that was saved last
    assert said.startswith("linear_dx: passed\n")
    assert "02_linear_dweight.py" in said
    listed = npgpt_("learn list").out
    assert listed.startswith("+  1  linear_dx ")
    assert listed.endswith(f"1 of {len(ENTRIES)} passed\n")
    write(folder, RIGHT.replace(".T", ".T * 2"))
    npgpt_("learn check 1", code=1)
    assert npgpt_("learn list").out.startswith("   1  linear_dx ")


def test_a_solution_is_shown_at_once_after_passing(folder, npgpt_):
    write(folder, RIGHT)
    npgpt_("learn check linear-dx")
    assert "return dout @ weight.T" in npgpt_("learn solution 01_linear_dx.py").out
    assert "hint 1 of 3" in npgpt_("learn hint 1").out  # hints too, after success


def test_prints_are_kept_and_shown_once(folder, npgpt_):
    """Nor is npgpt, with its solutions, in the process that runs the file."""
    code = 'import sys\nprint([name for name in sys.modules if "npgpt" in name])\n'
    code += 'def linear_dx(dout, weight):\n    print("seen", dout.shape)\n    return dout.T\n'
    write(folder, code)
    said = npgpt_("learn check", code=1).out
    assert said.startswith("01_linear_dx.py prints:\n[]\nseen (3, 5, 6)\n\nlinear_dx: wrong\n")
    assert said.count("seen") == 1
    assert "dx has the shape (6, 5, 3), but must have (3, 5, 14), which is (B, T, I)." in said


@pytest.mark.slow
def test_a_loop_without_end_is_stopped_and_its_line_shown(folder):
    code = (
        "def linear_dx(dout, weight):\n    print('before')\n    while True:\n        dout = dout\n"
    )
    verdict = check_file(EXERCISES[0], write(folder, code), seconds=0.5)
    assert "line 5" in verdict.text or "line 4" in verdict.text
    assert "Stopped after 0.5 s" in verdict.text
    assert verdict.printed == "before\n"
    code = code.replace("dout = dout", "try: np.sort(np.arange(999)[::-1])\n        except: pass")
    code = code.replace("while True:", "while True:\n      while True:")
    ignores = "import signal\nsignal.signal(signal.SIGALRM, signal.SIG_IGN)\n"
    stubborn = write(folder, ignores + code)
    sandbox_grace, sandbox.GRACE = sandbox.GRACE, 0.2
    try:
        assert "Stopped after" in check_file(EXERCISES[0], stubborn, seconds=0.5).text
    finally:
        sandbox.GRACE = sandbox_grace


def test_a_traceback_has_the_learners_lines_only(folder):
    code = "def linear_dx(dout, weight):\n    return helper(dout)\n"
    code += "\ndef helper(a):\n    return a @ 3\n"
    verdict = check_file(EXERCISES[0], write(folder, code))
    assert verdict.status == "failed"
    assert "line 3, in linear_dx" in verdict.text
    assert "line 6, in helper" in verdict.text
    assert "runner.py" not in verdict.text
    assert "npgpt/learn" not in verdict.text
    assert "It was called with dout (3, 5, 6), weight (14, 6)." in verdict.text


@pytest.mark.parametrize(
    "code, says",
    [
        ("def linear_dx(dout, weight):\n    return np.ones((1 << 29,))\n", "MemoryError"),
        ("import os\nos._exit(3)\n", "exit status 3"),
        ("raise SystemExit\n", "SystemExit"),
        ("def linear_dx(dout weight):\n", "SyntaxError"),
        ("def linear(dout, weight):\n    return 1\n", "no function linear_dx"),
        ("print('x' * 9_000_000)\n" + RIGHT, "passed"),
        ("def linear_dx(dout, weight):\n    raise KeyError('a' * 5000 + 'end')\n", "aend'"),
    ],
)
def test_a_file_that_fails_is_told_in_words(folder, code, says):
    verdict = check_file(EXERCISES[0], write(folder, code))
    assert says in verdict.text
    assert len(verdict.printed) < 100_000


def test_a_file_of_another_encoding_is_read_or_refused_without_lines_of_the_runner(folder):
    path = write(folder, RIGHT)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())  # a byte order mark
    assert check_file(EXERCISES[0], path).status == "passed"
    path.write_bytes(b"name = 'caf\xe9'\n")
    text = check_file(EXERCISES[0], path).text
    assert "SyntaxError" in text
    assert "runner.py" not in text
    assert "It was called" not in text


def test_of_many_lines_the_first_and_the_last_are_shown(folder):
    path = write(folder, "for i in range(9999): print(i, 'abc')\n" + RIGHT)
    lines = check_file(EXERCISES[0], path).printed.splitlines()
    assert lines[19:22] == ["19 abc", "... 9,974 lines are not shown ...", "9994 abc"]
    assert len(lines) == 26


@pytest.mark.parametrize("text", ["", "[]", "{", '{"exercises": 3}', '{"exercises": {"a": 1}}'])
def test_a_state_file_that_is_damaged_is_one_line(folder, text, npgpt_):
    (folder / workspace.STATE).write_text(text)
    assert "is not a state file of npgpt learn: delete it" in npgpt_("learn list", code=2).err


def test_a_state_of_odd_values_counts_as_none(folder, npgpt_):
    odd = {"linear_dx": {"hints": -5, "passed": "yes", "asked": []}, "gone": {}}
    (folder / workspace.STATE).write_text(json.dumps({"version": 1, "exercises": odd}))
    assert npgpt_("learn list").out.endswith(f"0 of {len(ENTRIES)} passed\n")
    assert "hint 1 of 3" in npgpt_("learn hint linear_dx").out


@pytest.mark.parametrize(
    "line, says",
    [
        ("learn check linear_dy", "did you mean linear_d"),
        ("learn check 99", "npgpt learn list shows all names"),
        ("learn check --dir elsewhere", "elsewhere has no exercises: run npgpt learn init DIR"),
        ("learn init file", "file must be a directory or a new path"),
    ],
)
def test_what_is_wrong_is_one_line(folder, line, says, npgpt_):
    (folder / "file").write_text("")
    err = npgpt_(line, code=2).err
    assert says in err
    assert err.count("\n") == 1


def test_watch_sees_each_file_that_is_saved(tmp_path):
    paths = [tmp_path / "a.py", tmp_path / "b.py"]
    for path in paths:
        path.write_text("1")
    seen = changes(paths, interval=0.01)
    saving = threading.Timer(0.05, paths[1].write_text, ["22"])
    saving.start()
    assert next(seen) == paths[1]
    saving.join()
    paths[1].unlink()  # as some editors save
    threading.Timer(0.05, paths[1].write_text, ["333"]).start()
    start = time.monotonic()
    assert next(seen) == paths[1]
    assert time.monotonic() > start
