"""The checkpoints of a run: older ones, the best model, by the clock, and written behind."""

import json
import os
import shutil
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import npgpt
from npgpt.model.params import named
from npgpt.system import memory
from npgpt.training import checkpoints, snapshot
from npgpt.training.trainer import Trainer
from npgpt.weights import checkpoint
from parity_tests.support.processes import LONG, started
from parity_tests.support.runs import POSIX_ONLY, TINY, final, lines
from parity_tests.support.sources import ROOT

NEW = "train --data text.txt --ops numpy --out run --min-lr None --steps 12"
# The validation loss falls, and rises again.
RISING = "--lr 0.5 --initial-lr 1e-3 --warmup-steps 12 --checkpoint-every 5".split()


@pytest.fixture
def writer(monkeypatch):
    """The second time that a checkpoint is written, it waits, or fails, as the test says."""
    write, count = checkpoint.write, [0]

    def install(action):
        def acting(path, *model):
            if Path(path).name == "checkpoint.h5":
                count[0] += 1
                if count[0] == 2:
                    action()
            return write(path, *model)

        monkeypatch.setattr(checkpoint, "write", acting)

    return install


def weights(path):
    return {name: array.tobytes() for name, array in named(npgpt.load(path).params)}


def names():
    return {path.name for path in Path("run").iterdir() if path.suffix == ".h5"}


def test_older_checkpoints_are_kept(npgpt_, refused):
    npgpt_(NEW, *TINY, "--checkpoint-every", "3", "--keep", "2")
    kept = {"checkpoint-000006.h5", "checkpoint-000009.h5"}
    assert names() == {"checkpoint.h5", "best.h5", *kept}
    npgpt_("train --data text.txt --ops numpy --min-lr None --out short --steps 6", *TINY)
    assert weights("run/checkpoint-000006.h5") == weights("short/checkpoint.h5")
    npgpt_("generate --model run/checkpoint-000006.h5 --prompt The --max-new-tokens 2")
    shutil.copy("run/checkpoint-000006.h5", "run/checkpoint-000003.h5")  # a kill came before
    npgpt_("train --resume run")
    assert names() == {"checkpoint.h5", "best.h5", *kept}
    npgpt_("train --resume run --steps 14 --keep 1")
    assert names() == {"checkpoint.h5", "best.h5", "checkpoint-000012.h5"}
    Path("other").mkdir()
    os.rename("run/checkpoint-000012.h5", "other/checkpoint-000012.h5")
    refused(NEW.replace("run", "other"), says="other/checkpoint-000012.h5 already exists")


def test_older_checkpoints_are_copied_where_links_are_not_possible(npgpt_, monkeypatch):
    monkeypatch.setattr(os, "link", lambda *paths: os.open("", os.O_RDONLY))
    npgpt_(NEW, *TINY, "--checkpoint-every", "3", "--keep", "1")
    assert names() == {"checkpoint.h5", "best.h5", "checkpoint-000009.h5"}
    assert final("run")[1]["step"] == 12


def test_the_best_model_is_kept(npgpt_):
    said = npgpt_(NEW, *TINY, *RISING).out
    history = [line for line in lines("run/metrics.jsonl") if "val_loss" in line]
    best = min(history, key=lambda line: line["val_loss"])
    assert history[0]["step"] < best["step"] < history[-1]["step"]
    assert f"lowest validation loss, {best['val_loss']:.3f} after step {best['step']}\n" in said
    npgpt_("train --data text.txt --ops numpy --min-lr None --out short", *TINY, *RISING,
           "--steps", str(best["step"] + 1))  # fmt: skip
    assert weights("run/best.h5") == weights("short/checkpoint.h5")


