"""`npgpt diagnose` names bugs that were planted into two ports, and is silent about clean ones.

All bugs, weights and kinds of dumps: python -m parity_tests.support.planted_bugs
"""

import pytest

from parity_tests.ports import bugs, files
from parity_tests.ports.expected import EXPECTED
from parity_tests.ports.odd_bugs import BUGS as ODD
from parity_tests.ports.odd_bugs import HARMLESS
from parity_tests.support.planted_bugs import GRADIENTS, check, diagnose, run

PORTS = "torch_port", "numpy_port"
NAMED = (  # of each stage and port some
    "scores_unscaled", "mask_fills_zero", "out_proj_not_transposed", "label_smoothing",
    "norm_statistics_detached", "adam_l2", "clip_each_parameter", "mean_of_micro_batches",
    "dropout_unscaled", "cache_sees_first_key", "softmax_in_half",
    "gelu_constant", "norms_swapped", "ignored_keep_gradient", "softmax_back_diagonal",
    "norm_back_no_mean", "embedding_gradient_assigned", "adam_eps_inside", "cache_shared_by_layers",
)  # fmt: skip


@pytest.mark.parametrize("port", PORTS)
@pytest.mark.parametrize("kinds", [files.KINDS, GRADIENTS], ids=["everything", "gradients"])
def test_clean(port, kinds):
    said = diagnose("lively", run(port, (), "lively", kinds))
    assert said.agrees, said.first_wrong
    assert len(said.findings) > 25


@pytest.mark.parametrize("edit", HARMLESS, ids=lambda bug: bug.name)
def test_harmless(edit):
    said = diagnose("lively", run(edit.port, (edit.name,), "lively", files.KINDS))
    assert said.agrees, said.first_wrong


@pytest.mark.parametrize("name", NAMED)
def test_named(name):
    found = check((name,), "lively", "everything")
    assert found.verdict == "named", found
    assert found.first_is_right, found.first


@pytest.mark.parametrize("bug", ODD, ids=lambda bug: bug.name)
def test_odd(bug):
    found = check((bug.name,), "lively", "everything")
    assert found.verdict == "no cause", found
    assert found.first_is_right, found.first


def test_expected():
    """Every planted bug fits its port's text, and has its entry in the table of causes."""
    for name, bug in bugs.every().items():
        bugs.plant(bug.port, name)
    odd = {bug.name for bug in (*ODD, *HARMLESS)}
    assert EXPECTED.keys() == bugs.every().keys() - odd
