"""npgpt estimate: the models to time, the extrapolation and the output. No timings."""

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from npgpt.cli.main import main
from npgpt.distributed import scaling, sums
from npgpt.model import params
from npgpt.performance import estimate, flops, profile, roofline
from npgpt.performance.estimate import Measurement, TimedModel
from npgpt.preset import defaults
from npgpt.system.units import duration, in_words
from parity_tests.support import thread_ranks

SMALL = "--vocab-size 97 --context-length 16 --n-head 2 --n-embd 16 --batch-size 2"
RATE = 1e9


def settings(layers=12, batch=2, **changed):
    chosen = defaults("gpt2-small")
    config = replace(chosen.config, n_layer=layers, context_length=256, **changed)
    return replace(chosen, config=config, training=replace(chosen.training, batch_size=batch))


def line(layers):
    """Seconds of a made-up step, in which the head takes as long as five blocks: about as many
    operations as they have in the settings above."""
    return 1.25 + 0.25 * layers


def points(*layers, time=line):
    return tuple(TimedModel(count, time(count)) for count in layers)


def carried(found, layers=12):
    return estimate.extrapolate(settings(layers).config, Measurement(2, RATE, found))


# The arithmetic


def test_all_layers_that_were_timed_are_not_estimated():
    for found, layers in ((points(1), 1), (points(1, 12), 12)):
        said = carried(found, layers)
        assert (said.seconds, said.method, said.line_error) == (line(layers), "measured", None)


def test_more_layers_are_on_the_line():
    said = carried(points(1, 5))
    assert (said.seconds, said.method, said.line_error) == (line(12), "line", None)
    bent = (*points(1, 5), TimedModel(3, 2.5))
    said = carried(bent)
    assert (said.seconds, said.method) == (line(12), "line")
    assert said.line_error == pytest.approx(2.0 / 2.5 - 1)


def test_one_point_goes_by_operations():
    said = carried(points(1))
    config = settings().config
    one, all_of_it = (flops.training_step(replace(config, n_layer=n), 2, 256) for n in (1, 12))
    assert said.method == "operations"
    assert said.seconds == pytest.approx(line(1) * all_of_it / one)


def test_tokens_and_the_share_of_the_peak():
    said = carried(points(1, 12))
    assert said.tokens_per_s == 2 * 256 / line(12)
    assert said.operations == flops.training_step(settings().config, 2, 256)
    assert said.utilization == pytest.approx(said.operations / line(12) / RATE)


@pytest.mark.parametrize("number, says", [
    (5, "5"), (524_288, "524,288"), (1e6, "1 million"), (2.5e9, "2.5 billion"),
])  # fmt: skip
def test_counts(number, says):
    assert in_words(number) == says


@pytest.mark.parametrize(
    ("seconds", "says"),
    [
        (0.3, "0.3 seconds"),
        (119, "119.0 seconds"),
        (120, "2.0 minutes"),
        (7200, "2.0 hours"),
        (36 * 3600, "36.0 hours"),
        (600 * 86400, "600.0 days"),
        (800 * 86400, "2.2 years"),
        (1e12, "31,688.1 years"),
    ],
)
def test_durations(seconds, says):
    assert duration(seconds) == says


# What is timed


def chosen(config, budget, available=None, time=line):
    """Return the numbers of layers that are timed, if a step takes as long as `time` says."""
    found = ()
    while (layers := estimate.next_layers(config, found, budget, available)) is not None:
        found += points(layers, time=time)
    return [point.layers for point in found]


def test_everything_is_timed_where_there_is_time():
    assert chosen(settings(12), 50) == [1, 12]
    assert chosen(settings(1), 50) == [1]


def test_less_is_timed_where_there_is_not():
    layers = chosen(settings(48), 30)
    assert layers[0] == 1
    assert 2 < layers[1] < 48
    assert layers[2] == (1 + layers[1]) // 2
    two = chosen(settings(48), 2 * line(1) + 2 * line(2) + 0.1)
    assert two == [1, 2]  # more than half of what was left, but it is the line that is needed
    assert chosen(settings(48), 0.1) == [1]


def test_the_budget_is_kept_however_long_a_step_takes():
    for size in (0.01, 0.1, 1, 3):
        layers = chosen(settings(48), 50, time=lambda count, size=size: size * line(count))
        assert sum(2 * size * line(count) for count in layers) <= 50


def test_memory_bounds_what_is_timed():
    def bytes_of(layers):
        return 16 * params.size(replace(settings().config, n_layer=layers))

    assert estimate.fits(settings(), 12, None)
    assert not estimate.fits(settings(), 12, bytes_of(12))
    assert estimate.fits(settings(), 12, 2 * bytes_of(12))
    assert not estimate.fits(replace(settings(), dtype="float64"), 12, 2 * bytes_of(12))
    assert chosen(settings(48), 1e4, available=2 * bytes_of(12))[1] < 48


