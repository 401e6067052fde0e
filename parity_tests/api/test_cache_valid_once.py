"""A cache whose gradients would be wrong is refused by `backward`, on every backend."""

from importlib import import_module

import numpy as np
import pytest

import npgpt
from npgpt.errors import InputError

SHAPE = dict(vocab_size=31, context_length=12, n_layer=2, n_head=2, n_embd=8)
TOKENS = np.arange(16).reshape(2, 8)
TARGETS = TOKENS + 1
USED, CHANGED, WRITTEN = "was used already", "the parameters have changed", "the gradient tree has"


@pytest.fixture(params=["ops", "fused", "mixed"])
def every_backend(request):
    return import_module(f"npgpt.{request.param}")


@pytest.fixture(params=[True, False], ids=["tied", "untied"])
def model(request, every_backend):
    return npgpt.GPT(npgpt.Config(**SHAPE, tied=request.param), ops=every_backend)


def refuse(model, cache, says, **options):
    before = [array.copy() for _, array in npgpt.named(model.params)]
    with pytest.raises(InputError, match=says):
        model.backward(cache, **options)
    for old, (_, new) in zip(before, npgpt.named(model.params), strict=True):
        np.testing.assert_array_equal(old, new)


def test_backward_twice(model):
    out = npgpt.zeros_like(model.params)
    for options in ({}, {"out": out}):
        _, cache = model.loss(TOKENS, TARGETS, **options)
        gradients = model.backward(cache)
        kept = [array.tobytes() for _, array in npgpt.named(gradients)]
        refuse(model, cache, USED)
        refuse(model, cache, USED, out=npgpt.zeros_like(model.params))
        assert kept == [array.tobytes() for _, array in npgpt.named(gradients)]


def test_another_loss_into_the_same_tree(model):
    out = npgpt.zeros_like(model.params)
    _, cache = model.loss(TOKENS, TARGETS, out=out)
    _, later = model.loss(TARGETS, TOKENS, out=out)
    refuse(model, cache, WRITTEN)
    model.backward(later)
    _, cache = model.loss(TOKENS, TARGETS, out=out)
    model.loss_and_gradients(TARGETS, TOKENS, out=out)
    refuse(model, cache, WRITTEN)


def test_another_backward_into_the_same_tree(model):
    out = npgpt.zeros_like(model.params)
    _, first = model.loss(TARGETS, TOKENS)
    _, cache = model.loss(TOKENS, TARGETS, out=out)
    model.backward(first, out=out)
    refuse(model, cache, WRITTEN)


def test_a_step_of_the_optimizer(model):
    optimizer = npgpt.AdamW(model.params, lr=1e-6, weight_decay=0, ops=model.ops)
    _, cache = model.loss(TOKENS, TARGETS)
    _, gradients = model.loss_and_gradients(TOKENS, TARGETS)
    optimizer.step(gradients)
    refuse(model, cache, CHANGED)
    refuse(model, cache, CHANGED)  # it was not used up


@pytest.mark.parametrize("name", ["wte", "h.1.mlp.c_fc.weight", "ln_f.bias"])
def test_parameters_written_by_numpy(model, name):
    _, cache = model.loss(TOKENS, TARGETS)
    for key, array in npgpt.named(model.params):
        if key.startswith(name):
            array -= 0.01
    refuse(model, cache, CHANGED)


def test_gradients_written_by_numpy(model):
    _, cache = model.loss(TOKENS, TARGETS)
    for _, array in npgpt.named(cache.gradients):
        array.fill(0)
    refuse(model, cache, WRITTEN)


def test_other_models_and_other_things(model):
    other = npgpt.GPT(model.config, seed=1, ops=model.ops)
    _, cache = other.loss(TOKENS, TARGETS)
    refuse(model, cache, "computed with other parameters")
    for wrong in (None, 3, "cache", cache.activations):
        refuse(model, wrong, "cache must be the second value of loss")
    refuse(model, model.loss(TOKENS, TARGETS)[1], "dloss is 'x', but must be", dloss="x")


def test_a_cache_is_valid_as_long_as_nothing_changes(model):
    """Other batches, other trees, evaluation and generation in between do not matter."""
    _, expected = model.loss_and_gradients(TOKENS, TARGETS, out=npgpt.zeros_like(model.params))
    _, cache = model.loss(TOKENS, TARGETS)
    assert "valid" in repr(cache)
    _, other = model.loss(TARGETS, TOKENS)
    model.backward(other)
    model.evaluate(TOKENS, TARGETS)
    model.loss_and_gradients(TARGETS, TOKENS)
    list(npgpt.generate(model, [1, 2], 2))
    gradients = model.backward(cache)
    for (name, a), (_, b) in zip(npgpt.named(expected), npgpt.named(gradients), strict=True):
        np.testing.assert_array_equal(a, b, err_msg=name)
    assert "used" in repr(cache)


def test_a_used_cache_holds_no_memory(model):
    _, cache = model.loss(TOKENS, TARGETS)
    model.backward(cache)
    assert cache.activations is None
    assert not any(isinstance(value, np.ndarray) for value in vars(cache).values())
    assert not {"gradients", "head"} & set(vars(cache))
