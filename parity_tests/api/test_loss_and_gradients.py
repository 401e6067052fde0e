"""Gradients in one call, in two calls, and into a tree of the caller's: the same bits."""

import numpy as np
import pytest

import npgpt
from npgpt.model import transformer

CONFIG = npgpt.Config(vocab_size=31, context_length=12, n_layer=2, n_head=2, n_embd=8)
UNTIED = npgpt.Config(vocab_size=31, context_length=12, n_layer=1, n_head=2, n_embd=8, tied=False)
TOKENS = np.arange(16).reshape(2, 8)
TARGETS = TOKENS + 1


def bits(tree):
    return {name: array.tobytes() for name, array in npgpt.named(tree)}


@pytest.fixture(params=[CONFIG, UNTIED], ids=["tied", "untied"])
def model(request, backend):
    return npgpt.GPT(request.param, ops=backend)


def test_one_call_is_two_calls(model):
    loss, cache = model.loss(TOKENS, TARGETS)
    two = bits(model.backward(cache))
    value, gradients = model.loss_and_gradients(TOKENS, TARGETS)
    assert value == loss
    assert bits(gradients) == two
    out = npgpt.zeros_like(model.params)
    for _, array in npgpt.named(out):
        array.fill(np.nan)  # every number is written
    loss, cache = model.loss(TOKENS, TARGETS, out=out)
    assert model.backward(cache) is out
    assert bits(out) == two
    loss, cache = model.loss(TOKENS, TARGETS, out=out)
    other = npgpt.zeros_like(model.params)
    assert model.backward(cache, out=other) is other
    assert bits(other) == two
    assert model.loss_and_gradients(TOKENS, TARGETS, out=other)[1] is other
    assert bits(other) == two


def test_dloss_scales_them(model):
    _, gradients = model.loss_and_gradients(TOKENS, TARGETS)
    expected = {name: (array / 4).tobytes() for name, array in npgpt.named(gradients)}
    value, gradients = model.loss_and_gradients(TOKENS, TARGETS, dloss=0.25)
    assert bits(gradients) == expected
    assert value == model.evaluate(TOKENS, TARGETS)


def test_dropout_is_drawn_from_the_generator(backend):
    config = npgpt.Config(vocab_size=31, context_length=12, n_layer=1, n_head=2, n_embd=8,
                          dropout=0.3)  # fmt: skip
    model = npgpt.GPT(config, ops=backend)
    one, other = npgpt.Generator(5, ops=backend), npgpt.Generator(5, ops=backend)
    loss, cache = model.loss(TOKENS, TARGETS, one)
    two = bits(model.backward(cache))
    value, gradients = model.loss_and_gradients(TOKENS, TARGETS, other)
    assert (value, bits(gradients)) == (loss, two)
    assert one.state.tobytes() == other.state.tobytes()


def test_the_models_own_tree_is_overwritten(model):
    _, first = model.loss_and_gradients(TOKENS, TARGETS)
    before = bits(first)
    _, second = model.loss_and_gradients(TARGETS, TOKENS)
    assert second is first
    assert bits(first) != before
    out = npgpt.zeros_like(model.params)
    model.loss_and_gradients(TOKENS, TARGETS, out=out)
    assert bits(out) == before
    assert bits(first) != before  # which out= leaves alone


def address(tree):
    return tree.wte.weight.ctypes.data


def test_trees_of_backward_are_the_callers(model):
    """They stay as they are while any array of them lives, and then their memory is used again."""
    _, cache = model.loss(TOKENS, TARGETS)
    first = model.backward(cache)
    before, part = bits(first), first.h[0].mlp.c_fc.weight
    used = address(first)
    _, cache = model.loss(TARGETS, TOKENS)
    second = model.backward(cache)
    model.loss_and_gradients(TARGETS, TOKENS)
    assert bits(first) == before
    assert len({used, address(second)}) == 2
    kept = part.tobytes()
    del first
    _, cache = model.loss(TARGETS, TOKENS)
    third = model.backward(cache)
    assert len({used, address(second), address(third)}) == 3
    assert part.tobytes() == kept
    del part, second, third, cache
    _, cache = model.loss(TOKENS, TARGETS)
    assert address(model.backward(cache)) != 0


def test_a_loop_of_two_calls_has_two_trees(model):
    seen, gradients = set(), None
    for _ in range(6):
        _, cache = model.loss(TOKENS, TARGETS)
        gradients = model.backward(cache)
        seen.add(address(gradients))
    assert len(seen) == 2


def test_the_heads_gradient_exists_once(model, monkeypatch):
    """It is written into the tree by forward, in both ways."""
    seen, loss = [], transformer.loss
    monkeypatch.setattr(
        transformer, "loss", lambda *a, g, **k: seen.append(g) or loss(*a, g=g, **k)
    )
    _, gradients = model.loss_and_gradients(TOKENS, TARGETS)
    assert seen.pop() is gradients
    _, cache = model.loss(TOKENS, TARGETS)
    assert seen.pop() is cache.gradients
    tree = cache.gradients
    assert np.shares_memory(cache.activations.loss.dweight, transformer.head(tree))
    assert model.backward(cache) is tree


def test_new_parameters_have_gradients_of_their_own(model):
    model.loss_and_gradients(TOKENS, TARGETS)
    model.params = npgpt.GPT(model.config, seed=3, dtype="float64", ops=model.ops).params
    _, gradients = model.loss_and_gradients(TOKENS, TARGETS)
    assert gradients.wte.weight.dtype == np.float64
