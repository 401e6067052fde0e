"""The book's printed numbers: chapter 5 with seed 123, and what it takes to keep its stream."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from npgpt.config import Config, RunConfig
from npgpt.data import dataset
from npgpt.data.tokenizer import tokenizer
from npgpt.parity import book_check
from npgpt.preset import PRESETS, defaults
from npgpt.training import run, schedule
from npgpt.training.events import Step

SMALL = Config(vocab_size=257, context_length=8, n_layer=1, n_head=2, n_embd=8, dropout=0.1)


@pytest.mark.slow
def test_every_check_holds_to_step_5(data, bpe):
    """The draws, 162 million parameters, the text, the losses, the log: as the book prints them."""
    seen = [
        r
        for r in book_check.run_checks(str(data / "the-verdict.txt"), 6)
        if isinstance(r, book_check.Check)
    ]
    assert [r.name for r in seen if not r.holds] == []
    assert [r.name for r in seen[-2:]] == [f"log, step {step:06d}" for step in (0, 5)]


def test_the_batches_of_two_epochs_are_those_of_pytorchs_loaders():
    """The book's program in PyTorch, with nothing to train: its evaluations draw as well."""
    training = replace(defaults("book").training, stride=8, epochs=2)
    settings = RunConfig(config=replace(SMALL, dropout=0.0), training=training)
    ids = np.arange(220) % 256
    trainer = run.start(settings, dataset.Tokens(ids[:160], ids[160:], "", tokenizer("byte")))
    windows = {i: row.tolist() for i, row in enumerate(trainer.steps_data.inputs)}
    found, update = [], trainer.update
    trainer.update = lambda x, *more: found.append(x.tolist()) or update(x, *more)
    with torch.random.fork_rng(devices=[]):
        torch.set_rng_state(torch.from_numpy(trainer.rng.state.copy()))
        steps = sum(isinstance(event, Step) for event in trainer.events())
        train, val = (
            DataLoader(range(n), batch_size=2, shuffle=shuffle, drop_last=shuffle)
            for n, shuffle in ((len(windows), True), (7, False))
        )
        expected = []
        for _ in range(2):
            for batch in train:
                if len(expected) % 5 == 0:
                    for loader in train, val:
                        next(iter(loader))
                expected.append([windows[int(i)] for i in batch])
        np.testing.assert_array_equal(trainer.rng.state, torch.get_rng_state().numpy())
    assert steps == 18
    assert found == expected


def test_a_check_that_differs_does_not_hold():
    assert book_check.check_numbers("x", (9.781,), (9.7814,), digits=3).holds
    assert not book_check.check_numbers("x", (9.781,), (9.7816,), digits=3).holds
    assert book_check.check_equal("x", "abc", "abc").holds
    assert not book_check.check_equal("x", "abc", "abd").holds


def test_the_presets_are_the_books():
    chapter, appendix = PRESETS["book"], PRESETS["book-appendix-d"]
    t = chapter.training
    assert (t.seed, t.lr, t.weight_decay, t.decay) == (123, 4e-4, 0.1, "all")
    assert (t.batch_size, t.stride, chapter.config.context_length) == (2, None, 256)
    assert (t.train_fraction, t.epochs, t.eval_every, t.eval_batches) == (0.9, 10, 5, 5)
    assert (t.beta1, t.beta2, t.eps, t.grad_clip, t.warmup_steps) == (0.9, 0.999, 1e-8, None, 0)
    assert chapter.init == appendix.init == "book"
    assert appendix.config == chapter.config

    t = appendix.training
    assert (t.epochs, t.warmup_steps, t.grad_clip, t.eval_batches) == (15, 27, 1.0, 1)
    curve = dict(total=135, warmup=t.warmup_steps, peak=t.lr, initial=t.initial_lr, lowest=t.min_lr)
    printed = {0: 1e-5, 1: 4.6667e-05, 26: 0.00096333, 27: 0.001, 81: 0.000505, 134: 1.0209e-05}
    for step, lr in printed.items():
        assert schedule.learning_rate(step, **curve) == pytest.approx(lr, rel=5e-5)  # 5 digits


@pytest.mark.parametrize("eval_rng", ["shared", "separate"])
def test_evaluating_more_often_changes_training_only_where_the_stream_is_shared(eval_rng):
    def trained(eval_every: int) -> np.ndarray:
        training = replace(
            defaults("tiny").training, steps=4, eval_every=eval_every, eval_rng=eval_rng, stride=8
        )
        settings = RunConfig(config=SMALL, training=replace(training, batch_size=2))
        text = np.frombuffer(b"to be, or not to be: that is the question" * 9, np.uint8)
        halves = (part.astype(np.int64) for part in (text[:200], text[200:]))
        tokens = dataset.Tokens(*halves, "", tokenizer("byte"))
        trainer = run.start(settings, tokens)
        assert sum(1 for _ in trainer.events()) > 4
        return trainer.model.params.wte.weight

    same = np.array_equal(trained(1), trained(3))
    assert same == (eval_rng == "separate")
