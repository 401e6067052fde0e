"""The random stream against torch, bit for bit: values, and the state after every call."""

import math

import numba
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from npgpt.rng import Generator
from parity_tests.support.torch_stream import (
    BACKENDS,
    CALLS,
    COMPARABLE,
    ROUNDS_ONCE,
    SEEDS,
    SIZES,
    Call,
    begin,
    probabilities,
    rounds_once,
)


@pytest.mark.parametrize(
    "call",
    [pytest.param(c, marks=rounds_once if c.rounding else (), id=str(c)) for c in CALLS],
)
def test_every_call(call, ops):
    for seed in SEEDS:
        generator = begin(seed, ops)
        for n in SIZES:
            if n >= call.least:
                call.check(generator, n)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**64 - 1),
    steps=st.lists(st.tuples(st.sampled_from(COMPARABLE), st.integers(0, 700)), max_size=25),
)
@pytest.mark.parametrize("backend", BACKENDS)
def test_calls_in_any_order(backend, seed, steps):
    generator = begin(seed, BACKENDS[backend])
    for call, n in steps:
        call.check(generator, max(n, call.least))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**64 - 1), sizes=st.lists(st.integers(0, 18), max_size=12))
@pytest.mark.parametrize("backend", BACKENDS)
@rounds_once
def test_short_normals_keep_their_sine(backend, seed, sizes):
    normals = [c for c in CALLS if c.name.startswith("normal")]
    generator = begin(seed, BACKENDS[backend])
    for i, n in enumerate(sizes):
        normals[i % len(normals)].check(generator, n)


def test_bernoulli_draws_the_line_between_two_floats(ops):
    """u < p at its closest: p is the very u that will be drawn, and then the next number up."""
    generator = begin(123, ops)
    for _ in range(50):
        (u,) = generator.copy().uniform(1, dtype=np.float64)
        for p, expected in (u, False), (np.nextafter(u, 1), True):
            assert generator.copy().bernoulli(p, 1) == expected
            state = torch.get_rng_state()
            assert torch.empty(1).bernoulli_(p) == expected
            torch.set_rng_state(state)
        generator.random64(), torch.empty((), dtype=torch.int64).random_()


def test_shapes_fill_in_memory_order(ops):
    generator = begin(5, ops)
    for shape in (3, 4, 5), (0, 7), (), [2, 3], 6:
        theirs = torch.rand(shape)
        np.testing.assert_array_equal(generator.uniform(shape), theirs.numpy())
        theirs = torch.randint(0, 9, theirs.shape)
        np.testing.assert_array_equal(generator.randint(0, 9, shape), theirs.numpy())
        np.testing.assert_array_equal(generator.state, torch.get_rng_state().numpy())


def test_multinomial_of_few_tokens_and_of_numbers_at_their_limits():
    """The Numba backend skips logarithms that cannot matter: all else is as in the definition."""
    rng = np.random.default_rng(4)
    for V in (1, 2, 3000, 9000):
        for dtype in (np.float32, np.float64):
            probs = rng.random((6, V)).astype(dtype) ** 8
            probs[1] *= rng.random(V) < 0.01
            probs[2] *= np.finfo(dtype).tiny / 4  # subnormal
            probs[3] *= np.finfo(dtype).max
            probs[4] = 0
            probs[:, -1] += np.finfo(dtype).smallest_subnormal
            one, other = (begin(V, ops) for ops in BACKENDS.values())
            assert one.multinomial(probs).tolist() == other.multinomial(probs).tolist()
            np.testing.assert_array_equal(one.state, other.state)


def test_multinomial_where_the_stream_is_zero():
    """u = 0 makes q = 0: p / q is inf, and nan for p = 0, which is the largest to argmax."""
    for probs in ([0.5, 0, 0.5, 0], [0.1, 0.2], [0, 0, 1]):
        found = []
        for ops in BACKENDS.values():
            generator = begin(1, ops)
            generator._engine.key[:], generator._engine.position[0] = 0, 1
            found.append(int(generator.multinomial(np.array(probs, float))))
        expected = probs.index(0) if 0 in probs else 0
        assert found == [expected, expected]


def test_multinomial_takes_any_leading_shape(ops):
    generator = begin(5, ops)
    probs = probabilities((2, 3, 50), np.float32)
    one, six = generator.multinomial(probs[0, 0]), generator.multinomial(probs)
    assert one.shape == () and six.shape == (2, 3) and six.dtype == np.int64
    assert one == torch.multinomial(torch.tensor(probs[0, 0]), 1).item()
    theirs = torch.multinomial(torch.tensor(probs.reshape(6, 50)), 1)
    np.testing.assert_array_equal(six, theirs.numpy().reshape(2, 3))
    assert generator.multinomial(np.ones((0, 5))).shape == (0,)
    np.testing.assert_array_equal(generator.state, torch.get_rng_state().numpy())


@pytest.mark.parametrize("draw", ["uniform", "normal", "bernoulli"])
@pytest.mark.parametrize("n", [7, 100])
def test_draws_go_where_they_are_told(draw, n, ops):
    def drawn(**home):
        generator = Generator(123, ops=ops)
        p = (0.5,) if draw == "bernoulli" else ()
        return getattr(generator, draw)(*p, (n, 3), **home)

    expected = drawn()
    home = np.full_like(expected, True if draw == "bernoulli" else np.nan)
    assert drawn(out=home) is home
    np.testing.assert_array_equal(home, expected)
    transposed = np.full_like(expected.T, True if draw == "bernoulli" else np.nan, order="C").T
    assert drawn(out=transposed) is transposed  # not contiguous: still the values of one that is
    np.testing.assert_array_equal(transposed, expected)
    if draw != "bernoulli":
        wide = np.full((n, 3), np.nan)  # brings its own dtype
        np.testing.assert_array_equal(drawn(out=wide), drawn(dtype=np.float64))


