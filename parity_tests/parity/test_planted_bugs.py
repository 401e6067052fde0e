"""`npgpt diagnose` names bugs that were planted into two ports, and is silent about clean ones.

All bugs, weights and kinds of dumps: python -m parity_tests.support.planted_bugs
"""

import pytest

from npgpt.parity.mistakes import MISTAKES
from parity_tests.ports import bugs, files, odd_bugs
from parity_tests.ports.expected import EXPECTED
from parity_tests.support.planted_bugs import GRADIENTS, check, diagnose, run

PORTS = "torch_port", "numpy_port"
EVERYTHING = (  # what loss and gradients cannot show, and some of the other stages
    "scores_unscaled", "norm_back_no_mean", "adam_l2", "cache_position_zero", "dropout_unscaled",
    "heads_joined_by_channel",  # its decoding is code of its own, and right
)  # fmt: skip
BY_GRADIENTS = (
    "scores_by_width", "heads_viewed", "mask_fills_zero", "gelu_erf", "norm_unbiased",
    "norm_eps_1e_6", "positions_from_one", "post_norm", "no_final_norm", "shifted_twice",
    "label_smoothing", "mean_of_rows", "norm_statistics_detached", "padding_idx",
    "mask_upper", "gelu_constant", "norm_gain_plus_one", "ignored_keep_gradient",
    "softmax_back_diagonal", "keys_back_not_transposed", "norm_back_no_gain", "gelu_back_tanh",
    "residual_back_lost", "embedding_gradient_assigned", "position_gradient_mean",
)  # fmt: skip
ODD = "gelu_skips_channels", "late_targets_weigh_more", "gelu_gradient_clipped", "gradients_rounded"
SLOW = "adam_l2", "cache_position_zero", "scores_unscaled", "heads_joined_by_channel"
HELD = [
    *(pytest.param(name, "everything", marks=[pytest.mark.slow] * (name in SLOW))
      for name in EVERYTHING),
    *((name, "gradients") for name in BY_GRADIENTS),
]  # fmt: skip


@pytest.mark.parametrize("port", PORTS)
@pytest.mark.parametrize("kinds", [files.KINDS, GRADIENTS], ids=["everything", "gradients"])
def test_clean(port, kinds):
    said = diagnose("lively", run(port, (), "lively", kinds))
    assert said.agrees, said.first_wrong
    assert len(said.findings) > 25


@pytest.mark.parametrize("edit", odd_bugs.HARMLESS, ids=lambda bug: bug.name)
def test_harmless(edit):
    said = diagnose("lively", run(edit.port, (edit.name,), "lively", files.KINDS))
    assert said.agrees, said.first_wrong


@pytest.mark.parametrize(("name", "dump"), HELD)
def test_named(name, dump):
    found = check((name,), "lively", dump)
    assert found.verdict == "named", found
    assert found.first_is_right, found.first


@pytest.mark.parametrize("name", ODD)
def test_odd(name):
    found = check((name,), "lively", "gradients")
    assert found.verdict == "no cause", found
    assert found.first_is_right, found.first


def test_expected():
    """Every planted bug fits its port's text, and the table of causes names entries that exist."""
    for name, bug in bugs.every().items():
        bugs.plant(bug.port, name)
    unlisted = {bug.name for bug in (*odd_bugs.BUGS, *odd_bugs.HARMLESS)}
    assert EXPECTED.keys() == bugs.every().keys() - unlisted
    entries = {entry for chains in EXPECTED.values() for chain in chains for entry in chain}
    assert entries <= {mistake.name for mistake in MISTAKES} | {"bfloat16"}