def test_a_batch_is_made_smaller_until_it_can_be_measured():
    assert estimate.batch_size(settings(batch=2), 2e11, 50) == 2
    reduced = estimate.batch_size(settings(batch=512), 2e11, 50)
    assert 1 < reduced < 512
    one = replace(settings().config, n_layer=1)
    assert 4 * flops.training_step(one, reduced, 256) / 2e11 <= 50 / 3
    assert 4 * flops.training_step(one, 2 * reduced, 256) / 2e11 > 50 / 3
    assert estimate.batch_size(settings(batch=512), 1, 50) == 1


def test_real_steps_are_timed(monkeypatch):
    """Time a model of two layers, then one with more layers than the budget allows."""
    monkeypatch.setattr(roofline, "matmul_throughput", lambda *args, **options: RATE)
    monkeypatch.setattr(estimate, "MIN_SECONDS", 0.0)
    small = dict(vocab_size=97, n_head=2, n_embd=16)
    *_, found = stages = list(estimate.measure(settings(2, **small)))
    assert len(stages) == estimate.STAGES
    assert [point.layers for point in found.points] == [1, 2]
    assert all(point.seconds > 0 for point in found.points)
    *_, found = estimate.measure(settings(3, **small), budget=0.0)
    assert [point.layers for point in found.points] == [1]


# What is said


@pytest.fixture
def said(monkeypatch, capsys):
    """Return the command's output if a step takes as long as `line` says."""
    monkeypatch.setattr(roofline, "matmul_throughput", lambda *args, **options: RATE)
    monkeypatch.setattr(roofline, "sum_rate", lambda: 4000.0)
    monkeypatch.setattr(estimate, "step_seconds", lambda settings, layers: line(layers))

    def command(flags, code=0):
        assert main(["estimate", *flags.split()]) == code
        return capsys.readouterr()

    return command


def test_estimate_says_how_long_it_takes(said):
    out = said(f"{SMALL} --n-layer 4 --tokens 1e6").out.splitlines()
    assert out == [
        "16,512 parameters in 4 layers, float32, steps of 2 x 16 tokens",
        "layers timed: 1 in 1.500 s, 4 in 2.250 s",
        "",
        "14.2 tokens/s; matrix products at 0.0 GFLOP/s, 0% of the 1.0 that NumPy's BLAS reaches "
        "here",
        "1,000,000 tokens take 19.5 hours, without evaluations",
    ]


def test_estimate_says_what_is_carried_over(said):
    out = said(f"{SMALL} --n-layer 99").out
    assert "99 layers, on the line through the first two: 26.000 s" in out
    assert "error of that line at the third: +0.0%" in out
    assert "tokens take" not in out


def test_estimate_for_many_machines(said):
    flags = "--ranks 4 --bandwidth 1e-6 --latency 0.001 --step-tokens 4096 --sync-every 20"
    out = said(f"{SMALL} --n-layer 4 {flags}").out.splitlines()
    seconds = 4096 / (2 * 16 / 2.25) / 4  # 72
    numbers = 3 / 4 * 16_512
    sums_of = numbers / 4000
    wide, narrow = numbers * 8 / 1000 + sums_of + 5e-3, numbers * 6 / 1000 + sums_of + 6e-3
    assert out[-6] == "4 machines of this kind, 1e-06 GB/s, 1000 us, 4,096 tokens per step"
    assert len({len(line) for line in out[-5:]}) == 1
    assert [" ".join(line.split()) for line in out[-5:]] == [
        "computing exchange efficiency tokens/s 10 billion tokens",
        "one machine 288.00 s none 100% 14 22.3 years",
        f"data parallel 72.00 s {wide:.3f} s 41% 24 13.5 years",
        f"data parallel, bfloat16 72.00 s {narrow:.3f} s 48% 27 11.6 years",
        f"DiLoCo, H = 20 72.00 s {wide / 20:.3f} s 93% 53 6.0 years",
    ]
    assert seconds == 72
    found = json.loads(said(f"{SMALL} --n-layer 4 {flags} --tokens 5 --json").out)["cluster"]
    assert found["total_tokens"] == 5 and len(found["ways"]) == 4
    assert found["ways"][1]["efficiency"] == pytest.approx(72 / (72 + wide))


