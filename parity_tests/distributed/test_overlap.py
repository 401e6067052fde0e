"""The exchange during backward: the bits are those without it, and a trial decides."""

import threading
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

import npgpt.ops
from npgpt.config import Config, TrainingConfig
from npgpt.distributed import overlap, partition, sums, trainer
from npgpt.distributed.overlap import Background, Choice
from npgpt.distributed.world import World
from npgpt.errors import InputError, RunError
from npgpt.gpt import GPT
from npgpt.model import params
from npgpt.rng import Generator
from npgpt.training.events import Step
from parity_tests.support import thread_ranks

CONFIG = Config(vocab_size=31, context_length=8, n_layer=2, n_head=2, n_embd=8, dropout=0.2)
TRAINING = TrainingConfig(
    batch_size=1, grad_accumulation=4, steps=2, lr=1e-2, grad_clip=0.3, eval_every=9,
    eval_batches=1, seed=7, checkpoint_minutes=None,
)  # fmt: skip


@pytest.fixture
def small_cuts(monkeypatch):
    """Make as many cuts and buckets as in a large model."""
    monkeypatch.setattr(partition, "BLOCK", 16)
    monkeypatch.setattr(sums, "BUCKET", 512)
    monkeypatch.setattr(trainer, "once_per_machine", lambda world, work: None)  # no probe


def train(size, training, config=CONFIG):
    """Return the bits of a run on each rank, and the threads that have reduced parts."""
    tokens = np.random.default_rng(0).integers(0, 31, 300)

    def program(here):
        rng = Generator(7, ops=npgpt.ops)
        model = GPT(config, seed=rng, ops=npgpt.ops)
        here = here._replace(has_threads=True)
        one = trainer.DataParallelTrainer(
            model, tokens, tokens[:40], training, rng, world=here
        )  # fmt: skip
        parts, reduce = [], one.reduce

        def reducing(flat, part, *wait):
            parts.append((threading.current_thread().name, part.start, part.stop))
            reduce(flat, part, *wait)

        one.reduce = reducing
        steps = [event for event in one.events() if isinstance(event, Step)]
        windows = tokens[: 8 * training.batch_size * training.grad_accumulation].reshape(-1, 8)
        targets = windows.copy()
        targets[-1] = -100  # a rank has no gradient of its last leaf
        one.update(windows, targets, 1e-2)
        moments = b"".join(x.tobytes() for x in params.leaves(one.optimizer.moments["m"]))
        bits = one.parameters.tobytes(), moments, [(step.loss, step.norm) for step in steps]
        return bits, parts, [(step.communication, step.seconds) for step in steps]

    return thread_ranks.run(size, program)


@pytest.mark.parametrize("size, changes", [
    (2, dict()),
    (3, dict(grad_accumulation=3)),
    (4, dict(deterministic=True, leaves=8, batch_size=2)),
    (2, dict(grad_accumulation=2)),
])  # fmt: skip
def test_overlap_changes_no_bits(size, changes, small_cuts):
    """With dropout, clipping and accumulation; in a thread, block by block from the last one."""
    off, on = (
        train(size, replace(TRAINING, overlap=way, **changes)) for way in ("off", "on")
    )  # fmt: skip
    total = params.size(CONFIG)
    starts = [part.start for part in overlap.slices_of_blocks(params.shapes(CONFIG))]
    for (bits, parts, _), (same, others, times) in zip(off, on, strict=True):
        assert bits == same
        assert [part[1:] for part in parts] == [(0, total)] * 3
        threads = [thread == "npgpt exchange" for thread, *_ in others]
        assert threads == [True, True, False] * 3
        assert [part[1:] for part in others] == [
            *zip([*starts, 0], [total, *starts], strict=True)
        ] * 3  # fmt: skip
        assert all(0 < waited < seconds for waited, seconds in times)


