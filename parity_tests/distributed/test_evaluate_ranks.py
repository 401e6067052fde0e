"""The loss of a model on a text whose windows the ranks share."""

import numpy as np
import pytest

import npgpt
import npgpt.ops
from npgpt.distributed import evaluation
from npgpt.distributed.world import World
from npgpt.errors import InputError
from npgpt.inference.evaluate import make_batches
from parity_tests.support import thread_ranks

CONFIG = npgpt.Config(vocab_size=257, context_length=12, n_layer=1, n_head=2, n_embd=8)
TOKENS = np.random.default_rng(0).integers(0, 257, 300)
OPTIONS = dict(stride=5, batch_size=3)


@pytest.fixture
def model(monkeypatch):
    monkeypatch.setattr(evaluation, "once_per_machine", lambda world, work: work())
    return npgpt.GPT(CONFIG, seed=3, ops=npgpt.ops)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 40])  # there are 21 batches
def test_every_number_of_ranks_gives_the_same_loss(size, model):
    seen = []

    def program(here):
        batches = make_batches(model, TOKENS, **OPTIONS)

        def track(share):
            for inputs, targets in share:
                seen.append((here.rank, targets.size))
                yield inputs, targets

        return evaluation.evaluate(here, model, batches, track)

    losses = thread_ranks.run(size, program) if size > 1 else [program(World())]
    assert set(losses) == {npgpt.evaluate(model, TOKENS, **OPTIONS)}
    assert sum(count for _, count in seen) == len(TOKENS) - 1
    assert len({rank for rank, _ in seen}) == min(size, 21)


@pytest.mark.parametrize("what", ["parameters", "text", "windows"])
def test_ranks_with_other_values_are_refused(what, model):
    def program(here):
        last = here.rank == 2
        own = npgpt.GPT(CONFIG, seed=3 + last * (what == "parameters"), ops=npgpt.ops)
        tokens = TOKENS[::-1] if last and what == "text" else TOKENS
        batches = make_batches(own, tokens, stride=6 if last and what == "windows" else 5)
        with pytest.raises(InputError, match=f"the {what} must be equal on all .* rank 2 on host"):
            evaluation.evaluate(here, own, batches)
        return True

    assert all(thread_ranks.run(3, program))
