"""Runs that are interrupted and resumed."""

import json
import signal
from pathlib import Path

import numpy as np
import pytest

import npgpt
from npgpt.cli.main import main, parse
from npgpt.model.params import named
from npgpt.training import schedule
from parity_tests.support.processes import LONG, started
from parity_tests.support.runs import (
    FILES,
    POSIX_ONLY,
    TINY,
    evaluations,
    final,
    lines,
    metrics,
    unannounced,
)


def interrupt_after(monkeypatch, step):
    """Press Ctrl-C in the middle of a step."""
    from npgpt.training.trainer import Trainer

    update = Trainer.update

    def with_ctrl_c(self, *batch):
        if self.progress.step == step:
            signal.raise_signal(signal.SIGINT)
        return update(self, *batch)

    monkeypatch.setattr(Trainer, "update", with_ctrl_c)


@pytest.mark.slow
@pytest.mark.parametrize("step", [0, 4, 10, 15])
def test_an_interrupted_run_resumes_bit_for_bit(npgpt_, run, monkeypatch, step):
    before = signal.getsignal(signal.SIGINT)  # ignored, where a shell runs tests behind itself
    with monkeypatch.context() as patched:
        interrupt_after(patched, step)
        said = npgpt_(f"train --data {'text.txt'} --out cut --epochs 2", *TINY, code=130)
    assert said.err == "\nFinishing this step, then saving ...\n"
    assert said.out.splitlines()[-2:] == [
        f"Stopped after step {step}; the checkpoint is saved in cut",
        "Resume with: npgpt train --resume cut",
    ]
    Path(f"cut/.checkpoint.h5.{'0' * 32}.part").write_bytes(b"what a kill would leave")
    kept = Path("cut/metrics.jsonl").read_bytes()
    with open("cut/metrics.jsonl", "a") as file:  # of steps after the last checkpoint
        file.write('{"step": 99}\n')
        file.write(json.dumps(lines("run/metrics.jsonl")[-1] | {"step": step + 1}) + '\n{"half')
    npgpt_("train --resume cut")
    assert Path("cut/metrics.jsonl").read_bytes().startswith(kept)
    assert final("cut") == final("run")
    assert metrics("cut") == metrics("run")
    assert Path("cut/samples.txt").read_bytes() == Path("run/samples.txt").read_bytes()
    assert {path.name for path in Path("cut").iterdir()} == FILES
    assert signal.getsignal(signal.SIGINT) is before


def test_resuming_from_another_folder_and_into_another(npgpt_, run, monkeypatch):
    Path("away").mkdir()
    monkeypatch.chdir("away")
    before = Path("../run/checkpoint.h5").read_bytes()
    npgpt_("train --resume ../run/checkpoint.h5 --data ../text.txt --epochs 3 --out longer")
    assert len(evaluations("longer")) == 17
    assert [p["step"] for p in metrics("longer") if "loss" in p] == list(range(33))
    assert Path("../run/checkpoint.h5").read_bytes() == before
    Path("alone.h5").write_bytes(before)
    npgpt_("train --resume alone.h5 --data ../text.txt --steps 23")
    assert {path.name for path in Path("runs/tiny-1").iterdir()} == FILES


def test_a_finished_run_has_nothing_to_do_and_more_epochs_give_more(npgpt_, run):
    before = final("run")
    said = npgpt_("train --resume run").out
    more = "To train for more epochs: npgpt train --resume run --epochs N\n"
    assert f"\nThis run is finished. {more}" in said
    assert final("run") == before
    npgpt_("train --resume run --epochs 3")
    assert final("run")[1]["step"] == 33
    assert [p["step"] for p in evaluations("run")] == list(range(0, 33, 2))


