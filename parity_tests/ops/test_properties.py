"""The whole model on extreme shapes: one token, one head, two words, a batch of one."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import npgpt.fused
import npgpt.ops
from npgpt import Config
from parity_tests.support.harness import farthest
from parity_tests.support.models import draw, ours, theirs

SHARE = 1e-11


@st.composite
def problems(draw_from):
    """A config, the shape (B, T) of a batch, and a seed."""
    n_head = draw_from(st.integers(1, 3))
    T = draw_from(st.integers(1, 9))
    config = Config(
        vocab_size=draw_from(st.integers(2, 9)),
        context_length=T + draw_from(st.integers(0, 4)),
        n_layer=draw_from(st.integers(1, 3)),
        n_head=n_head,
        n_embd=n_head * draw_from(st.integers(1, 5)),
        dropout=draw_from(st.sampled_from([0.0, 0.0, 0.3, 0.9])),
        qkv_bias=draw_from(st.booleans()),
        tied=draw_from(st.booleans()),
    )
    return config, (draw_from(st.integers(1, 3)), T), draw_from(st.integers(0, 2**32 - 1))


def smallest(shape=(1, 1), **changes):
    least = dict(vocab_size=2, context_length=shape[1], n_layer=1, n_head=1, n_embd=2) | changes
    return Config(**least), shape, 0


def check(problem, backend):
    """In float64, against the reference. Shapes are on trial here, not the last digits.

    A model this small is ill-conditioned: LayerNorm makes -1 and 1 out of any two numbers and 0 of
    any one, and gradients are what is left when nearly everything has cancelled. Measured over
    2,000 such models: at most 3e-13 of the largest gradient. SHARE leaves room for others; float32
    anywhere inside would leave a thousand times as much.
    """
    config, shape, seed = problem
    batch = draw(config, np.random.default_rng(seed), np.float64, shape)
    truth, found = theirs(batch, np.float64), ours(batch, backend)
    assert found.keys() == truth.keys()
    largest = max(farthest(a, 0) for a in truth.values())
    for name in truth:
        assert found[name].dtype == np.float64
        assert found[name].shape == truth[name].shape
        error = farthest(found[name], truth[name])
        assert error <= SHARE * largest, f"{name}: off by {error:.1e}"


@pytest.mark.parametrize("backend", [npgpt.ops, npgpt.fused], ids=["numpy", "fused"])
@settings(max_examples=25, deadline=None, derandomize=True, database=None)
@given(problem=problems())
@example(problem=smallest())
@example(problem=smallest(n_embd=1))
@example(problem=smallest((2, 4), n_head=3, n_embd=3))  # heads of 1
@example(problem=smallest(tied=False, qkv_bias=False, dropout=0.5))
def test_loss_and_gradients_on_odd_shapes(backend, problem):
    check(problem, backend)