LARGE = 1_000_003  # a number of draws that all threads share


@rounds_once
@pytest.mark.parametrize("draw", ["uniform", "normal", "bernoulli", "columns"])
def test_many_threads_draw_what_one_draws(draw):
    before, calls = numba.get_num_threads(), {
        "uniform": Call("uniform", lambda g, n: g.uniform(n, -0.3, 1.7),
                        lambda n: torch.empty(n).uniform_(-0.3, 1.7)),
        "normal": Call("normal", lambda g, n: g.normal(n), lambda n: torch.empty(n).normal_()),
        "bernoulli": Call("bernoulli", lambda g, n: g.bernoulli(0.3, n),
                          lambda n: torch.empty(n).bernoulli_(0.3).bool()),
        "columns": Call("columns", lambda g, n: columns(g, 1000, n // 1000),
                        lambda n: torch.empty(1000, n // 1000).uniform_(-0.3, 1.7)),
    }  # fmt: skip
    for threads in {1, numba.config.NUMBA_NUM_THREADS}:
        numba.set_num_threads(threads)
        generator = begin(123, BACKENDS["fused"])
        for n in (LARGE, LARGE - 3, LARGE + 40_000):
            calls[draw].check(generator, n)
    numba.set_num_threads(before)


def columns(generator, O, I):
    """(O, I) numbers as a layer has them, in columns of a wider (I, ...) matrix."""
    home = np.full((I, O + 7), np.nan, np.float32)
    generator.uniform((O, I), -0.3, 1.7, out=home[:, 3:-4].T)
    assert np.isnan(home[:, :3]).all() and np.isnan(home[:, -4:]).all()
    return home[:, 3:-4].T


@rounds_once
def test_columns_of_any_size(ops):
    generator = begin(123, ops)
    call = Call("columns", lambda g, n: columns(g, n, 70),
                lambda n: torch.empty(n, 70).uniform_(-0.3, 1.7))  # fmt: skip
    for n in (1, 15, 16, 17, 32, 100):
        call.check(generator, n)
    for odd in (np.zeros((40, 60), np.float32)[::2, ::2], np.zeros((40, 5, 2), np.float32)[..., 1],
                np.zeros((0, 3), np.float32).T):  # fmt: skip
        theirs = torch.empty(odd.shape).uniform_(-0.3, 1.7)
        np.testing.assert_array_equal(generator.uniform(odd.shape, -0.3, 1.7, out=odd), theirs)
        np.testing.assert_array_equal(generator.state, torch.get_rng_state().numpy())


# What is built on it


def test_layers_begin_as_in_torch(ops):
    """The order and the bounds in which torch fills nn.Embedding and nn.Linear."""
    generator = begin(123, ops)
    check_layer(torch.nn.Embedding(101, 48).weight, generator.normal((101, 48)), ROUNDS_ONCE)
    check_layer(torch.nn.Embedding(1, 7).weight, generator.normal((1, 7)), ROUNDS_ONCE)
    for i, o, bias in (48, 144, False), (48, 48, True), (48, 192, True), (7, 1, True):
        linear = torch.nn.Linear(i, o, bias=bias)
        bound = math.sqrt(3) * (math.sqrt(2 / (1 + 5)) / math.sqrt(i))  # kaiming, a = sqrt(5)
        check_layer(linear.weight, generator.uniform((o, i), -bound, bound), ROUNDS_ONCE)
        if bias:
            bound = 1 / math.sqrt(i)
            check_layer(linear.bias, generator.uniform(o, -bound, bound), ROUNDS_ONCE)
    np.testing.assert_array_equal(generator.state, torch.get_rng_state().numpy())


def check_layer(theirs, ours, exact):
    np.testing.assert_allclose(ours, theirs.detach(), rtol=0, atol=0 if exact else 3e-6)


def test_a_loader_shuffles_as_in_torch(ops):
    generator = begin(123, ops)
    loader = torch.utils.data.DataLoader(range(1000), batch_size=None, shuffle=True)
    for _ in range(2):
        generator.random64()  # the base seed
        private = Generator(generator.random64(), ops=ops)
        np.testing.assert_array_equal(private.randperm(1000), [int(i) for i in loader])
        np.testing.assert_array_equal(generator.state, torch.get_rng_state().numpy())


@pytest.mark.parametrize(
    "temperature, counts",
    [(1, [73, 0, 0, 582, 2, 0, 0, 343, 0]), (0.1, [0, 0, 0, 985, 0, 0, 0, 15, 0])],
)
def test_a_thousand_draws_count_as_in_the_book(temperature, counts, ops):
    logits = np.array([4.51, 0.89, -1.90, 6.75, 1.63, -1.62, -1.89, 6.28, 1.79], np.float32)
    e = np.exp((logits - logits.max()) / np.float32(temperature))
    generator = Generator(123, ops=ops)
    draws = [int(generator.multinomial(e / e.sum())) for _ in range(1000)]
    assert np.bincount(draws, minlength=9).tolist() == counts