@POSIX_ONLY
@pytest.mark.parametrize(("killed", "time"), [("checkpoint.h5", 2), ("best.h5", 1)])
def test_the_best_model_of_a_resumed_run(npgpt_, monkeypatch, killed, time):
    """The run dies before the rename of one of the two files."""
    npgpt_(NEW, *TINY, *RISING)
    whole = final("run"), Path("run/best.h5").read_bytes()
    os.rename("run", "whole")
    count, replace = [0], os.replace

    def dying(source, target):
        count[0] += Path(target).name == killed
        if count[0] == time:
            raise KeyboardInterrupt
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", dying)
        npgpt_(NEW, *TINY, *RISING, code=130)
    npgpt_("train --resume run")
    assert (final("run"), Path("run/best.h5").read_bytes()) == whole
    assert [name for name in os.listdir("run") if name.startswith(".best")] == []


def test_training_continues_while_a_checkpoint_is_written(npgpt_, writer, monkeypatch):
    """The checkpoint is that of the step at which it was due."""
    npgpt_(NEW, *TINY, "--checkpoint-every", "6")
    os.rename("run", "whole")
    seen, reached, update = [], threading.Event(), Trainer.update

    def updating(self, *batch):
        if self.progress.step == 8:
            reached.set()
        return update(self, *batch)

    def wait():
        assert threading.current_thread() is not threading.main_thread()
        seen.append(reached.wait(30))

    writer(wait)
    monkeypatch.setattr(Trainer, "update", updating)
    npgpt_(NEW, *TINY, "--checkpoint-every", "3", "--keep", "9")
    assert seen == [True]
    assert final("run") == final("whole")
    npgpt_("train --data text.txt --ops numpy --min-lr None --out short --steps 6", *TINY)
    assert weights("run/checkpoint-000006.h5") == weights("short/checkpoint.h5")


def test_the_memory_of_a_copy_is_used_again(npgpt_, writer, monkeypatch):
    """It is taken after the first step. A file that is still being written is not changed."""
    copies, copy_run = [], snapshot.copy_run

    def copying(*run):
        copies.append(copy_run(*run))
        return copies[-1]

    monkeypatch.setattr(snapshot, "copy_run", copying)
    writer(lambda: None)
    npgpt_(NEW, *TINY, "--checkpoint-every", "2", "--keep", "9")
    (first, state), (second, later) = copies[:2]
    assert [x.state["progress"]["step"] for x in (state, later)] == [1, 2]
    for one, two in [
        (first.params, second.params),
        *zip(*(x.moments.values() for x in (state, later)), strict=True),
    ]:
        for (name, a), (_, b) in zip(named(one), named(two), strict=True):
            assert np.shares_memory(a, b), name
    npgpt_("train --data text.txt --ops numpy --min-lr None --out short --steps 2", *TINY)
    assert weights("run/checkpoint-000002.h5") == weights("short/checkpoint.h5")


def test_an_error_behind_ends_the_run(npgpt_, writer, monkeypatch):
    def fail():
        raise npgpt.RunError("no space is left")

    writer(fail)
    said = npgpt_(NEW, *TINY, "--checkpoint-every", "3", code=1)
    last = "The last good checkpoint is run/checkpoint.h5"
    assert said.err == f"npgpt: no space is left. {last}\n"
    assert final("run")[1]["step"] == 3
    assert [thread.name for thread in threading.enumerate() if "writer" in thread.name] == []
    npgpt_("train --resume run")


def test_without_memory_for_a_copy_a_checkpoint_is_written_at_once(npgpt_, writer, monkeypatch):
    npgpt_(NEW, *TINY, *RISING)
    whole = final("run"), Path("run/best.h5").read_bytes()
    os.rename("run", "whole")
    monkeypatch.setattr(memory, "available", lambda: snapshot.SPARE)
    seen = []
    writer(lambda: seen.append(threading.current_thread()))
    npgpt_(NEW, *TINY, *RISING)
    assert seen == [threading.main_thread()]
    assert (final("run"), Path("run/best.h5").read_bytes()) == whole