def test_what_does_not_change_the_past_may_change(npgpt_, run, monkeypatch):
    from npgpt.training.trainer import Trainer

    past = evaluations("run")
    flags = "--epochs 4 --eval-every 3 --eval-batches 2 --prompt The --sample-tokens 2 --lr 0.001"
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "update", killed)
        npgpt_("train --resume run", *flags.split(), code=130)
    said = npgpt_("train --resume run")  # the settings were saved before the first step
    assert "before" not in said.out
    assert final("run")[1]["step"] == 44
    training = json.loads(Path("run/config.json").read_text())["training"]
    changed = {"epochs": 4, "eval_every": 3, "eval_batches": 2, "prompt": "The", "lr": 0.001}
    assert changed.items() <= training.items()
    points = evaluations("run")
    assert points[: len(past)] == past
    assert [point["step"] for point in points[len(past) :]] == list(range(24, 44, 3))
    assert points[-1]["lr"] == pytest.approx(
        schedule.learning_rate(42, total=44, warmup=1, peak=0.001, initial=1e-5, lowest=5e-4)
    )


def killed(*_):
    raise KeyboardInterrupt


def test_another_learning_rate_is_said(npgpt_, run):
    more = "train --resume run --epochs 3 --out longer"
    says = "its curve ends at step 33, before 22. Step 22 has 0.00169, before 0.0005\n"
    assert f"\nLearning rate: {says}" in npgpt_(more).out
    said = npgpt_("train --resume run --epochs 3 --lr 0.001 --min-lr None --out other").out
    assert (
        "\nLearning rate: lr is 0.001, before 0.005; min_lr is None, before 0.0005. "
        "Step 22 has 0.001, before 0.0005\n"
    ) in said
    assert "Learning rate" not in npgpt_("train --resume run --eval-every 9").out


@pytest.mark.parametrize(
    ("given", "lengths"),
    [
        ("--max-tokens 65", (2, None, 65)),
        ("--steps 24", (2, 24, None)),
        ("--epochs 3 --steps None", (3, None, None)),
    ],
)
@pytest.mark.parametrize("before", ["--steps 23", "--max-tokens 1409"])
def test_a_length_replaces_the_other_lengths(npgpt_, run, before, given, lengths):
    npgpt_(f"train --resume run {before}")
    assert final("run")[1]["step"] == 23
    training = parse(["train", "--resume", "run", *given.split()]).settings.training
    assert (training.epochs, training.steps, training.max_tokens) == lengths


def test_a_run_has_one_length(refused):
    says = "--epochs and --max-tokens are given, but a run has one length: leave all but one out"
    refused("train --epochs 3 --max_tokens=64", says=says)


def test_checkpoints_every_n_steps(npgpt_, monkeypatch):
    from npgpt.training.checkpoints import Checkpoints

    saved, save = [], Checkpoints.save
    monkeypatch.setattr(
        Checkpoints,
        "save",
        lambda self, **last: saved.append(self.trainer.progress.step) or save(self, **last),
    )
    npgpt_("train --data text.txt --epochs 2 --out each", *TINY)
    npgpt_("train --data text.txt --steps 8 --checkpoint-every 3 --out three", *TINY)
    assert saved == [11, 22, 3, 6, 8]


@pytest.mark.parametrize("flag", ["--init-from", "--init_from"])
def test_init_from_takes_shape_tokenizer_and_weights_over(npgpt_, run, flag):
    npgpt_("train --data text.txt --steps 1 --lr 0 --initial-lr 0 --out next", flag, "run")
    first, second = (npgpt.load(f"{d}/checkpoint.h5") for d in ("run", "next"))
    assert second.config.n_embd == 16
    for (name, a), (_, b) in zip(named(first.params), named(second.params), strict=True):
        np.testing.assert_array_equal(a, b, err_msg=name)


@POSIX_ONLY
@pytest.mark.slow
def test_ctrl_c_in_a_process_of_its_own():
    command = "-m npgpt train --data text.txt --epochs 9999 --out run".split()
    with started(*command, *TINY, text=True) as process:
        while not process.stdout.readline().startswith("Ep 1 (Step 000002)"):
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=LONG)
    assert process.returncode == 130
    assert unannounced(err) == "\nFinishing this step, then saving ...\n"
    assert out.endswith("Resume with: npgpt train --resume run\n")
    step = final("run")[1]["step"]
    assert f"Stopped after step {step - 1};" in out
    assert main(["train", "--resume", "run", "--steps", str(step + 2)]) == 0
    assert final("run")[1]["step"] == step + 2
