"""Logits -> the next token: what stays, how likely it is, and what is drawn."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import npgpt
from npgpt import ops
from npgpt.errors import InputError, RunError
from npgpt.inference.sampling import (
    Sampling,
    keep_top_k,
    keep_top_p,
    next_token,
    probabilities,
)

# the vocabulary of the book: closer every effort forward inches moves pizza toward you
BOOK = np.array([[4.51, 0.89, -1.90, 6.75, 1.63, -1.62, -1.89, 6.28, 1.79]], np.float32)
INF = np.inf


def draws(logits, count, seed=123, **how):
    """Return the number of times that each token is drawn, one draw after the other."""
    rng = npgpt.Generator(seed, ops=ops)
    drawn = [next_token(logits, **how, rng=rng)[0] for _ in range(count)]
    return np.bincount(drawn, minlength=logits.shape[-1])


# The book's numbers


@pytest.mark.parametrize(
    ("temperature", "expected"),
    [(1.0, [73, 0, 0, 582, 2, 0, 0, 343, 0]), (0.1, [0, 0, 0, 985, 0, 0, 0, 15, 0])],
)
def test_a_thousand_draws_of_the_book(temperature, expected):
    assert draws(BOOK, 1000, temperature=temperature).tolist() == expected


def test_the_three_likeliest_of_the_book():
    probs = probabilities(BOOK, 1.0, top_k=3)[0]
    assert {i: round(float(probs[i]), 4) for i in np.flatnonzero(probs)} == {
        0: 0.0615,
        3: 0.5775,
        7: 0.3610,
    }


@pytest.mark.parametrize("top_k", [None, 3, 25])
@pytest.mark.parametrize("temperature", [0.3, 1.0, 1.5])
def test_the_draws_of_the_books_generate(top_k, temperature):
    """Its code, in PyTorch: topk, where, divide, softmax, multinomial."""
    logits = np.random.default_rng(2).normal(0, 3, (64, 50)).astype(np.float32)
    torch.manual_seed(7)
    x = torch.from_numpy(logits)
    if top_k is not None:
        x = torch.where(x < torch.topk(x, top_k)[0][:, -1:], torch.tensor(-torch.inf), x)
    expected = torch.multinomial(torch.softmax(x / temperature, -1), 1)[:, 0]
    rng = npgpt.Generator(7, ops=ops)
    found = next_token(logits, temperature=temperature, top_k=top_k, rng=rng)
    assert found.tolist() == expected.tolist()
    np.testing.assert_array_equal(rng.state, torch.get_rng_state().numpy())


# Greedy


def test_greedy_takes_the_first_of_the_likeliest_and_draws_nothing():
    logits = np.array([[1, 3, 3], [5, -INF, 2]], np.float32)
    found = next_token(logits)
    assert (found.tolist(), found.dtype) == ([1, 0], np.int64)
    rng = npgpt.Generator(1, ops=ops)
    before = rng.state
    next_token(logits, temperature=0.0, top_k=2, top_p=0.5, rng=rng)
    np.testing.assert_array_equal(rng.state, before)


# What stays


def test_top_k_keeps_ties():
    logits = np.array([[1, 2, 2, 3, 0], [5, 4, 3, 2, 1]], np.float32)
    assert keep_top_k(logits, 2).tolist() == [
        [-INF, 2, 2, 3, -INF],
        [5, 4, -INF, -INF, -INF],
    ]
    assert keep_top_k(logits, 1).tolist()[0] == [-INF, -INF, -INF, 3, -INF]
    for k in (5, 6, 10**9):
        assert keep_top_k(logits, k).tolist() == logits.tolist()
    assert logits[0, 0] == 1  # what was given is left alone


@pytest.mark.parametrize(
    ("p", "expected"),
    [
        (1e-9, [1, 0, 0, 0]),  # the likeliest always stays
        (0.5, [1, 0, 0, 0]),  # it reaches p exactly
        (0.5 + 1e-9, [2 / 3, 1 / 3, 0, 0]),  # it does not: one more
        (0.75, [2 / 3, 1 / 3, 0, 0]),
        (0.76, [4 / 7, 2 / 7, 1 / 7, 0]),
        (1.0, [0.5, 0.25, 0.125, 0.125]),
    ],
)
def test_top_p_keeps_the_fewest_that_reach_p(p, expected):
    probs = np.array([[0.5, 0.25, 0.125, 0.125]])
    mixed = [3, 0, 2, 1]
    np.testing.assert_allclose(keep_top_p(probs, p), [expected], rtol=1e-12)
    found = keep_top_p(probs[:, mixed], p)
    assert np.sort(found).tolist() == np.sort(keep_top_p(probs, p)).tolist()
    np.testing.assert_allclose(found[0, [1, 3]], expected[:2], rtol=1e-12)


def test_top_p_of_equals_takes_them_in_order():
    assert keep_top_p(np.full((1, 4), 0.25), 0.5).tolist() == [[0.5, 0.5, 0, 0]]


@settings(deadline=None)
@given(
    logits=st.lists(st.floats(-30, 30, width=32), min_size=1, max_size=12),
    p=st.floats(0.01, 1),
    k=st.integers(1, 15),
    temperature=st.floats(0.01, 10),
)
def test_what_is_kept_are_probabilities_of_the_likeliest(logits, p, k, temperature):
    x = np.array([logits], np.float32)
    plain = probabilities(x, temperature)[0]
    for how in ({"top_k": k}, {"top_p": p}, {"top_k": k, "top_p": p}):
        probs = probabilities(x, temperature, **how)[0]
        assert probs.dtype == np.float32
        assert probs.sum() == pytest.approx(1, abs=1e-5)
        assert probs.min() >= 0
        kept = probs > 0
        assert kept.any()
        if not kept.all():  # nothing that was left out is likelier than what stayed
            assert plain[~kept].max() <= plain[kept].min()
        if "top_k" not in how:
            assert plain[kept].sum() >= p - 1e-5


def test_top_k_comes_before_temperature_and_top_p_after_it():
    """Two likely tokens, many unlikely ones: a high temperature would bring the latter in."""
    logits = np.log(np.array([[0.5, 0.3, 0.1, 0.06, 0.04]]))
    t = 2.0
    kept = np.array([0.5, 0.3, 0.1]) ** (1 / t)
    kept /= kept.sum()  # 0.46, 0.36, 0.18
    assert kept[0] < 0.5 < kept[:2].sum()
    expected = np.zeros(5)
    expected[:2] = kept[:2] / kept[:2].sum()
    found = probabilities(logits, t, top_k=3, top_p=0.5)[0]
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    # top-p before the temperature would have kept the first token alone; and top-k after top-p
    # would have asked p of all five: 0.37 + 0.28 + ... needs three
    assert not np.isclose(found[0], 1)
    wide = np.array([0.5, 0.3, 0.1, 0.06, 0.04]) ** (1 / t)
    assert (wide / wide.sum())[:2].sum() > 0.5 > (wide / wide.sum())[0]


# What is drawn


@pytest.mark.parametrize(
    ("how", "temperature"),
    [
        ({}, 0.7), ({}, 2.0), ({"top_k": 4}, 1.0), ({"top_p": 0.8}, 2.0),
        ({"top_k": 5, "top_p": 0.7}, 0.7),
    ],
    ids=str,
)  # fmt: skip
def test_draws_come_as_often_as_they_should(backend, how, temperature):
    """Pearson's chi square of 20,000 draws below its mean plus five standard deviations."""
    logits = np.array([2.0, 1.0, 0.5, 0.0, -0.5, -1.0, -3.0], np.float32)
    n = 20_000
    probs = probabilities(logits[None], temperature, **how)[0].astype(float)
    rng = npgpt.Generator(11, ops=backend)
    drawn = next_token(np.tile(logits, (n, 1)), temperature=temperature, **how, rng=rng)
    counts = np.bincount(drawn, minlength=7)
    possible = probs > 0
    assert counts[~possible].sum() == 0
    expected = n * probs[possible]
    freedom = possible.sum() - 1
    chi_square = ((counts[possible] - expected) ** 2 / expected).sum()
    assert chi_square < freedom + 5 * math.sqrt(2 * freedom)