def test_checkpoints_by_the_clock(npgpt_, monkeypatch):
    """Every step takes 100 seconds."""
    saved, save, now, update = [], checkpoints.Checkpoints.save, [0.0], Trainer.update
    is_due = checkpoints.Checkpoints.is_due_by_clock

    def saving(self, **last):
        saved.append(self.trainer.progress.step)
        save(self, **last)
        self.background.wait()

    def asking(self):
        self.background.wait()  # until the memory of the copy is taken
        return is_due(self)

    def updating(self, *batch):
        now[0] += 100
        return update(self, *batch)

    clock = SimpleNamespace(monotonic=lambda: now[0])  # of this module alone: event loops have one
    monkeypatch.setattr(checkpoints, "time", clock)
    monkeypatch.setattr(checkpoints.Checkpoints, "save", saving)
    monkeypatch.setattr(checkpoints.Checkpoints, "is_due_by_clock", asking)
    monkeypatch.setattr(Trainer, "update", updating)
    steps = ["--steps", "24", "--eval-every", "99"]
    npgpt_(NEW, *TINY, *steps)
    assert saved == [9, 11, 20, 22, 24]  # 15 minutes after the last one, and after epochs of 11
    saved.clear()
    npgpt_(NEW.replace("run", "other"), *TINY, *steps, "--checkpoint-minutes", "None")
    assert saved == [11, 22, 24]


def test_control_groups_limit_the_memory(tmp_path):
    """The cache of files is given back when memory is needed."""
    for name, text in (("max", "1000"), ("current", "700"), ("stat", "anon 1\ninactive_file 50\n")):
        (tmp_path / f"memory.{name}").write_text(text)
    assert memory.group_left(str(tmp_path)) in (350, None)
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.group_left(str(tmp_path)) is None


@POSIX_ONLY
@pytest.mark.slow
def test_runs_that_are_killed_end_in_the_same_bits():
    """More of them: python -m parity_tests.support.kills N."""
    with started("-m", "parity_tests.support.kills", "2", cwd=ROOT, text=True) as process:
        out, err = process.communicate(timeout=LONG)
    assert "2 of 2 runs ended in the same bits" in out, out + err


# Paths


@pytest.mark.parametrize("killed", [False, True])
def test_a_run_is_resumed_wherever_it_is(npgpt_, monkeypatch, killed):
    """From another directory, moved alone, and moved with its data.

    `killed`: without a checkpoint.
    """
    os.mkdir("here")
    os.rename("text.txt", "here/text.txt")
    monkeypatch.chdir("here")
    shutil.copy("text.txt", "val.txt")
    npgpt_(NEW.replace("--out run", "--out runs/one --val-data val.txt"), *TINY)
    if killed:
        os.remove("runs/one/checkpoint.h5")
    monkeypatch.chdir("..")
    npgpt_("train --resume here/runs/one --steps 13")
    shutil.copytree("here/runs/one", "alone")
    npgpt_("train --resume alone --steps 14")
    os.rename("here", "there")
    if killed:
        os.remove("there/runs/one/checkpoint.h5")
    npgpt_("train --resume there/runs/one --steps 14")
    assert final("there/runs/one") == final("alone")
    settings = json.loads(Path("there/runs/one/config.json").read_text())
    assert settings["data"] == os.path.abspath("there/text.txt")
    os.rename("there/text.txt", "text.txt")
    said = npgpt_("train --resume there/runs/one --steps 15", code=2).err
    assert "there/text.txt" in said


def test_settings_of_earlier_versions_have_paths_from_the_working_directory(npgpt_, run):
    settings = json.loads(Path("run/config.json").read_text())
    del settings["directory"]
    Path("run/config.json").write_text(json.dumps(settings | {"data": "text.txt"}))
    os.remove("run/checkpoint.h5")
    npgpt_("train --resume run")
    assert json.loads(Path("run/config.json").read_text())["data"] == os.path.abspath("text.txt")
