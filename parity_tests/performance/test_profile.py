"""npgpt profile: the counted work, the results of a timed backend, and the output. No timings."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest

import npgpt
from npgpt import ops
from npgpt.backends import get as backend_of
from npgpt.cli.main import main
from npgpt.kernels import bandwidth
from npgpt.model.params import named
from npgpt.performance import flops, profile, roofline
from npgpt.performance.profile import (
    Call,
    Peaks,
    Round,
    Row,
    TimedBackend,
    Work,
    prepare_generation,
    prepare_training_step,
)
from npgpt.preset import defaults

SMALL = dict(vocab_size=97, context_length=24, n_layer=3, n_head=4, n_embd=32)
FLAGS = "--vocab-size 97 --context-length 24 --n-layer 1 --n-head 4 --n-embd 32 --batch-size 3"
BEST = Peaks(1e11, 4e10)


def settings(*, ops="fused", **changed):
    chosen = defaults("tiny")
    config = replace(chosen.config, **SMALL, **changed)
    return replace(chosen, config=config, training=replace(chosen.training, batch_size=3), ops=ops)


def steps(chosen, count):
    timed = TimedBackend(backend_of(chosen.ops, dtype=chosen.dtype))
    return list(profile.run_rounds(prepare_training_step(chosen, timed), timed, count))


def tokens(chosen, count, position):
    timed = TimedBackend(backend_of(chosen.ops, dtype=chosen.dtype))
    run = prepare_generation(chosen, timed, position=position, count=count)
    return list(profile.run_rounds(run, timed, count))


def total(calls):
    return sum(call.work.operations for call in calls), sum(call.work.bytes for call in calls)


# What is counted


@pytest.mark.parametrize("ops", ["fused", "numpy"])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("tied", [True, False])
def test_the_calls_of_a_step_cost_what_the_config_says(ops, dropout, tied):
    chosen = settings(ops=ops, dropout=dropout, tied=tied)
    _, last = steps(chosen, 2)
    assert total(last.calls)[0] == flops.training_step(chosen.config, 3, 24)
    idle = {call.op for call in last.calls if not call.work.operations and not call.work.bytes}
    assert idle == ({"dropout.forward", "dropout.backward"} if dropout == 0 else set())


def test_every_op_is_counted(backend):
    computes = {"forward", "backward", "evaluate", "log_probs", "update", "square_sum"}
    there = {
        f"{op}.{name}"
        for op in backend.__all__
        for name in computes & set(vars(getattr(backend, op)))
    }
    assert there == set(profile.COUNTS)


@pytest.mark.parametrize("ops", ["fused", "numpy"])
def test_the_calls_of_a_token_cost_what_the_config_says(ops):
    chosen = settings(ops=ops)
    prompt, *later = tokens(chosen, 4, position=7)
    assert total(prompt.calls)[0] == flops.forward(chosen.config, 3, 7, scored=1)
    earlier = 0
    for position, one in enumerate(later, 7):
        before, read = (flops.forward(chosen.config, 3, T) for T in (position, position + 1))
        assert total(one.calls)[0] == read - before
        assert total(one.calls)[1] >= flops.token_bytes(chosen.config)
        # what attention remembers is read as well: two numbers a channel and position
        decode = total([call for call in one.calls if call.op == "decode.forward"])[1]
        if position > 7:
            assert decode - earlier == chosen.config.n_layer * 4 * (3 * 2 * 32)
        earlier = decode


def test_accumulated_batches_are_one_step():
    chosen = settings()
    chosen = replace(chosen, training=replace(chosen.training, grad_accumulation=2))
    (one,) = steps(chosen, 1)
    assert total(one.calls)[0] == 2 * flops.training_step(chosen.config, 3, 24)


# What is computed meanwhile


def test_a_timed_backend_computes_the_same(backend):
    config = npgpt.Config(**SMALL, dropout=0.1)
    ids = np.arange(2 * 24).reshape(2, 24)
    found = []
    for used in (backend, TimedBackend(backend)):
        rng = npgpt.Generator(5, ops=backend)
        model = npgpt.GPT(config, seed=rng, ops=used)
        loss, cache = model.loss(ids, ids[:, ::-1], rng)
        gradients = [array.tobytes() for _, array in named(model.backward(cache))]
        found.append((float(loss), gradients, model.logits(ids).tobytes()))
    assert found[0] == found[1]


def test_every_call_is_recorded(backend):
    timed = TimedBackend(backend)
    x = np.ones((2, 3, 8), np.float32)
    _, cache = timed.gelu.forward(x)
    timed.gelu.backward(x, cache, dx=x)
    assert [(call.op, call.work.bytes) for call in timed.calls] == [
        ("gelu.forward", 2 * x.nbytes),
        ("gelu.backward", 3 * x.nbytes),
    ]
    assert all(call.seconds > 0 for call in timed.calls)


def test_profiling_moves_no_parameter():
    step = prepare_training_step(settings(dropout=0.0), ops)
    assert step() == step()


# What is made of it


def test_a_table_adds_up():
    calls = [
        Call("a", 2.0, Work(100, 8)),
        Call("b", 0.5, Work(bytes=40)),
        Call("a", 1.0, Work(200, 2)),
    ]
    best = Peaks(operations=100, bytes=4)
    assert profile.summarize(Round(4.0, calls), best) == [
        Row("a", 2, 3.0, 300, 10, 2.0 + 2.0),  # 8 bytes take longer than 100 operations
        Row("b", 1, 0.5, 0, 40, 10.0),
        Row("between the ops", 0, 0.5, 0, 0, 0.0),
    ]


def test_the_middle_round():
    found = [Round(seconds, []) for seconds in (3.0, 1.0, 2.0)]
    assert profile.median_round(found).seconds == 2.0
    assert profile.median_round(found[:1]).seconds == 3.0


def test_peaks_are_operations_and_bytes_over_seconds(monkeypatch):
    monkeypatch.setattr(roofline, "SIZE", 1000)
    monkeypatch.setattr(roofline, "fastest", lambda function: function() is None or 0.5)
    layers = [flops.Linear(2, 3, 5), flops.Linear(1, 4, 6)]
    forward = 2 * (2 * 7 * 3 * 5) + 2 * 7 * 4 * 6
    for backward, products in ((False, 1), (True, 3)):
        rate = roofline.matmul_throughput(layers, 7, backward=backward)
        assert rate == products * forward / (products * (2 + 1) * 0.5)
    assert roofline.sum_rate() == 125 / 0.5
    monkeypatch.setattr(roofline, "fastest", lambda function: function() or 0.5)
    assert roofline.memory_bandwidth() == 4 * 1000 / 0.5


def test_the_memory_reader_reads_every_number():
    x, parts = np.arange(1000, dtype=np.float32), np.empty(roofline.BLOCKS, np.float32)
    bandwidth.sum_parts(x, parts)
    assert parts.sum() == x.sum()


# What is said


@pytest.fixture
def said(monkeypatch, capsys):
    """Return the output of a command, with given peaks in place of measured ones."""
    monkeypatch.setattr(profile, "measure_peaks", lambda *args, **options: BEST)

    def command(line, code=0):
        assert main(line.split()) == code
        return capsys.readouterr()

    return command


def test_profile_prints_a_table(said):
    lines = said(f"profile {FLAGS} --rounds 1").out.splitlines()
    assert re.match(r"one training step of 3 x 24 tokens: [\d.,]+ ms, [\d,]+ tokens/s$", lines[0])
    assert lines[2].split() == "op calls ms share GFLOP/s GB/s time/bound".split()
    names = [re.split(r"  +", line)[0] for line in lines[3:] if line and line != lines[-1]]
    assert {"linear.forward 32 -> 128", "attention.backward", "adamw.update"} <= set(names)
    assert names[-3:-1] == ["between the ops", "all"]
    shares = [float(line.split("%")[0].split()[-1]) for line in lines[3:] if "%" in line]
    assert shares[-1] == 100
    assert sum(shares[:-1]) == pytest.approx(100, abs=0.05 * len(shares))  # rounded to a decimal
    assert "100 GFLOP/s" in lines[-2]
    assert "40.0 GB/s" in lines[-1]


def test_profile_generate_in_json(said):
    found = json.loads(said(f"profile {FLAGS} --generate --position 5 --rounds 2 --json").out)
    assert found["what"] == "one new token, batch size 3"
    assert found["config"]["n_layer"] == 1
    assert found["peaks"] == {"operations": 1e11, "bytes": 4e10}
    assert found["tokens_per_s"] == 3 / found["seconds"]
    calls = {row["op"]: row["calls"] for row in found["rows"]}
    assert calls["decode.forward"] == 1
    assert calls["linear.forward 32 -> 97"] == 1
    assert "adamw.update" not in calls
    assert sum(row["seconds"] for row in found["rows"]) == pytest.approx(found["seconds"])


def test_profile_generate_makes_one_sequence(said):
    assert "batch size 1:" in said("profile --context-length 16 --generate --rounds 1").out


def test_profile_of_another_backend_and_dtype(said):
    found = json.loads(said(f"profile {FLAGS} --ops numpy --dtype float64 --rounds 1 --json").out)
    assert (found["ops"], found["dtype"]) == ("numpy", "float64")
    row = next(row for row in found["rows"] if row["op"] == "gelu.forward")
    assert row["bytes"] == 2 * 8 * (3 * 24 * 4 * 32)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ("--rounds 0", "rounds is 0, but must be at least 1"),
        ("--batch-size 0", "batch_size is 0, but must be at least 1"),
        ("--n-head 3", "n_embd is 32 and n_head is 3"),
        ("--dropout 1", "dropout is 1.0, but must be in [0, 1)"),
        ("--position 5", "position is 5, but needs --generate"),
        ("--generate --position 0", "position is 0, but must be in 1 to 17: the context is 24"),
        ("--generate --position 18", "position is 18, but must be in 1 to 17"),
        ("--generate --rounds 22", "a context of 24 is too short for 24 tokens"),
    ],
)
def test_profile_refuses(said, flags, says):
    printed = said(f"profile {FLAGS} {flags}", code=2)
    assert printed.out == ""
    assert printed.err.startswith(f"npgpt: {says}")
    assert printed.err.count("\n") == 1


def test_profile_does_not_begin_what_does_not_fit(said, monkeypatch):
    monkeypatch.setattr(profile, "memory", lambda: (None, 2**30))
    says = "npgpt: parameters, gradients and moments take 23.2 GiB, but 1.0 GiB of memory are"
    assert said("profile --preset gpt2-xl", code=2).err.startswith(says)
    says = "npgpt: parameters take 5.8 GiB, but 1.0 GiB"
    assert said("profile --preset gpt2-xl --generate", code=2).err.startswith(says)
