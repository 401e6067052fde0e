"""Prompts of unequal length: each row is what it would be alone."""

import numpy as np
import pytest

import npgpt
from npgpt.errors import InputError
from parity_tests.inference.test_generate import model_of, passes

PROMPTS = [[1, 2, 3], [9], [0, 16, 8], [4, 4, 4, 4, 4, 4, 4, 4, 4, 4], [5, 6]]


@pytest.fixture
def model(backend):
    return model_of(backend)


def test_greedy(model):
    """Past the end of the context too, where the window slides at another time for each."""
    together = np.array(list(npgpt.generate(model, PROMPTS, 12)))
    assert (together.shape, together.dtype) == ((12, 5), np.int64)
    alone = [list(npgpt.generate(model, prompt, 12)) for prompt in PROMPTS]
    assert together.T.tolist() == alone
    assert len({tuple(row) for row in alone}) > 2  # or the test would show nothing
    arrays = [np.array(prompt) for prompt in PROMPTS]
    assert np.array(list(npgpt.generate(model, arrays, 12))).tolist() == together.tolist()


def test_each_ends_by_itself(model):
    free = [list(npgpt.generate(model, prompt, 12)) for prompt in PROMPTS]
    eos = free[0][3]
    bound = np.array(list(npgpt.generate(model, PROMPTS, 12, eos_id=eos))).T
    for row, prompt in zip(bound.tolist(), PROMPTS, strict=True):
        alone = list(npgpt.generate(model, prompt, 12, eos_id=eos))
        assert row[: len(alone)] == alone
        assert set(row[len(alone) :]) <= {eos}


def generators(model):
    return [npgpt.Generator(seed, ops=model.ops) for seed in range(5)]


def test_sampled_with_a_generator_for_each(model):
    settings = dict(temperature=0.9, top_k=9, top_p=0.95)
    rngs = generators(model)
    together = np.array(list(npgpt.generate(model, PROMPTS, 12, **settings, rng=rngs))).T
    again = generators(model)
    alone = [
        list(npgpt.generate(model, prompt, 12, **settings, rng=rng))
        for prompt, rng in zip(PROMPTS, again, strict=True)
    ]
    assert together.tolist() == alone
    assert [rng.state.tobytes() for rng in rngs] == [rng.state.tobytes() for rng in again]


def test_a_prompt_that_has_ended_draws_no_more(model):
    settings = dict(temperature=0.9, eos_id=10)
    rngs, again = generators(model), generators(model)
    together = np.array(list(npgpt.generate(model, PROMPTS, 30, **settings, rng=rngs))).T
    lengths = []
    for row, prompt, rng, other in zip(together.tolist(), PROMPTS, rngs, again, strict=True):
        alone = list(npgpt.generate(model, prompt, 30, **settings, rng=other))
        assert row[: len(alone)] == alone
        assert set(row[len(alone) :]) <= {10}
        assert rng.state.tobytes() == other.state.tobytes()
        lengths.append(len(alone))
    assert len(set(lengths)) > 1


def test_sampled_with_one_generator(model):
    """It draws for the rows in turn, step by step, as it does for rows of one length."""
    rng, once = (npgpt.Generator(3, ops=model.ops) for _ in range(2))
    (first,) = npgpt.generate(model, PROMPTS, 1, temperature=1.0, rng=rng)
    logits = np.concatenate([model.logits([prompt[-8:]])[:, -1] for prompt in PROMPTS])
    from npgpt.inference import sampling

    expected = sampling.next_token(logits, temperature=1.0, rng=once)
    assert first.tolist() == expected.tolist()


def test_all_rows_are_one_batch(model, monkeypatch):
    """One pass of the model for the prompts, and one for each further step."""
    calls = passes(monkeypatch)
    list(npgpt.generate(model, [[1, 2], [3, 4]], 2))
    assert calls == [(2, 2), (2, 1)]
    calls.clear()
    list(npgpt.generate(model, [[1, 2], [3, 4, 1], [5, 6]], 3))
    assert calls == [(3, 3), (3, 1), (3, 1)]


def test_one_prompt_yields_integers(model):
    new = list(npgpt.generate(model, [1, 2, 3], 4))
    assert {type(token) for token in new} == {int}
    assert new == list(npgpt.generate(model, np.array([1, 2, 3]), 4))
    rows = list(npgpt.generate(model, [[1, 2, 3]], 4))
    assert [row.shape for row in rows] == [(1,)] * 4
    assert [int(row[0]) for row in rows] == new


@pytest.mark.parametrize(
    ("prompts", "options", "says"),
    [
        ([[1, 2], []], {}, "the prompt is empty"),
        ([[1, 2], [17]], {}, "token id 17 is outside"),
        ([[1, 2], [[3]]], {}, "tokens must be"),
        ([[1, 2], ["a"]], {}, "tokens must be"),
        ([[1, 2], [1.5]], {}, "tokens must be integers"),
        ([[1, 2], 3], {}, "tokens must be"),
        (PROMPTS, {"rng": [npgpt.Generator(1, ops="numpy")] * 2}, "2 generators for 5 prompts"),
        (PROMPTS, {"rng": [None] * 5, "temperature": 1.0}, "draws at random"),
    ],
)
def test_prompts_that_cannot_be_read(model, prompts, options, says):
    with pytest.raises(InputError, match=says):
        npgpt.generate(model, prompts, 3, **options)
