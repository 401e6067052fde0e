"""Errors before any command runs: one line if the cause is known."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

import npgpt
from npgpt import __main__
from parity_tests.support.runs import POSIX_ONLY

KNOWN = {
    "a package": (
        ModuleNotFoundError("No module", name="tyro"),
        "the package tyro is missing: install npgpt with pip",
    ),
    "descriptors": (
        OSError(errno.EMFILE, os.strerror(errno.EMFILE)),
        "Too many open files: raise the limit of open files (ulimit -n)",
    ),
    "memory": (MemoryError("Unable to allocate"), "not enough memory: Unable to allocate"),
}


@pytest.fixture
def failing(monkeypatch, capsys):
    """Fail with an error while the command line is imported."""

    def start(error):
        def fails():
            raise error

        monkeypatch.setattr(__main__, "prepare", fails)
        return __main__.main(), capsys.readouterr()

    return start


@pytest.mark.parametrize(("error", "says"), KNOWN.values(), ids=KNOWN)
def test_a_known_cause_is_one_line(error, says, failing):
    status, said = failing(error)
    assert (status, said.out) == (1, "")
    assert said.err.startswith(f"npgpt: {says}")
    assert said.err.count("\n") == 1


@pytest.mark.parametrize(
    "error", [ModuleNotFoundError("No module", name="npgpt.x"), OSError("other"), ImportError("y")]
)
def test_an_unknown_cause_is_raised(error, failing):
    with pytest.raises(type(error)):
        failing(error)


def test_ctrl_c_during_the_start_is_silent(failing):
    assert failing(KeyboardInterrupt()) == (130, ("", ""))


@POSIX_ONLY
def test_python_without_installed_packages():
    Path("npgpt").symlink_to(Path(npgpt.__file__).parent)
    command = [sys.executable, "-S", "-m", "npgpt"]
    said = subprocess.run(command, capture_output=True, text=True)
    assert (said.returncode, said.stdout) == (1, "")
    assert said.stderr == "npgpt: the package tyro is missing: leave out -S, which hides it\n"
