"""The sentence about the place of an error that no known mistake explains."""

import numpy as np
import pytest

from npgpt.model.params import named
from npgpt.parity import causes, diagnosis, dump, order, probe, report, where
from npgpt.parity.compute import compute
from npgpt.parity.port import RIGHT

PROBE = probe.make()
LEAVES = [name for name, _ in named(PROBE.params)]
KINDS = "act", "logits", "loss", "dact", "grad", "param"
NAMES = list(order.all_names(PROBE.config, 3))
LATE = "cached_logits"
CASES = {
    "an activation": ("act/h.0.mlp.gelu", "act", "between h.0.mlp.c_fc and h.0.mlp.gelu"),
    "the first of all": ("act/embedding", "act", "the error is in the embedding, or before it"),
    "nothing before": ("act/h.1.ln_1", "logits", "the error is at or before h.1.ln_1"),
    "logits again": ("logits_again", "logits", "the first forward pass is right"),
    "loss after logits": ("loss", "logits", "the logits are right: the error is in the loss"),
    "loss alone": ("loss", "grad", "the error is at or before loss"),
    "a gradient": (
        "grad/h.1.mlp.c_proj.weight", "loss",
        "forward and loss are right: the error is in backward",
    ),
    "a gradient after activations": (
        "dact/h.1.mlp.c_fc", "act loss dact", "between gradient of activation h.1.mlp.gelu and",
    ),
    "a step": ("after1/wte.weight", "grad", "the gradients are right: the error is in clipping"),
    "a step without gradients": (
        "after1/wte.weight", "loss", "the gradient of wte.weight, in clipping, or in the optimizer",
    ),
    "the second step": (
        "after2/wte.weight", "grad after1", "the first step is right: the error is in what",
    ),
    "the third step": ("after3/wpe.weight", "grad after1 after2", "the first 2 steps are right"),
    "cached logits": (LATE, "logits loss grad after1", "whole sequences is right"),
    "cached logits alone": (LATE, "grad", "in the forward pass or in its loop through the cache"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_sentence(case):
    name, kinds, says = CASES[case]
    right = [one for one in NAMES[: NAMES.index(name)] if order.kind_of(one) in kinds.split()]
    found = where.sentence(name, (0, 4, 0), 1.0, right, PROBE.config)
    assert says in found and found.startswith(("the ", "forward"))
    if name == LATE:
        assert found.endswith(", from position 4 on")


def test_a_step_without_finite_numbers_is_no_bad_input(monkeypatch):
    monkeypatch.setattr(causes, "find", lambda lab, own, **options: [])
    tensors = compute(RIGHT, PROBE, ("logits", "loss", "grad", "after1"), dtype=np.float32)
    tensors["after1/ln_f.bias"] = tensors["after1/ln_f.bias"] * np.float32("nan")
    text = report.text(diagnosis.diagnose(dump.make(tensors), PROBE))
    assert "WRONG   ln_f.bias after 1 step    not a finite number" in text
    assert "the gradients are right" in text and "a root of a negative number" in text


@pytest.mark.parametrize("kind", ["act", "dact", "param"])
def test_a_dump_that_was_overwritten(kind):
    """The port computed with other numbers than it has dumped, as after `x += ...`."""
    tensors = compute(RIGHT, PROBE, KINDS, dtype=np.float32)
    name = {"param": "param/h.0.ln_1.weight"}.get(kind, f"{kind}/embedding")
    tensors[name] = tensors[name] + 1
    found = diagnosis.diagnose(dump.make(tensors), PROBE)
    assert found.is_overwritten and (found.causes, found.wrong_ops) == ((), ())
    assert "cause   the dump, not the port: all " in report.text(found)
