"""Generators: states, copies, threads, both backends, invalid arguments."""

import inspect
import threading
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from npgpt.ops.random import fma
from npgpt.rng import Generator
from parity_tests.support.torch_stream import BACKENDS, CALLS, COMPARABLE, bits

# States


@pytest.mark.parametrize("drawn", [0, 1, 623, 624, 625, 5000])
def test_carry_on_from_torch(drawn, ops):
    torch.manual_seed(2**40 + 7)
    torch.randint(0, 9, (drawn,))
    torch.empty(3).normal_()  # leaves a sine behind
    state = torch.get_rng_state()
    generator = Generator.from_state(state, ops=ops)
    for same in (state.numpy(), state.numpy().tobytes()):
        np.testing.assert_array_equal(Generator.from_state(same, ops=ops).state, state.numpy())
    np.testing.assert_array_equal(generator.state, state.numpy())
    for call in COMPARABLE:
        call.check(generator, 40)


@pytest.mark.parametrize("drawn", [0, 1, 623, 624, 625, 5000])
def test_torch_carries_on_from_us(drawn, ops):
    generator = Generator(2**40 + 7, ops=ops)
    generator.randint(0, 9, drawn)
    generator.normal(3)
    torch.set_rng_state(torch.tensor(generator.state))
    for call in COMPARABLE:
        call.check(generator, 40)


def test_a_copy_goes_its_own_way(ops):
    generator = Generator(1, ops=ops)
    generator.normal(3)
    twin, there = generator.copy(), generator.state
    first = generator.normal(5)
    np.testing.assert_array_equal(twin.state, there)
    np.testing.assert_array_equal(twin.normal(5), first)
    generator.set_state(there)
    np.testing.assert_array_equal(generator.normal(5), first)


def test_a_state_goes_from_backend_to_backend():
    slow, fast = (Generator(9, ops=backend) for backend in BACKENDS.values())
    slow.normal(1001), fast.set_state(slow.state)
    np.testing.assert_array_equal(slow.normal(1001), fast.normal(1001))


def test_no_global_stream_is_touched(ops):
    ours, theirs = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    generator = Generator(3, ops=ops)
    for call in CALLS:
        call.ours(generator, 20)
    np.testing.assert_array_equal(np.random.get_state()[1], ours)  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), theirs)


def test_streams_on_two_threads_do_not_mix(ops):
    def draw(seed, into):
        generator = Generator(seed, ops=ops)
        into[seed] = [generator.bernoulli(0.5, 20_011) for _ in range(20)]

    alone, together = {}, {}
    threads = [threading.Thread(target=draw, args=(seed, together)) for seed in (1, 2)]
    for seed in (1, 2):
        draw(seed, alone)
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed in (1, 2):
        np.testing.assert_array_equal(alone[seed], together[seed])


# The two backends


def test_the_backends_hold_the_same_functions():
    slow, fast = (backend.random for backend in BACKENDS.values())
    assert slow.__all__ == fast.__all__
    for name in slow.__all__:
        assert inspect.signature(getattr(slow, name)) == inspect.signature(getattr(fast, name))


def test_the_backends_agree_on_a_million_normals():
    slow, fast = (Generator(77, ops=backend).normal(1_000_000) for backend in BACKENDS.values())
    np.testing.assert_array_equal(bits(slow), bits(fast))


@pytest.mark.parametrize("width, dtype", [(32, np.float32), (64, np.float64)])
def test_fma_rounds_once(width, dtype):
    factor = st.floats(2.0**-20, 2.0**20, width=width)
    term = st.floats(-(2.0**20), 2.0**20, width=width)

    @settings(max_examples=500, deadline=None)
    @given(factor, factor, term)
    def check(a, b, c):
        exact = Fraction(a) * Fraction(b) + Fraction(c)
        (ours,) = fma(*(np.array([x], dtype) for x in (a, b, c)))
        neighbours = np.nextafter(ours, np.array([-np.inf, np.inf], dtype))
        apart = [abs(Fraction(float(x)) - exact) for x in (ours, *neighbours)]
        assert apart[0] == min(apart)

    check()