def test_rows_are_drawn_independently():
    logits = np.log(np.array([[0.999, 0.001], [0.001, 0.999]], np.float32))
    drawn = next_token(logits, temperature=1.0, rng=npgpt.Generator(3, ops=ops))
    assert (drawn.tolist(), drawn.dtype, drawn.shape) == ([0, 1], np.int64, (2,))


# Numbers at their limits


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_dtype_stays(dtype):
    x = BOOK.astype(dtype)
    assert keep_top_k(x, 2).dtype == dtype
    for how in ({}, {"top_k": 3}, {"top_p": 0.5}):
        assert probabilities(x, 0.7, **how).dtype == dtype


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("temperature", [1e-3, 1e-30, 1e-45, 1e-300, 5e-324])
def test_a_tiny_temperature_is_greedy(dtype, temperature):
    """Also one that float32 cannot tell from zero; no warning, which would be an error here."""
    x = np.array([[1e4, 1e4 - 1, -1e4, -INF], [3, 3, 2, 1]], dtype)
    probs = probabilities(x, temperature)
    np.testing.assert_array_equal(probs, [[1, 0, 0, 0], [0.5, 0.5, 0, 0]])
    rng = npgpt.Generator(1, ops=ops)
    assert next_token(x, temperature=temperature, top_k=2, top_p=0.9, rng=rng)[0] == 0


