"""Readings of a text by forward passes: next token, surprise, attention, logit lens."""

from dataclasses import replace

import numpy as np
import pytest

import npgpt
from npgpt import ops
from npgpt.errors import InputError, RunError
from npgpt.explain import attention, logit_lens, next_token, token_text, writing
from npgpt.inference import sampling

CONFIG = npgpt.Config(vocab_size=31, context_length=12, n_layer=3, n_head=2, n_embd=16)
TOKENS = [3, 1, 4, 1, 5, 9, 2, 6]


@pytest.fixture(scope="module")
def model():
    model = npgpt.GPT(CONFIG, seed=5, ops=ops)
    model.params.wte.weight[...] *= 20  # so that the predictions differ
    return model


def log_probs(model) -> np.ndarray:
    logits = model.logits([TOKENS])[0].astype(np.float64)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def test_surprise_is_the_loss_of_each_token(model):
    found = writing.reading(model, TOKENS, count=4)
    own = log_probs(model)[np.arange(7), TOKENS[1:]]
    np.testing.assert_allclose(found.surprise[1:], -own, rtol=1e-6)
    mean = model.evaluate([TOKENS[:-1]], [TOKENS[1:]])
    assert np.mean(found.surprise[1:]) == pytest.approx(mean, rel=1e-6)
    assert np.isnan(found.surprise[0]) and found.rank[0] == -1


def test_the_alternatives_are_the_most_likely_tokens(model):
    found = writing.reading(model, TOKENS, count=4)
    logs = log_probs(model)
    assert (found.ids[0] == -1).all() and (found.probs[0] == 0).all()
    for t in range(len(TOKENS)):
        best = np.argsort(-logs[t], kind="stable")
        assert found.ids[t + 1].tolist() == best[:4].tolist()
        np.testing.assert_allclose(found.probs[t + 1], np.exp(logs[t][best[:4]]), rtol=1e-5)
        if t:
            before = np.argsort(-logs[t - 1], kind="stable")
            assert found.rank[t] == before.tolist().index(TOKENS[t])
    np.testing.assert_allclose(found.entropy[1:], -(np.exp(logs) * logs).sum(-1), rtol=1e-5)


def test_logits_in_parts_are_those_of_one(model, monkeypatch):
    at_once = writing.reading(model, TOKENS)
    monkeypatch.setattr("npgpt.explain.readout.MOST_LOGITS", 3 * CONFIG.vocab_size)
    in_parts = writing.reading(model, TOKENS)
    for one, other in zip(at_once, in_parts, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)


def test_weights_are_those_of_trace(model):
    traced = model.trace([TOKENS])
    for layer, found in enumerate(attention.every_layer(model, TOKENS)):
        expected = traced[f"h.{layer}.attn.probs"][0]
        np.testing.assert_array_equal(found, expected)
        np.testing.assert_array_equal(attention.weights(model, TOKENS, layer), expected)


def test_the_last_row_of_the_lens_is_the_model(model):
    lens, read = logit_lens.lens(model, TOKENS), writing.reading(model, TOKENS, count=5)
    assert lens.ids.shape == (4, 8, 5)
    np.testing.assert_array_equal(lens.ids[-1], read.ids[1:])
    np.testing.assert_array_equal(lens.surprise[-1, :-1], read.surprise[1:])
    assert np.isnan(lens.surprise[:, -1]).all()


def test_every_layer_has_the_probability_of_the_answer():
    """Also where the answer is not among the first."""
    model = npgpt.GPT(replace(CONFIG, tied=False), ops=ops, seed=4)
    lens, whole = (logit_lens.lens(model, TOKENS, count=n) for n in (1, CONFIG.vocab_size))
    assert (lens.ids[0] != lens.ids[-1]).any()
    expected = np.where(whole.ids == lens.ids[-1], whole.probs, 0).sum(-1)
    np.testing.assert_array_equal(lens.answer, expected)


