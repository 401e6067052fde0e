"""The catalogue of mistakes: each differs from the right port and from every other one."""

import functools
import inspect
import re
from collections import Counter
from dataclasses import replace
from importlib import import_module
from itertools import chain, combinations

import numpy as np
import pytest

from npgpt.model import params
from npgpt.parity.compute import cast, compute
from npgpt.parity.mistakes import MISTAKES
from npgpt.parity.port import EDITABLE, KEPT, RIGHT
from npgpt.parity.probe import Settings, make
from npgpt.rng import Generator
from parity_tests.support import mistake_pages

APART = 1e-5  # of a tensor's norm: float32 rounds these numbers by less than 1e-6
KINDS = {
    "forward": {"act", "loss", "logits", "dact", "grad"},
    "loss": {"loss", "dact", "grad"},
    "backward": {"dact", "grad"},
    "step": {"after2"},
    "cache": {"cached_logits"},
}
NAMED = {mistake.name: mistake for mistake in MISTAKES}


def in_float64(**settings):
    probe = make()
    return replace(probe, params=cast(probe.params, np.float64), settings=Settings(**settings))


PROBE = in_float64()
DROPS = in_float64(dropout=0.25)
UNTIED = make(tied=False)
TRAINED = [
    in_float64(accumulation=3, grad_clip=None),
    in_float64(accumulation=3),
    in_float64(decay="matrices", grad_clip=100.0),
    in_float64(optimizer="adam"),
    in_float64(optimizer="sgd", momentum=0.5, grad_clip=None),
    in_float64(optimizer="rmsprop"),
    in_float64(optimizer="muon", momentum=0.5),
]


@functools.cache
def masks():
    (B, T), H, C = PROBE.tokens.shape, PROBE.config.n_head, PROBE.config.n_embd
    shapes = {"embedding": (B, T, C)}
    for i in range(PROBE.config.n_layer):
        shapes[f"h.{i}.attn.probs"] = (B, H, T, T)
        shapes |= dict.fromkeys((f"h.{i}.after_attn", f"h.{i}.after_mlp"), (B, T, C))
    rng = Generator(3, ops="numpy")
    return {name: rng.bernoulli(0.75, shape) for name, shape in shapes.items()}


def probes_of(mistake):
    """Return the probes on which a mistake may show, each with its masks."""
    if mistake.stage == "step":
        return [(probe, None) for probe in TRAINED]
    if mistake.name == "head-tied":
        return [(UNTIED, None)]
    return [(DROPS, masks())] if mistake.page.endswith("dropout.md") else [(PROBE, None)]


@functools.cache
def numbers(name, index, *extra):
    """Return what a mistake ("": none) computes on one of its probes, by name."""
    mistake = NAMED.get(name)
    probe, own_masks = probes_of(mistake)[index]
    kinds = KINDS[mistake.stage] if not extra else set(extra)
    return compute(mistake.change(RIGHT), probe, kinds, masks=own_masks)


@functools.cache
def right(stage, example, index, *extra):
    """Return what the right port computes on a probe of a mistake, the example."""
    probe, own_masks = probes_of(NAMED[example])[index]
    kinds = KINDS[stage] if not extra else set(extra)
    return compute(RIGHT, probe, kinds, masks=own_masks)


def right_of(mistake, index, *extra):
    example = next(m for m in MISTAKES if group_of(m) == group_of(mistake))
    return right(mistake.stage, example.name, index, *extra)


def group_of(mistake):
    """Return a key of the stage and the probes of a mistake."""
    return mistake.stage, mistake.page.endswith("dropout.md"), mistake.name == "head-tied"


def differ(a, b, scale):
    """Return True if two results differ in a tensor by far more than rounding."""
    for name in scale:
        x, y = a.get(name), b.get(name)
        if (x is None) != (y is None) or (x is not None and x.shape != y.shape):
            return True
        if x is not None and np.linalg.norm(x - y) > APART * np.linalg.norm(scale[name]):
            return True
    return False


def groups():
    """Return the mistakes whose first wrong number is of the same stage, on the same probes."""
    found = {}
    for mistake in MISTAKES:
        found.setdefault(group_of(mistake), []).append(mistake)
    return list(found.values())


@pytest.mark.slow
def test_every_mistake_differs_from_the_right_port():
    for mistake in MISTAKES:
        assert any(
            differ(numbers(mistake.name, i), right_of(mistake, i), right_of(mistake, i))
            for i in range(len(probes_of(mistake)))
        ), mistake.name


@pytest.mark.slow
@pytest.mark.parametrize("group", groups(), ids=lambda group: group[0].stage)
def test_every_two_mistakes_differ_or_are_declared_twins(group):
    """Mistakes of different stages differ too: see the test of the first wrong number."""
    same, alike = set(combinations(sorted(mistake.name for mistake in group), 2)), group
    for index in range(len(probes_of(group[0]))):
        same &= close_pairs(alike, index, right_of(group[0], index))
        alike = [mistake for mistake in alike if mistake.name in {*chain(*same)}]
    twins = {tuple(sorted((m.name, twin))) for m in group for twin in m.twins}
    more = {pair for pair in same - twins if not differ_after_steps(*pair)}
    assert more == set()
    assert twins <= same


