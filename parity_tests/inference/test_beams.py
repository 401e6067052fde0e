"""Beam search without transformers: exhaustive search, windows that slide, invalid arguments."""

import itertools

import numpy as np
import pytest

import npgpt
from npgpt.errors import InputError, RunError
from npgpt.inference.beams import Search
from npgpt.inference.sampling import log_probabilities
from npgpt.inference.window import Reader
from parity_tests.inference.test_generate import model_of


def test_enough_beams_find_the_best_of_all_continuations(backend):
    """With V beams, no continuation of two tokens is cut off."""
    model = model_of(backend, vocab_size=40)
    prompt = [1, 2, 3]
    first = log_probabilities(model.logits([prompt])[0, -1])
    pairs = [[*prompt, token] for token in range(40)]
    second = log_probabilities(model.logits(pairs)[:, -1])
    total = {(a, b): first[a] + second[a, b] for a, b in itertools.product(range(40), repeat=2)}
    best = sorted(total, key=lambda pair: -total[pair])[:5]
    found = npgpt.beam_search(model, prompt, 2, 20)[:5]
    assert [tuple(beam.tokens) for beam in found] == best
    np.testing.assert_allclose([beam.score for beam in found], [total[p] / 2 for p in best])


def test_one_beam_is_greedy_past_the_end_of_the_context_too(backend):
    model = model_of(backend)
    for keep in (None, 2):
        (found,) = npgpt.beam_search(model, [1, 2, 3], 14, 1, keep=keep)
        assert found.tokens == list(npgpt.generate(model, [1, 2, 3], 14, keep=keep))
    (found,) = npgpt.beam_search(model, [1, 2, 3], 5, 1, repetition_penalty=1e6)
    assert len({1, 2, 3, *found.tokens}) == 8


def test_several_searches_share_passes(backend):
    """With the Numba backend, beams and scores are bit for bit those of each search alone."""
    model = model_of(backend)
    prompts, options = [[1, 2, 3], [4], [5, 6, 7, 8, 9]], dict(eos_id=2, keep=1)
    reader = Reader(model)
    searches = [Search(reader, one, 12, 3, npgpt.Sampling(), **options) for one in prompts]
    while running := [search for search in searches if search.windows]:
        logits = iter(list(reader.logits([w for search in running for w in search.windows])))
        for search in running:
            search.step(itertools.islice(logits, len(search.windows)))
    for search, prompt in zip(searches, prompts, strict=True):
        alone = npgpt.beam_search(model, prompt, 12, 3, **options)
        assert [beam.tokens for beam in search.best] == [beam.tokens for beam in alone]
        close = 0 if backend == "fused" else 1e-6
        scores = ([beam.score for beam in one] for one in (search.best, alone))
        np.testing.assert_allclose(*scores, rtol=close)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (dict(tokens=[]), "the prompt is empty"),
        (dict(beams=9), "beams is 9, but must be 1 to 8"),
        (dict(beams=0), "beams is 0"),
        (dict(max_new_tokens=0), "max_new_tokens is 0"),
        (dict(early_stopping="x"), "early_stopping is 'x'"),
        (dict(eos_id=True), "eos_id is True, but must be an integer"),
        (dict(length_penalty=np.nan), "length_penalty is nan"),
    ],
)
def test_arguments_that_make_no_sense(changes, says):
    options = dict(tokens=[1], max_new_tokens=2, beams=2) | changes
    with pytest.raises(InputError, match=says):
        npgpt.beam_search(model_of("numpy"), **options)


def test_nan_is_no_answer():
    model = model_of("numpy")
    model.params.ln_f.bias[0] = np.nan
    with pytest.raises(RunError, match=r"ln_f\.bias"):
        npgpt.beam_search(model, [1], 2, 2)
