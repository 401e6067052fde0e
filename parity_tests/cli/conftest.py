"""Commands run in a directory of their own."""

import io
import shutil
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import SimpleNamespace

import pytest

from npgpt.cli.main import main
from parity_tests.support.runs import TEXT, TINY, on_disk, unannounced


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Every test in a folder of its own, with a text in it."""
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text(TEXT)


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A run of two epochs of 11 steps, trained once: its folder, and what the command printed."""
    folder, out, err = tmp_path_factory.mktemp("trained"), writer(), writer()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.chdir(folder)
        Path("text.txt").write_text(TEXT)
        assert main([*"train --data text.txt --out run --epochs 2".split(), *TINY]) == 0
    out.seek(0), err.seek(0)
    return folder / "run", SimpleNamespace(out=out.read(), err=unannounced(err.read()))


def writer():
    return io.TextIOWrapper(io.BytesIO(), "utf-8")


@pytest.fixture
def run(trained):
    """That run in the folder `run`; what the command printed."""
    folder, said = trained
    shutil.copytree(folder, "run")
    return said


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