def test_a_row_of_the_lens_leaves_out_the_blocks_above(model):
    lens = logit_lens.lens(model, TOKENS)
    shape = npgpt.Config(**{**vars(CONFIG), "n_layer": 1})
    first = npgpt.GPT.from_params(shape, model.params._replace(h=model.params.h[:1]), ops=ops)
    np.testing.assert_array_equal(lens.ids[1], writing.reading(first, TOKENS, count=5).ids[1:])


@pytest.mark.parametrize(
    "how", [{}, {"temperature": 0.3}, {"top_k": 5}, {"top_p": 0.6}, {"top_k": 9, "top_p": 0.5},
            {"temperature": 1.7, "top_k": 6, "top_p": 0.8}],
)  # fmt: skip
def test_filters_end_with_what_is_drawn_from(model, how):
    logits = next_token.logits(model, TOKENS)
    found = next_token.filters(logits, **how)
    expected = sampling.probabilities(logits[None], **({"temperature": 1.0} | how))[0]
    np.testing.assert_array_equal(found.top_p, expected)
    np.testing.assert_array_equal(found.plain, sampling.probabilities(logits[None], 1.0)[0])
    for one in found:
        assert one.sum() == pytest.approx(1, abs=1e-5)
    assert np.count_nonzero(found.top_k) == how.get("top_k", CONFIG.vocab_size)
    assert np.count_nonzero(found.temperature) == np.count_nonzero(found.top_k)


def test_temperature_0_is_greedy(model):
    logits = next_token.logits(model, TOKENS)
    found = next_token.filters(logits, temperature=0)
    assert found.top_p.tolist() == [float(i == logits.argmax()) for i in range(CONFIG.vocab_size)]


def test_draws_are_those_of_generate(monkeypatch):
    """The book's thousand draws, in parts and at once."""
    probs = next_token.filters(next_token.BOOK_LOGITS).top_p
    found = next_token.draws(probs, 1000, npgpt.Generator(123, ops=ops))
    assert np.bincount(found).tolist() == [73, 0, 0, 582, 2, 0, 0, 343]
    monkeypatch.setattr(next_token, "MOST_DRAWN", 100)
    rng = npgpt.Generator(123, ops=ops)
    assert next_token.draws(probs, 1000, rng).tolist() == found.tolist()


def test_the_first_draw_is_the_token_that_generate_writes(model):
    how = dict(temperature=1.3, top_k=20)
    probs = next_token.filters(next_token.logits(model, TOKENS), **how).top_p
    for seed in range(5):
        drawn = next_token.draws(probs, 1, npgpt.Generator(seed, ops=ops))
        wrote = npgpt.generate(model, TOKENS, 1, rng=npgpt.Generator(seed, ops=ops), **how)
        assert drawn.tolist() == list(wrote)


@pytest.mark.parametrize(
    ("tokens", "says"),
    [([], "the text has 0 tokens"), ([[1, 2]], "of one text"), ([31], "outside the vocabulary"),
     (range(13), "longer than the context"), ("abc", "of one text")],
)  # fmt: skip
def test_what_the_model_cannot_read(model, tokens, says):
    with pytest.raises(InputError, match=says):
        writing.reading(model, tokens)


def test_a_layer_that_the_model_has_not(model):
    with pytest.raises(InputError, match="layer is 3, but must be from 0 to 2"):
        attention.weights(model, TOKENS, 3)


def test_a_model_of_nans():
    broken = npgpt.GPT(CONFIG, seed=1, ops=ops)
    broken.params.h[1].mlp.c_fc.weight[2, 3] = np.nan
    said = "h.1.mlp.c_fc.weight holds nan"
    for view in (writing.reading, logit_lens.lens, next_token.logits):
        with pytest.raises(RunError, match=said):
            view(broken, TOKENS)
    with pytest.raises(RunError, match=said):
        attention.weights(broken, TOKENS, 2)
    assert np.isfinite(attention.weights(broken, TOKENS, 1)).all()


def test_the_text_of_tokens():
    found = token_text.texts(npgpt.tokenizer("byte"), [65, 32, 10, 0xE2, 256, 300, -1])
    assert found == ["A", " ", "\\n", "\\xe2", "<|endoftext|>", "<300>", "<-1>"]
    assert token_text.texts(None, [7]) == ["<7>"]
