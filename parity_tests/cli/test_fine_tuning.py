"""npgpt train --init-from without --preset: defaults, and what is fitted to the run."""

import dataclasses
from types import SimpleNamespace

import pytest

from npgpt.cli import fine_tuning
from npgpt.cli.main import parse
from npgpt.preset import FINE_TUNING, PRESETS
from npgpt.system import memory as system_memory
from npgpt.training import schedule
from parity_tests.support.runs import final

GPT2 = dataclasses.replace(PRESETS["gpt2-small"].config, context_length=256, dropout=0.1)
SETTINGS = dataclasses.replace(FINE_TUNING, config=GPT2)
GB = 10**9


def fit(tokens, memory, monkeypatch, given=(), settings=SETTINGS):
    monkeypatch.setattr(system_memory, "available", lambda: memory)
    fitted = fine_tuning.fit(settings, SimpleNamespace(train=range(tokens)), frozenset(given))
    return fitted.training


@pytest.mark.parametrize(
    ("tokens", "memory", "batch", "warmup"),
    [
        (90_000, 24 * GB, 8, 12),  # 351 windows, 43 steps an epoch
        (90_000, 4 * GB, 4, 26),  # 2 GB of parameters, gradients and moments; 0.19 GB a window
        (90_000, 2 * GB, 1, 100),
        (90_000, None, 8, 12),
        (4_630, 24 * GB, 1, 5),  # The Verdict: 18 windows
        (257, 24 * GB, 1, 0),
        (10**9, 24 * GB, 8, 100),
    ],
)
def test_the_batch_fits_into_memory_and_the_warmup_into_the_run(
    monkeypatch, tokens, memory, batch, warmup
):
    training = fit(tokens, memory, monkeypatch)
    assert (training.batch_size, training.warmup_steps) == (batch, warmup)
    windows = (tokens - 257) // 256 + 1
    total = schedule.count_steps(training, windows // batch, batch * 256)
    assert training.warmup_steps < total
    assert total * batch * 256 <= 3 * tokens
    highest = max(schedule.rate_of_step(training, step, total) for step in range(min(total, 999)))
    assert highest <= 5e-5


def test_what_is_given_stays(monkeypatch):
    training = fit(4_630, 2 * GB, monkeypatch, given=["batch_size", "warmup_steps"])
    assert training == FINE_TUNING.training
    training = fit(4_630, 2 * GB, monkeypatch, given=["batch_size"])
    assert (training.batch_size, training.warmup_steps) == (8, 0)


def test_the_command_line_knows_what_is_given(run):
    line = "train --init-from run --data text.txt".split()
    assert parse(line).given == set()
    assert parse([*line, "--batch-size", "8"]).given == {"batch_size"}
    assert parse([*line, "--warmup_steps=100"]).given == {"warmup_steps"}


def test_a_run_from_a_model(npgpt_, refused, run):
    said = npgpt_("train --init-from run --data text.txt --out tuned").out
    assert said.splitlines()[1] == (
        "Fine-tuning: batch size 2, stride 16, learning rate 5e-05 after 6 warmup steps, "
        "falling to 5e-06"
    )
    assert final("tuned")[1]["step"] == 3 * 23
    assert final("tuned")[1]["tokens_seen"] <= 3 * 745
    npgpt_("train --resume tuned --steps 70")
    assert final("tuned")[1]["step"] == 70
    tiny = parse("train --init-from run --preset tiny --data text.txt".split()).settings
    assert tiny.training == PRESETS["tiny"].training
    says = "preset fine-tuning is for a model to start from: give --init-from"
    refused("train --preset fine-tuning", says=says)