def test_a_high_temperature_is_even():
    np.testing.assert_allclose(probabilities(BOOK, 1e30), np.full((1, 9), 1 / 9), rtol=1e-6)


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p", "says"),
    [
        (-0.1, None, None, "temperature is -0.1, but must be 0"),
        (np.nan, None, None, "temperature is nan"),
        (np.inf, None, None, "temperature is inf"),
        (1, 0, None, "top_k is 0, but must be at least 1"),
        (1, -3, None, "top_k is -3"),
        (1, None, 0, r"top_p is 0, but must be in \(0, 1\]"),
        (1, None, 1.1, "top_p is 1.1"),
        (1, None, np.nan, "top_p is nan"),
    ],
)
def test_settings_that_mean_nothing(temperature, top_k, top_p, says):
    with pytest.raises(InputError, match=says):
        Sampling(temperature, top_k, top_p)


@pytest.mark.parametrize(("temperature", "top_k", "top_p"), [(0, 1, 1), (1e9, 10**9, 1e-9)])
def test_settings_at_their_limits(temperature, top_k, top_p):
    Sampling(temperature, top_k, top_p)


def test_the_probabilities_of_settings_are_those_that_are_drawn_from():
    """A row at a time, after the bias and the penalty; at temperature 0, all is on one token."""
    logits = BOOK[0]
    for chosen in (Sampling(0.7), Sampling(1.3, top_k=4), Sampling(1, top_p=0.6, min_p=0.1)):
        filters = dict(top_k=chosen.top_k, top_p=chosen.top_p, min_p=chosen.min_p)
        expected = probabilities(logits[None], chosen.temperature, **filters)[0]
        np.testing.assert_array_equal(chosen.probabilities(logits), expected)
    best = int(logits.argmax())
    np.testing.assert_array_equal(Sampling().probabilities(logits), np.arange(9) == best)
    biased = Sampling(1, logit_bias={best: -100.0}).probabilities(logits)
    assert biased[best] < 1e-30 and biased.sum() == pytest.approx(1)
    penalized = Sampling(1, repetition_penalty=3.0)
    assert penalized.probabilities(logits, [best])[best] < penalized.probabilities(logits)[best]
    for wrong, text, says in (
        (logits[None], (), r"logits must be float32 or float64 of shape \(V,\)"),
        (logits, [9], "token 9 is outside the vocabulary of 9"),
        (logits, 3, "text must be token ids"),
    ):
        with pytest.raises(InputError, match=says):
            Sampling().probabilities(wrong, text)


@pytest.mark.parametrize(
    "chosen",
    [
        Sampling(1e300),
        Sampling(1, repetition_penalty=1e-300),
        Sampling(1, repetition_penalty=1e300),
        Sampling(1, logit_bias={0: 1e300, 1: -1e300}),
    ],
)
def test_numbers_that_float32_does_not_have_give_probabilities(chosen):
    """One such request must not end the batch of all clients."""
    found = chosen.probabilities(BOOK[0].astype(np.float32), range(9))
    assert np.isfinite(found).all() and found.sum() == pytest.approx(1)
    broken = np.array([np.inf, 0, 0], np.float32)
    with pytest.raises(RunError):  # the penalty hides no error of the model
        chosen.probabilities(broken, range(3))


# Few of many tokens are sorted


def sorted_top_p(probs, p):
    """The definition: all tokens in a stable order."""
    order = np.argsort(-probs, axis=-1, kind="stable")
    ranked = np.take_along_axis(probs, order, -1)
    before = ranked.cumsum(-1) - ranked
    before[..., 0] = -1
    kept = np.zeros_like(probs)
    np.put_along_axis(kept, order, np.where(before < p, ranked, 0), -1)
    return kept / kept.sum(-1, keepdims=True)


@pytest.mark.parametrize("V", [3, 60, 5000])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("spread", [0.01, 1, 8])
@pytest.mark.parametrize("has_ties", [False, True])
def test_the_filters_are_those_of_a_full_sort_bit_for_bit(V, dtype, spread, has_ties, rng):
    logits = rng.normal(0, spread, (3, V)).astype(dtype)
    if has_ties:
        logits = np.round(logits)
        logits[:, rng.random(V) < 0.5] = -INF
        logits[:, 0] = 0
    probs = probabilities(logits, 1.0)
    for p in (1e-9, 0.01, 0.5, 0.9, 0.999, 1 - 1e-7, 1.0):
        np.testing.assert_array_equal(keep_top_p(probs, p), sorted_top_p(probs, p))
    for k in (1, 2, 7, 40, V // 2 + 1, V):
        threshold = np.sort(logits)[:, -min(k, V), None]
        expected = np.where(logits < threshold, -INF, logits)
        np.testing.assert_array_equal(keep_top_k(logits, k), expected)