def test_the_last_blocks_are_final_first():
    """After each block, its gradients and those that follow have their last bits."""
    untied = replace(CONFIG, tied=False)
    model = GPT(untied, seed=Generator(1, ops=npgpt.ops), ops=npgpt.ops)
    flat = np.full(params.size(untied), np.nan, np.float32)
    blocks, found = overlap.slices_of_blocks(params.shapes(untied)), []
    tokens = np.arange(16).reshape(2, 8)

    def take():
        found.append(flat[blocks[len(found)]].copy())

    out = params.views(params.shapes(untied), flat)
    with pytest.warns(UserWarning, match="dropout"):
        model.loss_and_gradients(tokens, tokens + 1, out=out, on_block=take)
    assert len(found) == len(blocks) == 2 and np.isfinite(flat).all()
    assert blocks[0].stop == len(flat) and blocks[1].stop == blocks[0].start
    assert blocks[1].start == out.wte.weight.size + out.wpe.weight.size
    for part, numbers in zip(blocks, found, strict=True):
        assert numbers.tobytes() == flat[part].tobytes()


def test_an_error_of_the_thread_is_raised_by_wait():
    """It takes part after part, and no other after an error."""
    parts, done = [slice(2, 3), slice(1, 2), slice(0, 1)], []

    def task(part):
        done.append(part)
        assert np.isinf(np.float32(3e38) * np.float32(part.stop + 9))  # without a warning
        if part.start == 1:
            raise RunError("MPI_ERR_OTHER")

    background = Background(task, parts)
    assert background.thread.daemon
    background.release()
    with pytest.raises(RunError, match="MPI_ERR_OTHER"):
        background.wait()
    assert done == parts[:2]
    Background(task, []).wait()
    assert done == parts[:2]


def test_the_thread_sleeps_between_calls_until_it_is_awaited():
    background, calls = Background(print, []), []

    def test():
        calls.append("Test")
        return len(calls) == 3

    request = SimpleNamespace(Test=test, Wait=lambda: calls.append("Wait"))
    background.wait_for(request)
    assert calls == ["Test", "Test", "Test", "Wait"]
    background.is_awaited.set()
    background.wait_for(request)
    assert calls[4:] == ["Wait"]


def test_all_ranks_are_told_the_same_times(small_cuts, monkeypatch):
    """Those of the slowest rank, in the step before."""
    found = {rank: [] for rank in range(2)}
    observe = Choice.observe

    def observing(self, *times):
        found[thread_ranks.here().rank].append(times)
        observe(self, *times)

    monkeypatch.setattr(Choice, "observe", observing)
    runs = train(2, TRAINING)
    assert found[0] == found[1] and found[0][0] == (0, 0)
    steps = zip(*(times for _, _, times in runs), strict=True)
    for (seconds, exchange), ranks in zip(found[0][1:], steps, strict=True):
        assert exchange == max(waited for waited, _ in ranks) < seconds
        assert seconds <= max(seconds for _, seconds in ranks)


@pytest.mark.parametrize("times, exchange, modes", [
    # the first compiles, then three without and three with; times are told a step later
    ([9, 2, 1, 2, 1, 2, 1], 1, [0, 0, 1, 0, 1, 0, 1, 0, 1]),
    ([9, 1, 2, 1, 2, 1, 2], 1, [0, 0, 1, 0, 1, 0, 1, 0, 0]),
    ([9, 2, 9, 9, 9, 9, 1.9], 1, [0, 0, 1, 0, 1, 0, 1, 0, 1]),  # another program took the rest
    ([9, 2, 1, 2, 1, 2, 1], 0.1, [0, 0, 1, 0, 0, 0, 0, 0, 0]),  # nothing to gain
])  # fmt: skip
def test_a_trial_keeps_the_quicker_way(times, exchange, modes):
    choice, found = Choice("auto", True), []
    for seconds in [0, *times, 1]:  # of the step before
        found.append(choice.is_on)
        choice.observe(seconds, exchange)
    assert found == [bool(mode) for mode in modes]


@pytest.mark.parametrize("setting", ["auto", "on", "off"])
@pytest.mark.parametrize("is_possible", [False, True])
def test_what_is_set_is_not_tried(setting, is_possible):
    choice = Choice(setting, is_possible)
    for _ in range(9):
        choice.observe(1.0, 0.9)
        assert choice.is_on == (setting == "on" and is_possible) or choice.is_open
    assert not choice.is_open


def test_overlap_needs_threads_of_mpi():
    model, tokens = GPT(CONFIG, ops=npgpt.ops), np.arange(60) % 31
    training, one = replace(TRAINING, overlap="on"), World(None, 0, 2)
    rng = Generator(1, ops=npgpt.ops)
    with pytest.raises(InputError, match="overlap is on, but this MPI allows no calls of a second"):
        trainer.DataParallelTrainer(model, tokens, tokens, training, rng, world=one)