@pytest.mark.parametrize("ranks", [1, 2, 3, 8, 64, 1024])
def test_the_transfers_are_those_that_are_made(ranks):
    """Counted in the loops of sums.py, with a communicator that does nothing."""
    bounds = [5000 * r // ranks for r in range(ranks + 1)]  # each slice in one bucket
    flat = np.zeros(5000, np.float32)
    for reduce, size in ((sums.reduce, 4), (sums.reduce_scatter_bfloat16, 2)):
        comm = Counter(ranks)
        reduce(comm, flat, bounds)
        sums.all_gather(comm, flat, bounds)
        assert comm.sent == scaling.transfers(ranks, size)


class Counter(thread_ranks.Comm):
    """A communicator that counts what rank 0 sends, and receives nothing."""

    def __init__(self, size):
        super().__init__(0, [None] * size, None, {})

    def Irecv(self, buffer, *_):
        buffer[:] = 0
        return SimpleNamespace(Test=lambda: True, Wait=lambda: None)

    def Isend(self, *_):
        self.sent += 1
        return self.Irecv(np.empty(0))


@pytest.mark.parametrize("ranks, computing, wide", [
    (8, 307, (97, 100, 100, 100)), (256, 9.6, (52, 91, 95, 98)), (1024, 2.4, (21, 72, 83, 91)),
])  # fmt: skip
def test_efficiency_on_four_networks(ranks, computing, wide):
    """The 124M model, 524,288 tokens: within a point of 2 (N - 1) / N S / B + 2 (N - 1) latency."""
    for bandwidth, percent in zip((0.11e9, 1.1e9, 2.2e9, 5e9), wide, strict=True):
        cluster = scaling.Cluster(ranks, bandwidth, 50e-6, math.inf)
        _, parallel, *_ = scaling.ways(
            524_288 / ranks / computing, 524_288, 124_439_808, cluster, 1
        )
        assert parallel.computing == pytest.approx(computing)
        assert round(100 * parallel.efficiency) == percent
        t = 2 * (ranks - 1) / ranks * 4 * 124_439_808 / bandwidth + 2 * (ranks - 1) * 50e-6
        assert abs(parallel.efficiency - computing / (computing + t)) < 0.02


def test_estimate_in_json(said):
    found = json.loads(said(f"{SMALL} --n-layer 4 --tokens 100 --json").out)
    assert found["parameters"] == 16512
    assert found["bytes"] == 16 * 16512
    assert found["measured"]["points"] == [
        {"layers": 1, "seconds": 1.5},
        {"layers": 4, "seconds": 2.25},
    ]
    assert (found["way"], found["miss"], found["tokens"]) == ("measured", None, 100)
    assert found["total_seconds"] == 100 / (2 * 16 / 2.25)
    found = json.loads(said(f"{SMALL} --json").out)
    assert found["tokens"] is found["total_seconds"] is None


def test_estimate_warns_of_too_little_memory(said, monkeypatch):
    monkeypatch.setattr("npgpt.system.machine.memory", lambda: (10**5, None))
    assert "moments take 0.0 GB, and this machine has 0.0" in said(f"{SMALL} --n-layer 4").out


def test_estimate_begins_nothing_that_does_not_fit(said, monkeypatch):
    monkeypatch.setattr(profile, "memory", lambda: (None, 100))
    says = "npgpt: parameters, gradients and moments take 0.0 GiB, but 0.0 GiB of memory are"
    assert said(SMALL, code=2).err.startswith(says)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ("--tokens 0", "tokens is 0.0, but must be a number, at least 1"),
        ("--tokens nan", "tokens is nan, but must be a number, at least 1"),
        ("--tokens inf", "tokens is inf, but must be a number, at least 1"),
        ("--batch-size 0", "batch_size is 0, but must be at least 1"),
        ("--n-embd 15", "n_embd is 15 and n_head is 2"),
        ("--n-layer 0", "n_layer is 0, but must be at least 1"),
        ("--ranks 8", "--ranks is 8, but the network is unknown: give its --bandwidth in GB/s"),
        ("--bandwidth 1", "--bandwidth is of several machines: give their number in --ranks"),
        ("--ranks 0 --bandwidth 1", "ranks is 0, but must be in [1, 65536]"),
        ("--ranks 2 --bandwidth 0", "bandwidth is 0.0, but must be a number above 0"),
        ("--ranks 2 --bandwidth 1 --latency -1", "latency is -1.0, but must be a number, at least"),
        ("--ranks 2 --bandwidth 1 --step-tokens 0", "step_tokens is 0, but must be in [1, "),
    ],
)
def test_estimate_refuses(said, flags, says):
    printed = said(f"{SMALL} {flags}", code=2)
    assert printed.out == ""
    assert printed.err == f"npgpt: {says}\n" or printed.err.startswith(f"npgpt: {says}")
    assert printed.err.count("\n") == 1
