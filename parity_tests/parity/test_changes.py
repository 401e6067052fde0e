"""One change of a line: which are made, that they run, and that their causes are named."""

from dataclasses import replace

import numpy as np
import pytest

from npgpt.model import params
from npgpt.parity import causes
from npgpt.parity.compute import cast, compute
from npgpt.parity.differences import gradient
from npgpt.parity.mistakes import CHANGES
from npgpt.parity.mistakes.one_change import changes
from npgpt.parity.port import EDITABLE, RIGHT, definitions
from npgpt.parity.probe import make
from parity_tests.support.causes import SHORT, Bench

FORWARD = [one for one in CHANGES if one.stage != "backward"]
SAMPLE = 60


@pytest.mark.parametrize(
    ("right", "others", "some"),
    [
        ("a - b", {}, {"a + b", "a", "b", "-(a - b)", "2 * (a - b)"}),
        ("a * b", {"b": ("c",)}, {"a * c", "a / b", "a", "b"}),
        ("a @ b.mT", {}, {"a @ b", "a.mT @ b.mT"}),
        ("(a * b).sum(-1, keepdims=True)", {},
         {"(a * b).mean(-1, keepdims=True)", "(a * b).sum(-2, keepdims=True)",
          "a.sum(-1, keepdims=True)"}),
        ("0.5 * x", {}, {"x", "1.0 * x", "0.25 * x"}),
    ],
)  # fmt: skip
def test_an_expression_is_changed_in_one_place(right, others, some):
    found = changes(right, others)
    assert some <= set(found) and right not in found
    assert len(set(found)) == len(found)


def test_a_statement_is_changed_as_a_whole():
    assert changes("f(x)", {}, ("g(x)", "2 * {}"), parts=False) == ["g(x)", "2 * f(x)"]


def test_gradient_by_differences():
    x, dout = np.random.default_rng(0).normal(size=(2, 3, 4))
    np.testing.assert_allclose(gradient(lambda a: a * a, x, dout, 0), 2 * x * dout, rtol=1e-8)
    for axes, function, right in (
        (1, lambda a: a * a.sum(-1, keepdims=True),
         dout * x.sum(-1, keepdims=True) + (dout * x).sum(-1, keepdims=True)),
        (2, lambda a: a * a.sum(), dout * x.sum() + (dout * x).sum()),
    ):  # fmt: skip
        found = gradient(function, x.astype(np.float32), dout, axes)
        np.testing.assert_allclose(found, right, rtol=1e-5)
        assert found.dtype == np.float32


def test_every_change_fits_the_right_lines():
    assert len(CHANGES) > 1000
    for one in CHANGES:
        for edit in one.edits:
            assert edit.module in EDITABLE
            assert definitions(edit.module)[edit.definition][1].count(edit.right) == 1, edit.right


@pytest.mark.slow
def test_changes_of_forward_have_its_gradients():
    """The slope along one direction: by the gradients, and by finite differences of the loss."""
    probe, rng, h = make(), np.random.default_rng(1), 1e-6
    probe = replace(probe, params=cast(probe.params, np.float64))
    direction = {name: rng.normal(size=a.shape) for name, a in params.named(probe.params)}
    moved = [params.copy(probe.params), params.copy(probe.params)]
    for sign, tree in zip((1, -1), moved, strict=True):
        for name, array in params.named(tree):
            array += sign * h * direction[name]
    for one in FORWARD[1::SAMPLE]:
        port = one.change(RIGHT)
        found = compute(port, probe, {"grad"})
        slope = sum((found[f"grad/{name}"] * d).sum() for name, d in direction.items())
        up, down = (compute(port, replace(probe, params=p), {"loss"})["loss"] for p in moved)
        assert slope == pytest.approx((up - down) / (2 * h), rel=1e-5), one.says


@pytest.mark.slow
@pytest.mark.parametrize("some", [FORWARD[7::SAMPLE], CHANGES[len(FORWARD) + 7 :: SAMPLE]])
def test_a_change_is_named(some, monkeypatch):
    """From the loss and the gradients alone, where no entry of the catalogue explains them."""
    monkeypatch.setattr(causes, "MISTAKES", ())
    monkeypatch.setattr(causes, "VARIANTS", ())
    monkeypatch.setattr(causes, "CHANGES", tuple(some))
    bench = Bench()
    for one in some[::4]:
        own = bench.compute(SHORT, one.change(RIGHT))
        assert (one,) in causes.find(bench.lab(own), own), one.says


@pytest.mark.slow
def test_two_common_mistakes_are_named_by_loss_and_gradients(monkeypatch):
    common = causes.COMMON
    assert len(common) == 43
    monkeypatch.setattr(causes, "VARIANTS", ())
    monkeypatch.setattr(causes, "CHANGES", ())
    pair = tuple(one for one in common if one.name in ("gelu-exact", "scores-not-scaled"))
    monkeypatch.setattr(causes, "MISTAKES", pair)
    monkeypatch.setattr(causes, "COMMON", (*pair, *common[:3]))
    bench = Bench()
    own = bench.compute(SHORT, pair[1].change(pair[0].change(RIGHT)))
    assert causes.find(bench.lab(own), own) == [pair]
