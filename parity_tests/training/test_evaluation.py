"""Evaluations during training: windows that are spread evenly, and do not change the training."""

from dataclasses import replace

import numpy as np
import pytest

from npgpt.config import Config, TrainingConfig
from npgpt.data.mapped_tokens import MappedTokens, MixedTokens, spread
from npgpt.gpt import GPT
from npgpt.rng import Generator
from npgpt.training.evaluation import FirstBatches, SpreadWindows, make_evaluation
from npgpt.training.trainer import Trainer

CONFIG = Config(vocab_size=257, context_length=8, n_layer=1, n_head=2, n_embd=8, dropout=0.2)
TRAINING = TrainingConfig(batch_size=3, epochs=2, stride=5, eval_every=2, eval_batches=2, seed=4)
IDS = np.random.default_rng(2).integers(0, 257, 500)


class Recorder:
    """A model whose loss of a window is its first token; it records the windows."""

    def __init__(self):
        self.seen = []

    def evaluate(self, inputs, targets):
        assert np.array_equal(inputs[:, 1:], targets[:, :-1])
        self.seen += inputs[:, 0].tolist()
        return float(inputs[:, 0].mean())


def mapped(start, size):
    """Tokens that count from `start`."""
    return MappedTokens.of_array("", np.arange(start, start + size), 10_000)


def evaluate(tokens, eval_tokens, batch_size=3):
    """Return the windows of an evaluation, and its loss."""
    model = Recorder()
    windows = SpreadWindows(tokens, 8, eval_tokens, batch_size)
    loss = windows.loss(model, None)
    again = Recorder()
    assert windows.loss(again, None) == loss and again.seen == model.seen
    return model.seen, loss


@pytest.mark.parametrize("count", range(1, 20))
@pytest.mark.parametrize("n", [1, 7, 19, 1000])
def test_windows_are_spread_evenly(n, count):
    count = min(n, count)
    found = spread(range(count), count, n)
    assert len(set(found)) == count and 0 <= found[0] and found[-1] < n
    gaps = np.diff([-1 - found[0], *found, 2 * n - 1 - found[-1]])  # mirrored at both ends
    assert gaps.max() - gaps.min() <= 2
    assert spread(range(n), n, n) == list(range(n))


@pytest.mark.parametrize("batch_size", [1, 3, 50])
def test_as_many_tokens_are_evaluated_as_given(batch_size):
    tokens = mapped(0, 801)  # 100 windows of 8
    assert evaluate(tokens, 40, batch_size) == ([80, 240, 400, 560, 720], 400)
    assert evaluate(tokens, 47, batch_size)[0] == [80, 240, 400, 560, 720]
    assert evaluate(tokens, 1, batch_size)[0] == [400]
    for everything in (800, 10**9, None):
        assert evaluate(tokens, everything, batch_size) == (list(range(0, 800, 8)), 396)


def test_sources_count_by_their_weights():
    tokens = MixedTokens([mapped(0, 801), mapped(5000, 1601)], (3, 1))
    seen, loss = evaluate(tokens, 320)
    first, second = np.array(seen[:30]), np.array(seen[30:])
    assert len(second) == 10 and first.max() < 1000 and second.min() >= 5000
    assert loss == pytest.approx(0.75 * first.mean() + 0.25 * second.mean())
    seen, _ = evaluate(replace(tokens, weights=None), 240)  # 100 windows and 200
    assert sum(token < 1000 for token in seen) == 10 and len(seen) == 30
    seen, loss = evaluate(replace(tokens, weights=(1, 10**6)), 240)
    assert seen[0] == 400 and len(seen) == 31  # at least one of each
    assert loss == pytest.approx(np.mean(seen[1:]), abs=0.01)


def begin(**changes):
    training = replace(TRAINING, **changes)
    rng = Generator(training.seed, ops="numpy")
    return Trainer(GPT(CONFIG, seed=rng, ops="numpy"), IDS[:400], IDS[400:], training, rng)


@pytest.mark.parametrize("eval_rng", ["shared", "separate"])
def test_eval_tokens_do_not_change_the_training(eval_rng):
    ends = []
    for eval_tokens in (None, 8, 64, 10**6):
        trainer = begin(eval_rng=eval_rng, eval_tokens=eval_tokens)
        list(trainer.events())
        ends.append((trainer.model.params.wte.weight.tobytes(), trainer.rng.state.tobytes()))
        losses = {point["val_loss"] for point in trainer.progress.history}
        assert len(losses) == len(trainer.progress.history) > 5
    assert len(set(ends)) == 1


def test_the_books_batches_without_eval_tokens():
    first, second = begin().evaluations
    assert isinstance(first, FirstBatches) and first.instead is second.instead is None
    assert (first.data.shuffle, second.data.shuffle, first.count) == (True, False, 2)
    trainer = begin(eval_tokens=1000)
    whole = [
        trainer.model.evaluate(tokens[None, :-1], tokens[None, 1:])
        for tokens in (IDS[i : i + 9] for i in range(400, 491, 8))
    ]
    assert trainer.split_losses()[1] == pytest.approx(np.mean(whole), rel=1e-6)


def test_mapped_data_are_spread_without_eval_tokens_too():
    tokens = MappedTokens.of_array("", IDS, 257)
    for batches, count in ((2, 6), (None, 62)):
        training = replace(TRAINING, eval_batches=batches)
        found = make_evaluation(tokens, training, CONFIG, "validation")
        assert isinstance(found, SpreadWindows)
        assert [part[1] for part in found.parts] == [count]
