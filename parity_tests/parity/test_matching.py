"""Tensors of ports matched with npgpt's: by value, by name, in every layout."""

import numpy as np
import pytest

from npgpt.gpt import GPT
from npgpt.model.params import named
from npgpt.parity import probe as probes
from npgpt.parity.dump import Dump
from npgpt.parity.matching import match
from parity_tests.support.port_names import CONVENTIONS

PROBE = probes.make()
H = PROBE.config.n_head
PARAMS = dict(named(PROBE.params))


@pytest.fixture(scope="module")
def grads():
    model = GPT.from_params(PROBE.config, PROBE.params, ops="numpy")
    _, found = model.loss_and_gradients(PROBE.tokens, PROBE.targets)
    return {name: array.copy() for name, array in named(found)}


def dump_of(convention, **kinds):
    """A dump of a port with this convention; a kind is a dict of npgpt's parameters."""
    tensors = {}
    for kind, arrays in kinds.items():
        for name, array in CONVENTIONS[convention](arrays, H):
            tensors[f"{kind}/{name}"] = array
    return Dump(tensors)


def check(found, kind, expected):
    """All tensors of a kind are found, and equal to the expected ones."""
    own = {name.partition("/")[2] for name in found.tensors if name.startswith(f"{kind}/")}
    assert own == set(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(found.tensors[f"{kind}/{name}"], array, err_msg=name)


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_lively_weights_and_their_gradients(convention, grads):
    found = match(dump_of(convention, param=PARAMS, grad=grads), PROBE)
    check(found, "param", PARAMS)
    check(found, "grad", grads)
    assert not found.alternatives


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_gradients_alone(convention, grads):
    found = match(dump_of(convention, grad=grads), PROBE)
    check(found, "grad", grads)


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_initial_weights(convention):
    model = GPT(PROBE.config, seed=3, ops="numpy")
    initial = dict(named(model.params))
    probe = probes.of_model(model)
    found = match(dump_of(convention, param=initial, grad=PARAMS), probe)
    check(found, "param", initial)
    check(found, "grad", PARAMS)
