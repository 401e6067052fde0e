"""Commands run in a directory of their own."""

from pathlib import Path

import pytest

from parity_tests.support.runs import TEXT, TINY, on_disk


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Every test in a folder of its own, with a text in it."""
    monkeypatch.chdir(tmp_path)
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    Path("text.txt").write_text(TEXT)


@pytest.fixture
def run(npgpt_):
    """A run of 6 steps, two epochs, in the folder `run`."""
    return npgpt_("train --data text.txt --out run --epochs 2", *TINY)


@pytest.fixture
def refused(npgpt_):
    """One line on stderr that says so, nothing on stdout, everything on the disk as it was."""

    def command(line, *more, says, code=2, out=""):
        before = on_disk()
        said = npgpt_(line, *more, code=code)
        assert said.err.count("\n") == 1
        assert said.err.startswith("npgpt: ")
        assert says in said.err
        assert said.out.startswith(out)
        assert bool(said.out) == bool(out)
        assert on_disk() == before

    return command