def close_pairs(group, index, scale):
    """Return the pairs that do not differ on a probe. Projections tell nearly all apart."""
    results = [numbers(mistake.name, index) for mistake in group]
    rng = np.random.default_rng(0)
    signatures = np.empty((len(group), len(scale)))
    for column, (name, array) in enumerate(scale.items()):
        direction = rng.normal(size=array.size) / np.linalg.norm(array)
        for row, result in enumerate(results):
            own = result.get(name)
            fits = own is not None and own.shape == array.shape
            signatures[row, column] = own.ravel() @ direction if fits else np.inf
    found = set()
    for i, j in combinations(range(len(group)), 2):
        with np.errstate(invalid="ignore"):  # inf - inf
            far = np.abs(signatures[i] - signatures[j]) > 0.01
        if not far.any() and not differ(results[i], results[j], scale):
            found.add(tuple(sorted((group[i].name, group[j].name))))
    return found


def differ_after_steps(first, second):
    """Return True if two mistakes with the same gradients make different steps."""
    if NAMED[first].stage == "step":
        return False
    found = [compute(NAMED[name].change(RIGHT), PROBE, {"after2"}) for name in (first, second)]
    return differ(*found, found[0])


@pytest.mark.slow
def test_the_first_wrong_number_is_of_the_stage():
    before = {"forward": (), "loss": ("act", "logits"), "backward": ("act", "loss", "logits"),
              "step": ("loss", "grad", "logits"), "cache": ("loss", "logits")}  # fmt: skip
    for mistake in MISTAKES:
        if kinds := before[mistake.stage]:
            found = numbers(mistake.name, 0, *kinds)
            for name, array in right_of(mistake, 0, *kinds).items():
                np.testing.assert_array_equal(found[name], array, err_msg=mistake.name)


@pytest.mark.slow
def test_gradients_are_those_of_the_wrong_forward_or_wrong_themselves():
    """The slope along one direction: by the gradients, and by finite differences of the loss."""
    rng, h = np.random.default_rng(1), 1e-6
    direction = {name: rng.normal(size=a.shape) for name, a in params.named(PROBE.params)}
    moved = []
    for sign in (1, -1):
        moved.append(params.copy(PROBE.params))
        for name, array in params.named(moved[-1]):
            array += sign * h * direction[name]
    for mistake in MISTAKES:
        if mistake.stage in ("step", "cache") or mistake.name == "head-tied":
            continue
        [(probe, own_masks)] = probes_of(mistake)
        found = numbers(mistake.name, 0, "grad")
        slope = sum((found[f"grad/{name}"] * d).sum() for name, d in direction.items())
        up, down = (
            compute(mistake.change(RIGHT), replace(probe, params=p), {"loss"}, masks=own_masks)
            for p in moved
        )
        measured = (up["loss"] - down["loss"]) / (2 * h)
        agrees = abs(slope - measured) < 1e-5 * max(abs(slope), abs(measured))
        meant = mistake.stage in ("forward", "loss")
        assert agrees == meant or not mistake.smooth, (mistake.name, slope, measured)


@pytest.mark.parametrize("page", sorted({mistake.page for mistake in MISTAKES}))
def test_right_code_stands_where_it_is_said_to(page):
    for mistake in MISTAKES:
        if mistake.page == page:
            for edit in mistake.edits:
                assert edit.module in EDITABLE
                source = inspect.getsource(import_module(edit.module)).splitlines()
                assert edit.right.splitlines()[0].strip() in source[edit.line() - 1]


def test_names_are_unique_and_lines_short():
    assert [name for name, count in Counter(m.name for m in MISTAKES).items() if count > 1] == []
    assert len(MISTAKES) >= 300
    for mistake in MISTAKES:
        assert re.fullmatch(r"[a-z0-9-]+", mistake.name)  # the anchor of its heading
        assert len(mistake.says) <= 100 and "\n" not in mistake.says
        assert not mistake.says.endswith(".")
        for twin in mistake.twins:
            assert mistake.name in NAMED[twin].twins


def test_two_mistakes_of_different_ops_compose():
    port = NAMED["scores-not-scaled"].change(NAMED["gelu-exact"].change(RIGHT))
    found = compute(port, PROBE, {"act"})
    for name in ("scores-not-scaled", "gelu-exact"):
        alone = compute(NAMED[name].change(RIGHT), PROBE, {"act"})
        assert differ(found, alone, alone)


def test_the_variables_that_a_recorder_keeps_are_assigned():
    for module, names in KEPT.items():
        source = inspect.getsource(import_module(module))
        assert all(f"    {name} = " in source for name in names)


def test_the_pages_are_those_of_the_catalogue():
    """To write them: python -m parity_tests.support.mistake_pages."""
    for path, text in mistake_pages.pages().items():
        assert (mistake_pages.ROOT / path).read_text("utf-8") == text, path


def test_the_program_on_the_first_page_runs(capsys):
    text = (mistake_pages.ROOT / mistake_pages.INDEX).read_text("utf-8")
    exec(text.partition("```python\n")[2].partition("```")[0], {})
    assert capsys.readouterr().out.count("\n") == 5


def test_every_mistake_computes_with_a_head_of_its_own():
    for mistake in MISTAKES[::4]:
        kinds = KINDS[mistake.stage]
        if not mistake.page.endswith("dropout.md"):
            compute(mistake.change(RIGHT), UNTIED, kinds)
