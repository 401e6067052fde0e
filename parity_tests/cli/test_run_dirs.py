"""Several runs at once, and runs that were killed: every one has a directory of its own."""

import errno
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from npgpt.errors import RunError
from npgpt.training.run_dir import LOCK, RunDir, new_run_dir
from parity_tests.support.processes import LONG, started
from parity_tests.support.runs import FILES, POSIX_ONLY, TEXT, TINY, final, on_disk
from parity_tests.support.sources import ROOT

NUMPY = [*"train --data text.txt --ops numpy".split(), *TINY]


@pytest.mark.slow
@POSIX_ONLY
def test_pairs_of_runs_that_start_at_once():
    command = ["-c", "from parity_tests.support.pairs import check; check(2)"]  # forks, so alone
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with started(*command, text=True, env=environment) as process:
        _, err = process.communicate(timeout=LONG)
    assert process.returncode == 0, err
    assert len([*Path("runs").iterdir()]) == 4


def test_a_name_is_not_looked_up_before_it_is_taken(monkeypatch):
    """Another run takes it in between: what is on the disk is seen too late."""
    Path("runs/tiny-1").mkdir(parents=True)
    monkeypatch.setattr(Path, "exists", lambda self: False)
    with new_run_dir(None, "tiny") as directory:
        assert directory.path == Path("runs/tiny-2")


def test_a_run_under_way_is_not_resumed(refused, run):
    with RunDir(Path("run")).locked():
        says = "another process is training in run: wait for its end, or choose another --out"
        part = Path(f"run/.checkpoint.h5.{'0' * 32}.part")
        part.write_bytes(b"what it is writing")
        refused("train --resume run --epochs 3", says=says, code=1)
        shutil.copytree("run", "copy")
        assert part.exists()
    assert not Path("run", LOCK).exists()


@POSIX_ONLY
@pytest.mark.parametrize("kind", ["a pipe", "a directory"])
def test_a_lock_that_is_no_file(refused, run, kind):
    (os.mkfifo if kind == "a pipe" else os.mkdir)(f"run/{LOCK}")
    says = f"npgpt: run/{LOCK} cannot be locked: it is {kind}, not a file"
    refused("train --resume run --epochs 3", says=says)


def test_two_new_runs_in_one_directory():
    with new_run_dir(Path("run"), "tiny"), pytest.raises(RunError, match="another process"):
        new_run_dir(Path("run"), "tiny").__enter__()


@pytest.mark.parametrize("name", sorted(FILES - {"config.json", "checkpoint.h5"}))
def test_a_file_of_the_same_name_is_not_overwritten(refused, name):
    Path("run").mkdir()
    Path("run", name).write_text("another program's")
    says = f"npgpt: run/{name} already exists: choose another --out"
    refused("train --data text.txt --ops numpy --out run", *TINY, says=says)


@pytest.fixture
def full_disk(monkeypatch):
    def full(file):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("npgpt.training.run_dir.sync_file", full)


def test_a_new_run_that_cannot_be_written_leaves_nothing(refused, full_disk):
    says = "No space left on device; nothing was written; the new run was removed"
    refused(" ".join(NUMPY), "--out", "run", says=says, code=1)
    assert not Path("run").exists()
    Path("run").mkdir()
    refused(" ".join(NUMPY), "--out", "run", says=says, code=1)
    assert list(Path("run").iterdir()) == []


def test_a_run_whose_config_was_deleted_is_not_new(refused, run, full_disk):
    Path("run/config.json").unlink()
    says = "run/metrics.jsonl could not be written: No space left on device; the previous file is"
    refused("train --resume run --epochs 3", says=says, code=1)


def test_only_temporary_files_of_a_killed_run_are_removed(npgpt_):
    Path("run").mkdir()
    kept = [".notes.part", ".checkpoint.h5.1.part", f".theirs.{'0' * 32}.part", "x.part"]
    for name in kept:
        Path("run", name).write_text("another program's")
    Path(f"run/.checkpoint.h5.{'0' * 32}.part").write_text("half")
    Path("run", LOCK).write_text("")  # the system released it when its holder was killed
    npgpt_("--out run --steps 1 --sample-tokens 0".join(["train --ops numpy ", ""]), *TINY)
    assert {path.name for path in Path("run").iterdir()} == FILES | set(kept)


def killed_before_the_first_checkpoint(*flags):
    """A run that dies as soon as it has written its settings."""
    dies = "from npgpt.training.trainer import Trainer; import os, sys; "
    dies += "Trainer.events = lambda self: os._exit(9); from npgpt.cli.main import main; "
    command = [sys.executable, "-c", f"{dies} main(sys.argv[1:])", *NUMPY, *flags]
    assert subprocess.run(command, timeout=LONG, capture_output=True).returncode == 9
    assert "checkpoint.h5" not in {path.name for path in Path("run").iterdir()}


@pytest.mark.slow
def test_a_run_killed_before_its_first_checkpoint_starts_again(npgpt_, refused):
    npgpt_(" ".join(NUMPY), "--out", "whole", "--steps", "3", "--seed", "7")
    killed_before_the_first_checkpoint("--out", "run", "--steps", "3", "--seed", "7")
    refused("train --data text.txt --out run", says="resume it with --resume run")
    refused("train --resume run --eps 1", says="--eps 1.0 does not fit: run was made with")
    Path("other.txt").write_text(TEXT.upper())
    says = "the text other.txt is not the one this run was trained on"
    assert says in npgpt_("train --resume run --data other.txt", code=2).err
    config = Path("run/config.json").read_text()
    Path("run/config.json").write_text(re.sub(r'"data_sha256": "\w+"', '"data_sha256": 3', config))
    says = "config.json: data_sha256 is 3, but must be text"
    assert says in npgpt_("train --resume run", code=2).err
    Path("run/config.json").write_text(config)
    said = npgpt_("train --resume run")
    assert said.out.startswith("run has no checkpoint: its run starts from the beginning\n")
    assert final("run") == final("whole")
    assert {path.name for path in Path("run").iterdir()} == FILES


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"config": 1}', '{"config": {}, "x": 1}'])
def test_a_config_that_is_none_of_a_run(refused, content):
    Path("other").mkdir()
    Path("other/config.json").write_text(content)
    before = on_disk()
    refused("train --resume other", says="other")
    assert on_disk() == before
