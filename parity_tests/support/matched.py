"""Dumps of ports made from the probe, and what matching must make of them."""

import numpy as np

from npgpt.model.params import named
from npgpt.parity import probe as probes
from npgpt.parity.dump import Dump
from parity_tests.support.port_names import CONVENTIONS

PROBE = probes.make()
H = PROBE.config.n_head
PARAMS = dict(named(PROBE.params))


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
