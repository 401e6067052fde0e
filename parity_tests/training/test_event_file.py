"""TensorBoard's event files, as its own reader understands them."""

import errno
import io
import os
import sys
from pathlib import Path
from types import ModuleType

import pytest

from npgpt.errors import RunError
from npgpt.training.event_file import EventFile
from npgpt.training.run_dir import RunDir
from npgpt.training.trainer import Trainer
from parity_tests.support.runs import FILES, TEXT, TINY, lines

FLAGS = "train --ops numpy --data text.txt --epochs 2 --out run --tensorboard".split()


@pytest.fixture
def read(monkeypatch):
    """Return the scalars of a run by name, as (step, value), and the texts."""
    monkeypatch.setitem(sys.modules, "tensorboard.compat.notf", ModuleType("notf"))  # no TensorFlow
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def read(path):
        found = EventAccumulator(str(path), size_guidance={"scalars": 0, "tensors": 0})
        found.Reload()
        tags = found.Tags()
        scalars = {
            tag: [(one.step, pytest.approx(one.value, 1e-6)) for one in found.Scalars(tag)]
            for tag in tags["scalars"]
        }
        texts = {
            tag: [(one.step, one.tensor_proto.string_val[0].decode()) for one in found.Tensors(tag)]
            for tag in tags["tensors"]
        }
        return scalars, texts

    return read


@pytest.fixture
def text(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text(TEXT)
    monkeypatch.setattr(RunDir, "plot", lambda *_: None)


def killed_at(step):
    """Return an update of the parameters that ends the process at a step, as a kill does."""
    update = Trainer.update

    def with_kill(self, *batch):
        if self.progress.step == step:
            raise KeyboardInterrupt
        return update(self, *batch)

    return with_kill


@pytest.mark.slow
def test_a_run_that_was_killed_shows_every_step_once(npgpt_, text, monkeypatch, read):
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "update", killed_at(17))  # its checkpoint is that of step 11
        npgpt_(FLAGS[0], *FLAGS[1:], *TINY, code=130)
    said = npgpt_("train --resume run")  # the setting is the run's
    assert "\nTo see its curves: tensorboard --logdir run\nNext: " in said.out
    files = {path.name for path in Path("run").iterdir()}
    assert len([name for name in files if name.startswith("events.out.tfevents.")]) == 2
    assert {name for name in files if not name.startswith("events")} == FILES - {"loss.png"}
    metrics = lines("run/metrics.jsonl")
    scalars, texts = read("run")
    for name in ("loss", "lr", "norm", "train_loss", "val_loss"):
        kind = "val_loss" if name.endswith("_loss") else "loss"
        assert scalars.pop(name) == [(line["step"], line[name]) for line in metrics if kind in line]
    assert [step for step, _ in scalars.pop("tokens_per_s")] == list(range(22))
    assert scalars == {}
    assert [step for step, _ in texts["sample"]] == [10, 21]
    assert texts["sample"][0][1].startswith("    The lighthouse")


def test_a_missing_extra_is_said_before_the_run(npgpt_, text, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard.compat.proto.event_pb2", None)
    said = npgpt_(FLAGS[0], *FLAGS[1:], "--data", "missing.txt", *TINY, code=2)
    assert said.err.startswith("npgpt: --tensorboard needs tensorboard (")
    assert said.err.endswith("pip install 'npgpt[tensorboard]', or leave out --tensorboard\n")
    assert said.err.count("\n") == 1
    assert not Path("run").exists()
    npgpt_("train --ops numpy --data text.txt --steps 1 --out run", *TINY)


class Full(io.BytesIO):
    def flush(self):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_file_that_cannot_be_written_is_one_error(tmp_path):
    with pytest.raises(RunError, match=r"events\.out\..* could not be written: No such file or"):
        EventFile(tmp_path / "missing", 0)
    full = EventFile(tmp_path, 0)
    full.file.close()
    full.file = Full()
    with pytest.raises(RunError, match=r"events\.out\..* could not be written: No space left"):
        full.write(step=3)