def test_fma_where_float64_alone_would_round_twice():
    # a b = 2^-24 - 2^-56, and a b + c lies that much below the middle of two float32
    a, b, c = (np.array([x], np.float32) for x in (2.0**-24 + 2.0**-40, 1 - 2.0**-16, 1 + 2.0**-23))
    assert np.float32(np.float64(a) * b + c) == 1 + 2.0**-22
    assert fma(a, b, c) == c


# Bad input


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda g: Generator(-1), "seed = -1: it must lie between 0 and 18446744073709551615"),
        (lambda g: Generator(2**64), "seed = 18446744073709551616: it must lie between 0"),
        (lambda g: Generator(1.5), r"seed = 1\.5: it must be an integer"),
        (lambda g: Generator("7"), "seed = '7': it must be an integer"),
        (lambda g: Generator(None), "seed = None: it must be an integer"),
        (lambda g: g.set_state(b"abc"), r"shape \(3,\) and dtype uint8: it must be 5056 bytes"),
        (lambda g: g.set_state(np.zeros(5056)), "dtype float64: it must be 5056 bytes"),
        (lambda g: g.set_state(bytes(5056)), "seeded = 0, left = 0, next = 0: it must have"),
        (lambda g: Generator.from_state(b""), r"shape \(0,\)"),
        (lambda g: g.multinomial(np.array([0.5, -0.1])), r"-0\.1 at \(1,\) of shape \(2,\): every"),
        (lambda g: g.multinomial(np.array([[1, 0], [0, np.nan]])), r"nan at \(1, 1\) of shape"),
        (lambda g: g.multinomial(np.array([1, np.inf])), r"inf at \(1,\)"),
        (lambda g: g.multinomial(np.zeros(3)), "probs is all zero, 3 of them: one must be above 0"),
        (lambda g: g.multinomial(np.eye(3)[:, :2]), r"row \(2,\) of probs is all zero"),
        (lambda g: g.multinomial(np.ones((3, 0))), r"shape \(3, 0\): it must be \(\.\.\., V\)"),
        (lambda g: g.multinomial(np.float32(1)), r"shape \(\): it must be"),
        (lambda g: g.multinomial(np.array([1, 2])), "dtype int64: it must be float32 or float64"),
        (lambda g: g.bernoulli(1.5, 3), r"p = 1\.5: a probability lies between 0 and 1"),
        (lambda g: g.bernoulli(-0.5, 3), r"p = -0\.5"),
        (lambda g: g.bernoulli(np.nan, 3), "p = nan"),
        (lambda g: g.bernoulli(0.5, 3, out=np.zeros(3)), "dtype float64: it must be bool"),
        (lambda g: g.randperm(-1), "n = -1: it must lie between 0 and 214748363"),
        (lambda g: g.randperm(2.0), r"n = 2\.0: it must be an integer"),
        (lambda g: g.randperm(214_748_364), "n = 214748364"),
        (lambda g: g.randint(3, 3, 2), "low = 3 and high = 3: low must be below high"),
        (lambda g: g.randint(0, 2**63, 2), "high = 9223372036854775808: it must lie between"),
        (lambda g: g.uniform(3, 2, 1), r"low = 2\.0 and high = 1\.0: low may not be above high"),
        (lambda g: g.uniform(3, 0, np.inf), "high = inf: a float32 one must lie between"),
        (lambda g: g.uniform(3, dtype=np.float16), "dtype float16: it must be float32 or float64"),
        (lambda g: g.uniform((3, -1)), r"a size in shape \(3, -1\) = -1"),
        (lambda g: g.uniform(3, out=np.zeros(4)), r"out has shape \(4,\), but the shape is \(3,\)"),
        (lambda g: g.normal(3, 0, -1), r"std = -1\.0: it must be at least 0"),
        (lambda g: g.normal(3, np.nan), "mean = nan"),
    ],
)
def test_bad_input_is_named(call, message, ops):
    generator = Generator(0, ops=ops)
    with pytest.raises(ValueError, match=message):
        call(generator)
    np.testing.assert_array_equal(generator.state, Generator(0, ops=ops).state)  # nothing drawn
