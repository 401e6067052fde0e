"""The causes of a port's errors: a known mistake, several at once, none for an unknown one.

Every fourth mistake of the catalogue. All: python -m parity_tests.support.causes
"""

import contextlib

import numpy as np
import pytest

from npgpt.parity import causes, op_by_op, probe
from npgpt.parity.budget import Run, Task
from npgpt.parity.mistakes import VARIANTS
from npgpt.parity.mistakes.dropout import WITHOUT_MASKS
from npgpt.parity.mistakes.loading import LOADING
from npgpt.parity.mistakes.variants import RIGHT_BACKWARD
from npgpt.parity.port import RIGHT
from parity_tests.support.causes import (
    ALL,
    KINDS,
    PASSES,
    SHORT,
    TOGETHER,
    UNKNOWN,
    Bench,
    of_stages,
    port_of,
)

STEP = 4


@pytest.fixture(scope="module")
def bench():
    return Bench()


@pytest.mark.slow
@pytest.mark.parametrize("stage", KINDS)
def test_a_mistake_is_named(bench, stage):
    assert bench.wrongly_named(of_stages(stage)[::STEP], KINDS[stage]) == {}


@pytest.mark.slow
def test_loss_and_gradients_name_what_they_show(bench):
    mistakes = of_stages("forward", "loss", "backward")[1::STEP]
    assert bench.not_among(mistakes, SHORT) == {}


@pytest.mark.slow
@pytest.mark.parametrize("names", TOGETHER[:3], ids=" and ".join)
def test_mistakes_together_are_named(bench, names, monkeypatch):
    monkeypatch.setattr(causes, "PATIENCE_SMALL", 600.0)
    assert bench.causes(ALL, port_of(*names)) == [set(names)]


@pytest.mark.slow
@pytest.mark.parametrize(("where", "right", "wrong", "first"), UNKNOWN[::STEP], ids=lambda x: x)
def test_an_unknown_mistake_has_no_cause_but_a_tensor(bench, where, right, wrong, first):
    assert bench.unknown(where, right, wrong) == ((), first)


@pytest.mark.parametrize(
    ("name", "end"),
    [
        ("mask-after-softmax", RIGHT_BACKWARD),
        ("layernorm-without-bias", RIGHT_BACKWARD),
        ("loss-of-clamped-probability", RIGHT_BACKWARD),
        ("qkv-per-head", LOADING),
        ("square-weights-transposed", LOADING),
        ("dropout-scales-evaluation-of-stream", ", of 0.2"),
    ],
)
def test_a_variant_has_the_name_of_its_entry(bench, name, end):
    """Forward is wrong and backward right, weights are loaded in wrong order, a rate is not 0.1."""
    variant = next(one for one in VARIANTS if one.name == name and one.says.endswith(end))
    own = bench.compute((*PASSES, "param"), variant.change(RIGHT))
    assert causes.find(bench.lab(own), own) == [(variant,)]


@pytest.mark.parametrize("name", sorted(WITHOUT_MASKS))
def test_a_factor_of_dropout_in_evaluation_is_named(bench, name):
    """Without masks: by the loss and gradients of one pass, and by a loop that decodes."""
    for kinds in (SHORT, ("loss", "logits", "cached_logits")):
        assert bench.causes(kinds, port_of(name)) == [{name}]


@pytest.mark.parametrize("name", ["gelu-exact", "loss-summed", "dk-not-scaled", "qkv-order-kqv"])
@pytest.mark.parametrize("kinds", [PASSES, SHORT], ids=["everything", "gradients"])
def test_early_rejections_of_a_large_model_change_nothing(bench, monkeypatch, name, kinds):
    expected = bench.causes(kinds, port_of(name))
    monkeypatch.setattr(causes, "KEPT", 0)
    assert bench.causes(kinds, port_of(name)) == expected == [{name}]


def test_first_tokens_reject_mistakes_of_a_large_model_in_decoding(bench, monkeypatch):
    """Only one mistake runs as a whole: that of the port. Variants in decoding are not tried."""
    monkeypatch.setattr(causes, "KEPT", 0)
    runs = []
    monkeypatch.setattr(Run, "try_stream", lambda run: runs.append(run) or run.stream())
    name = "cache-position-one-ahead"
    assert bench.causes((*SHORT, "cached_logits"), port_of(name)) == [{name}]
    assert len(runs) <= 2  # and the right port


def test_every_wrong_op_is_found(bench):
    """On the port's own inputs, an error is not carried to the ops after it."""
    port = RIGHT.edit("npgpt.ops.attention:forward", "scores = q @ k.mT", "scores = 2 * q @ k.mT")
    port = port.edit("npgpt.ops.gelu:backward", "dout * slope", "dout * slope * slope")
    port = port.edit(
        "npgpt.ops.adamw:update", "p *= 1 - lr * weight_decay", "p *= 1 + lr * weight_decay"
    )
    own = bench.compute(ALL, port)
    found = {one.op for one in op_by_op.wrong_ops(bench.probe, own, "float32")}
    assert found == {"attention", "gelu backward", "clipping or optimizer"}


@pytest.mark.parametrize("error, fails", [(ValueError, True), (MemoryError, False)])
def test_a_mistake_that_computes_nothing_is_left_out_but_no_memory_is_an_error(error, fails):
    def raising():
        yield "loss", np.zeros(())
        raise error

    run = Run(RIGHT, Task(probe.make(), ("loss",)))
    run.rest = raising()
    with contextlib.nullcontext() if fails else pytest.raises(MemoryError):
        assert [name for name, _ in run.try_stream()] == ["loss"]
    assert run.fails == fails
