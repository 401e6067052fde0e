"""Dropout that is left on, and other signs that a port's forward pass is random."""

from dataclasses import replace

import numpy as np
import pytest

from npgpt.parity import causes, diagnosis, dump, order, probe, report
from npgpt.parity.compute import compute
from npgpt.parity.matching import match
from npgpt.parity.matching.dropped import factor_of
from npgpt.parity.mistakes import MISTAKES
from npgpt.parity.port import RIGHT

BY_NAME = {one.name: one for one in MISTAKES}
RATE = 0.25
EMBEDDING, PROBS = "dropout-missing-on-embedding", "dropout-missing-on-probs"
RESIDUAL = "dropout-missing-after-attention", "dropout-missing-after-mlp"
KINDS = "act", "logits", "loss", "grad"
ON = "dropout is on: some numbers of "


@pytest.fixture(scope="module")
def tiny():
    return probe.make()


@pytest.fixture
def unexplained(monkeypatch):
    """No search: none of the known mistakes is the cause."""
    monkeypatch.setattr(causes, "find", lambda lab, own, **options: [])


def masks(tiny, seed):
    """Masks that a port draws."""
    rng, config = np.random.default_rng(seed), tiny.config
    (B, T), H = tiny.tokens.shape, config.n_head
    return {
        name: rng.random((B, H, T, T) if "probs" in name else (B, T, config.n_embd)) >= RATE
        for name in order.mask_names(config)
    }


def run(tiny, without, kinds=KINDS):
    """Return the numbers of a port in training: two forward passes with masks of their own."""
    port = RIGHT
    for name in ("dropout-in-evaluation", *without):
        port = BY_NAME[name].change(port)
    random = replace(tiny, settings=replace(tiny.settings, dropout=RATE))
    first, again = (
        compute(port, random, kinds, dtype=np.float32, masks=masks(tiny, seed)) for seed in (1, 2)
    )
    return first | ({"logits_again": again["logits"]} if "logits" in kinds else {})


@pytest.mark.parametrize(
    ("without", "says"),
    [
        ((), "embedding, h.0.after_attn, h.0.after_mlp and 2 more are 0"),
        ((PROBS, *RESIDUAL), "embedding are 0"),
        ((EMBEDDING, PROBS), "h.0.after_attn, h.0.after_mlp, h.1.after_attn and 1 more are 0"),
    ],
    ids=["everywhere", "embedding", "residual"],
)
def test_activations_show_dropout(tiny, without, says):
    found = diagnosis.diagnose(dump.make(run(tiny, without)), tiny)
    text = report.text(found)
    assert f"cause   {ON}{says}" in text and "(rate 0.25); logits and logits_again" in text
    assert "no known mistake" not in text and found.wrong_ops == ()


@pytest.mark.parametrize(
    "without",
    [(), (PROBS, *RESIDUAL), (EMBEDDING, *RESIDUAL), (EMBEDDING, PROBS)],
    ids=["everywhere", "embedding", "attention", "residual"],
)
def test_two_forward_passes_show_that_one_is_random(tiny, unexplained, without):
    tensors = run(tiny, without, ("logits", "loss", "grad"))
    text = report.text(diagnosis.diagnose(dump.make(tensors), tiny))
    assert "cause   dropout is on, or something else is random; logits and logits_again" in text


def test_a_known_mistake_of_the_first_of_two_passes_is_named(tiny):
    """Its second one may be of another model: after a step, say."""
    port = BY_NAME["gelu-exact"].change(RIGHT)
    tensors = compute(port, tiny, ("act", "logits", "loss"), dtype=np.float32)
    tensors["logits_again"] = tensors["logits"] + np.float32(0.1)
    found = diagnosis.diagnose(dump.make(tensors), tiny)
    assert [[one.name for one in chain] for chain in found.causes] == [["gelu-exact"]]
    assert " tensors within rounding but logits again, which differ" in report.text(found)


def test_loss_and_gradients_cannot_show_it_but_the_report_says_which_tensors_would(
    tiny, unexplained
):
    tensors = run(tiny, (), ("loss", "grad"))
    found = diagnosis.diagnose(dump.make(tensors), tiny)
    assert found.causes == () and not found.randomness
    (line,) = (one for one in report.text(found).splitlines() if "to find it, dump " in one)
    assert line.split(", ")[1:] == [
        "dump param/* (are parameters loaded wrongly?)",
        "act/* (which layer is the first wrong one?)",
        "logits and logits_again (is dropout on?)",
    ]


def test_dropout_by_its_result():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4, 50))
    keep = rng.random(x.shape) >= RATE
    assert factor_of(x, x * keep / (1 - RATE)) == pytest.approx(1 / (1 - RATE))
    assert factor_of(np.triu(x), np.triu(x) * keep * 2) == pytest.approx(2)  # 0 before it too
    for other in (x, 2 * x, x * keep, x * keep * rng.random(x.shape), x[:2], np.triu(x), 0 * x):
        assert factor_of(x, other) is None


def test_a_dump_with_both_sides_of_dropout(tiny):
    """One of the two is compared, and no note says that they differ."""
    made = compute(RIGHT, tiny, KINDS, dtype=np.float32)
    keep = masks(tiny, 1)["h.0.after_mlp"]
    tensors = {name: x for name, x in made.items() if not name.startswith("act/")}
    tensors["act/h.0.mlp.c_proj"] = made["act/h.0.mlp.c_proj"]
    tensors["act/h.0.mlp.dropout"] = made["act/h.0.mlp.c_proj"] * keep / np.float32(1 - RATE)
    found = match(dump.make(tensors), tiny)
    assert found.dropped == {"h.0.mlp.c_proj": pytest.approx(1 / (1 - RATE))}
    assert not any("is not" in note for note in found.notes)
