"""npgpt train, from its options to its output directory."""

import json
import os
import re
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace

import matplotlib.image
import pytest

import npgpt
from npgpt.system.shell import npgpt_command
from npgpt.training.events import Evaluation, Step
from parity_tests.support.runs import FILES, TINY, evaluations, lines

EVALUATION = ["step", "epoch", "tokens_seen", "train_loss", "val_loss", "lr"]
STEP = ["step", "epoch", "tokens_seen", "loss", "lr", "norm"]
CLOCK = ["seconds", "tokens_per_s", "time", "memory"]

# A run and its folder


def test_train_leaves_a_whole_folder(run):
    assert {path.name for path in Path("run").iterdir()} == FILES
    config = json.loads(Path("run/config.json").read_text())
    assert config["config"]["n_embd"] == 16
    assert config["training"]["batch_size"] == 4
    assert config["preset"] == "tiny"
    assert config["tokens_per_epoch"] == 11 * 4 * 16
    assert config["total_steps"] == 22
    assert len(config["data_sha256"]) == 64

    metrics = lines("run/metrics.jsonl")
    assert [(line["step"], "loss" in line) for line in metrics] == [
        (i, kind) for i in range(22) for kind in (False, True)[i % 2 :]
    ]
    for line in metrics:
        assert list(line) == [*STEP, *CLOCK] if "loss" in line else [*EVALUATION, "tokens_per_s"]
        assert line["tokens_seen"] == 64 * (line["step"] + 1)
    assert [(line["lr"], line["norm"] > 0) for line in metrics if "loss" in line]

    samples = Path("run/samples.txt").read_text()
    assert re.findall(r"^--- epoch (\d+), step (\d+)\nThe lighthouse", samples, re.M) == [
        ("1", "10"),
        ("2", "21"),
    ]
    assert Path("run/loss.png").read_bytes().startswith(b"\x89PNG\r\n")
    picture = matplotlib.image.imread("run/loss.png")
    assert picture.shape[:2] == (1065, 1050)
    assert 0.01 < (picture[..., :3].min(-1) < 0.9).mean() < 0.3  # neither blank nor black
    model = npgpt.load("run/checkpoint.h5")
    assert model.config.n_embd == 16
    assert model.tokenizer == "byte"


def test_train_says_what_it_does_and_where_everything_is(run):
    said = run.out.splitlines()
    assert run.err == ""
    assert said[0] == (
        "11,792 parameters (layers 1, heads 2, embedding 16, context 16); "
        "745 training tokens, 83 validation tokens; 22 steps of 64 tokens, 1,408 in all; "
        "output in run"
    )
    (about,) = (line for line in said if line.startswith("About "))
    assert re.fullmatch(
        r"About \S+ seconds for \d+ more steps: \S+ s per step, \S+ s per evaluation", about
    )
    assert said.index(about) < 12
    losses = [line for line in said if line.startswith("Ep ")]
    pattern = r"Ep [12] \(Step 0000\d\d\): Train loss \d\.\d{3}, Val loss \d\.\d{3}"
    assert all(re.fullmatch(pattern, line) for line in losses)
    for line, point in zip(losses, evaluations("run"), strict=True):
        assert line == (
            f"Ep {point['epoch']} (Step {point['step']:06d}): "
            f"Train loss {point['train_loss']:.3f}, Val loss {point['val_loss']:.3f}"
        )
    assert sum(line.startswith("The lighthouse") for line in said) == 2
    width = len("run/checkpoint.h5")  # of the longest name
    for name in FILES:
        assert any(line.startswith(f"{f'run/{name}':<{width}}  ") for line in said), name
    command = npgpt_command("generate", model="run", prompt="The lighthouse")
    assert said[-1] == f"Next: {command}"


def test_runs_are_numbered_and_the_newest_is_the_default(npgpt_):
    for number in (1, 2):
        npgpt_("train --data text.txt --steps 1", *TINY, "--seed", str(number))
        assert Path(f"runs/tiny-{number}/checkpoint.h5").exists()
    os.utime("runs/tiny-1/checkpoint.h5", (2e9, 2e9))
    said = npgpt_("generate --prompt The --max-new-tokens 5")
    assert said == npgpt_("generate --prompt The --max-new-tokens 5 --model runs/tiny-1")
    assert said != npgpt_("generate --prompt The --max-new-tokens 5 --model runs/tiny-2")


def test_the_bundled_text_is_what_trains_by_default(npgpt_):
    said = npgpt_("train --steps 1 --out run", *TINY)
    assert "18,227 training tokens, 2,026 validation tokens" in said.out


@pytest.mark.slow
def test_both_backends_and_dtypes(npgpt_):
    seen = {}
    for backend in ("fused", "numpy"):
        for dtype in ("float32", "float64"):
            out = f"{backend}-{dtype}"
            flags = f"train --data text.txt --steps 3 --ops {backend} --dtype {dtype} --out {out}"
            npgpt_(flags, *TINY)
            assert npgpt.load(f"{out}/checkpoint.h5").dtype == dtype
            seen[out] = evaluations(out)[-1]["val_loss"]
    assert max(seen.values()) - min(seen.values()) < 1e-4


def test_a_vocabulary_larger_than_the_tokenizers(npgpt_, monkeypatch):
    """Ids that no text has show as U+FFFD, in the samples as in what is generated."""
    from npgpt.training.trainer import Trainer

    monkeypatch.setattr(Trainer, "sample", lambda self: [84, 3999, 104, 256])
    said = npgpt_("train --data text.txt --epochs 1 --vocab-size 4000 --out run", *TINY)
    shown = "T\ufffdh<|endoftext|>\n"
    assert shown in said.out
    assert Path("run/samples.txt").read_text("utf-8").endswith(shown)
    assert "\ufffd" in npgpt_("generate --prompt The --model run --temperature 5").out


@pytest.mark.parametrize(
    ("step_seconds", "first", "said_after", "line"),
    [
        # 100 steps of 64 tokens, an evaluation of 8 s after steps 0, 10, 20, ...
        (2.0, 0, 3, "About 4.4 minutes for 97 more steps: 2 s per step, 8 s per evaluation"),
        (0.01, 0, 3, "About 73.0 seconds for 97 more steps: 0.01 s per step, 8 s per evaluation"),
        (0.5, 41, 44, "About 28.0 seconds for 56 more steps: 0.5 s per step"),
        (0.01, 41, 51, "About 32.5 seconds for 49 more steps: 0.01 s per step, 8 s per evaluation"),
        (2.0, 98, None, None),
    ],
)
def test_how_long_a_run_takes_is_said_once(monkeypatch, step_seconds, first, said_after, line):
    from npgpt.cli import time_left

    trainer = SimpleNamespace(
        progress=SimpleNamespace(step=first), tokens_per_step=64, total_steps=100,
        training=SimpleNamespace(eval_every=10),
    )  # fmt: skip
    clock = [0.0]
    monkeypatch.setattr(time_left.time, "perf_counter", lambda: clock[0])
    left, said = time_left.TimeLeft(trainer), {}
    for step in range(first, 100):
        clock[0] += step_seconds
        values = dict.fromkeys((f.name for f in fields(Step)), 0)
        values |= {"step": step, "tokens_per_s": 64 / step_seconds}
        if step % 10 == 0:
            clock[0] += 8
            known = {name: values.get(name, 0) for name in (f.name for f in fields(Evaluation))}
            assert left.make_line(Evaluation(**known)) is None
        if found := left.make_line(Step(**values)):
            said[step + 1] = found
    assert said == ({said_after: line} if line else {})
