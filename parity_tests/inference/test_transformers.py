"""Filters, log-probabilities and beams are those of transformers' `generate`, within 1e-4."""

import json

import numpy as np
import pytest

import npgpt
from npgpt import Sampling
from npgpt.inference.beams import beam_search
from npgpt.inference.sampling import adjust, probabilities
from parity_tests.support.run_transformers import ask, available

pytestmark = pytest.mark.slow
SHAPE = {"vocab_size": 61, "n_positions": 32, "n_embd": 16, "n_layer": 2, "n_head": 2}
PROMPT = [3, 14, 15, 9, 2, 6, 5, 3, 58, 9]
FILTERS = [
    Sampling(0.7),
    Sampling(1.3, top_k=9),
    Sampling(1.0, top_p=0.8),
    Sampling(1.5, min_p=0.1),
    Sampling(1.0, repetition_penalty=1.7),
    Sampling(1.0, logit_bias={4: 2.5, 9: -3.0}),
    Sampling(1.4, 20, 0.9, 0.05, 1.2, {4: 1.5, 14: 2.0}),  # all of them, in their order
]
BEAMS = [
    dict(beams=beams, length_penalty=penalty, early_stopping=early, eos_id=eos)
    for beams, penalty, early, eos in (
        (2, 1.0, False, 60), (4, 1.0, False, 7), (3, -0.5, False, 30), (3, 2.0, True, 7),
        (3, 1.0, "never", 30), (3, 0.0, "never", 7), (5, 1.0, False, 11),
    )
]  # fmt: skip
LENGTH = 10


def theirs(sampling):
    """Return a Sampling as options of their `generate`. Its top_k is 50 by default."""
    names = "temperature", "top_p", "min_p", "repetition_penalty"
    found = {name: value for name in names if (value := getattr(sampling, name)) is not None}
    found |= {"do_sample": True, "top_k": sampling.top_k or 0, "max_new_tokens": 1}
    return found | ({"sequence_bias": sampling.logit_bias} if sampling.logit_bias else {})


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """The model, and what transformers answers: filters, a greedy run, beams."""
    if not available():
        pytest.skip("no transformers here")
    folder = tmp_path_factory.mktemp("model")
    beams = [
        dict(num_beams=one["beams"], num_return_sequences=one["beams"], do_sample=False,
             length_penalty=one["length_penalty"], early_stopping=one["early_stopping"],
             eos_token_id=one["eos_id"], pad_token_id=0, max_new_tokens=LENGTH)
        for one in BEAMS
    ]  # fmt: skip
    greedy = dict(do_sample=False, max_new_tokens=LENGTH, pad_token_id=0, eos_token_id=60)
    cases = [*map(theirs, FILTERS), greedy, *beams]
    ask([
        ["save", str(folder), SHAPE],
        ["continue_", str(folder), PROMPT, cases, str(folder / "found.json")],
    ])  # fmt: skip
    found = json.loads((folder / "found.json").read_text())
    n = len(FILTERS)
    return npgpt.load(folder), found[:n], found[n], found[n + 1 :]


def test_filters(answers):
    model, filtered, _, _ = answers
    logits = model.logits([PROMPT])[0, -1]
    for sampling, (_, scores) in zip(FILTERS, filtered, strict=True):
        expected = np.exp(scores[0] - np.max(scores[0]))
        own = adjust(logits, sampling, PROMPT)[None]
        settings = dict(top_k=sampling.top_k, top_p=sampling.top_p, min_p=sampling.min_p)
        found = probabilities(own, sampling.temperature, **settings)[0]
        np.testing.assert_allclose(found, expected / expected.sum(), atol=1e-4, err_msg=sampling)
        assert ((found > 0) == (expected > 0)).all(), sampling


def test_log_probabilities_of_a_greedy_run(answers):
    model, _, ((ids,), scores), _ = answers
    batch = npgpt.Batch(model)
    batch.add(PROMPT, max_new_tokens=LENGTH, eos_id=60, log_probs=1)
    found = []
    while batch:
        found += batch.step()
    assert [new.token for new in found] == ids
    expected = np.array(scores) - np.log(np.exp(scores).sum(-1, keepdims=True))
    own = [new.log_probability for new in found]
    np.testing.assert_allclose(own, expected[np.arange(len(ids)), ids], atol=1e-4)


@pytest.mark.parametrize("number", range(len(BEAMS)))
def test_beams(answers, number):
    model, _, _, searched = answers
    options, (sequences, scores) = BEAMS[number], searched[number]
    eos = options["eos_id"]
    found = beam_search(model, PROMPT, LENGTH, **options)
    ended = [ids[: ids.index(eos) + 1] if eos in ids else ids for ids in sequences]
    assert [beam.tokens for beam in found] == ended
    np.testing.assert_allclose([beam.score for beam in found], scores, atol=1e-4)
