"""npgpt diagnose: clean ports, the report, exit statuses, and input that cannot be compared."""

import json
import os
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from npgpt import GPT
from npgpt.model.params import named
from npgpt.parity import diagnosis, dump, matching, order, probe, reading, report, rounding
from npgpt.parity.compute import compute
from npgpt.parity.port import RIGHT
from npgpt.testing import assert_parity, pytest_plugin

PASSES = "act", "loss", "dact", "grad"
ALL = *PASSES, "logits", "logits_again", "cached_logits", "after3"
UNSCALED = RIGHT.edit("npgpt.ops.attention:forward", "q @ k.mT * D**-0.5", "q @ k.mT").edit(
    "npgpt.ops.attention:backward", "keepdims=True)) * D**-0.5", "keepdims=True))"
)


@pytest.fixture(scope="module")
def tiny():
    return probe.make()


def numbers(port, tiny, kinds=ALL, dtype=np.float32):
    return compute(port, tiny, kinds, dtype=dtype)


def diagnose(tiny, tensors):
    return diagnosis.diagnose(dump.make(tensors), tiny)


# clean ports


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_right_port_agrees(tiny, dtype):
    found = diagnose(tiny, numbers(RIGHT, tiny, dtype=dtype))
    assert found.agrees and len(found.findings) == 165
    assert max(one.factor for one in found.findings) < 0.5  # half of what raises an alarm


def test_both_backends_agree(tiny, backend):
    model = GPT.from_params(tiny.config, tiny.params, ops=backend)
    loss, gradients = model.loss_and_gradients(tiny.tokens, tiny.targets)
    tensors = {"loss": np.float32(loss)} | {f"grad/{n}": x for n, x in named(gradients)}
    assert diagnose(tiny, tensors).agrees


def test_an_eps_of_almost_0_and_a_gradient_of_0(tiny):
    """The key bias has a gradient of 0: Adam steps by lr up or down, as rounding decides."""
    quiet = replace(tiny, settings=replace(tiny.settings, eps=1e-12))
    tensors = numbers(RIGHT, quiet)
    name, C = "after1/h.0.attn.c_attn.bias", tiny.config.n_embd
    before, after = tiny.params.h[0].attn.c_attn.bias, tensors[name].copy()
    keys = slice(C, 2 * C)
    after[keys] = 2 * (1 - 1e-2 * 0.1) * before[keys] - after[keys]  # the other signs
    assert np.abs(after - tensors[name]).max() > 1e-2
    assert diagnose(quiet, tensors | {name: after}).agrees
    after[0] += 1e-4  # a query's: rounding does not explain it
    assert not diagnose(quiet, tensors | {name: after}).agrees


@pytest.mark.parametrize("kind", ["bfloat16", "float16"])
def test_products_in_16_bits_have_their_own_budget(tiny, kind):
    port = rounding.round_products(RIGHT, kind)
    found = diagnose(tiny, numbers(port, tiny, PASSES))
    assert (found.agrees, found.arithmetic) == (True, kind)
    assert f"products are in {kind}" in report.text(found)
    short = diagnose(tiny, numbers(port, tiny, ("loss", "grad")))  # whose bits are not of 16 bits
    assert (short.agrees, short.arithmetic, short.within) == (False, "float32", kind)


def test_a_wrong_step_is_not_called_rounding_of_products(tiny):
    """It is off by less than bfloat16 would be, but loss and gradients are right."""
    tensors = numbers(RIGHT, tiny)
    for name, before in named(tiny.params):
        after = tensors[f"after1/{name}"]
        tensors[f"after1/{name}"] = after + np.float32(0.01) * (after - before)
    found = diagnose(tiny, tensors)
    assert not found.agrees and (found.causes, found.within) == ((), "")


# the report


@pytest.fixture(scope="module")
def unscaled(tiny):
    return diagnose(tiny, numbers(UNSCALED, tiny))


def test_the_report_of_a_known_mistake(unscaled):
    lines = report.text(unscaled).splitlines()
    assert lines[:2] == [
        "matched 28 of 28 parameters (weights are (in, out); q, k, v fused)",
        "right   embedding, h.0.ln_1, h.0.attn.c_attn",
    ]
    assert lines[2].startswith("WRONG   h.0.attn.probs    ")
    assert " x the rounding budget; also h.0 to h.1, ln_f, logits and 140 more" in lines[2]
    assert lines[3].startswith("        at [0, 0, 1, 0]: ") and ", expected " in lines[3]
    said = "cause   scores are not divided by sqrt(D): reproduces all 165 tensors within rounding"
    assert said in lines
    where = lines[lines.index(said) + 1].split()
    file, line = where[0].split(":")
    assert "scores = q @ k.mT * D**-0.5" in Path(file).read_text().splitlines()[int(line) - 1]
    assert where[1] == "docs/backprop/attention.md"
    assert "        attention: h.0.attn.probs, h.1.attn.probs" in lines


def test_the_report_names_blocks_that_are_one_module(tiny):
    tensors = numbers(RIGHT, tiny, ("loss", "grad"))
    assert reading.shared_blocks(matching.match(dump.make(tensors), tiny)) == []
    shared = {name: tensors[name.replace("h.1", "h.0")] for name in tensors}
    found = reading.shared_blocks(matching.match(dump.make(shared), tiny))
    assert found == ["h.0, h.1: the very same gradients, as of one module that the port shares"]


def test_the_report_is_as_wide_as_a_terminal(unscaled):
    whole, narrow = report.text(unscaled), report.text(unscaled, 60)
    assert max(map(len, whole.splitlines())) > 60 >= max(map(len, narrow.splitlines()))
    assert narrow.split() == whole.split()


def test_the_report_of_loss_and_gradients(tiny):
    found = diagnose(tiny, numbers(UNSCALED, tiny, ("loss", "grad")))
    lines = report.text(found).splitlines()
    assert lines[1].startswith("WRONG   loss    ") and lines[1].endswith("; also 28 gradients")
    assert lines[3].startswith("cause   scores are not divided by sqrt(D): ")
    assert lines[-1] == ("not checked: activations, gradients of activations, optimizer, "
                         "cached logits (not dumped)")  # fmt: skip


def test_the_gradient_of_the_logits_of_a_large_vocabulary(tiny):
    """It is compared, without the square of the vocabulary in memory."""
    model = GPT(replace(tiny.config, vocab_size=1500), seed=1)
    large = probe.of_model(model).with_batch(tiny.tokens, tiny.targets)
    tensors = numbers(RIGHT, large, PASSES)
    gradient = tensors["dact/logits"]
    counts = tiny.targets >= 0
    assert gradient.shape == (*tiny.tokens.shape, 1500) and not gradient[~counts].any()
    of_targets = gradient[counts, tiny.targets[counts]] * np.count_nonzero(counts)
    assert ((-1 < of_targets) & (of_targets < -0.9)).all()
    found = diagnose(large, tensors)
    assert found.agrees and "dact/logits" in {one.name for one in found.findings}


def test_the_steps_of_a_large_model_are_left_out_with_a_note(tiny, monkeypatch):
    tensors = numbers(RIGHT, tiny, ("loss", "grad", "after"))
    tensors["after1/wte.weight"] = tensors["after1/wte.weight"] + 1
    assert not diagnose(tiny, tensors).agrees
    monkeypatch.setattr(reading, "STEPPED", 1000)
    found = diagnose(tiny, tensors)
    assert found.agrees and "after" in found.not_dumped
    (line,) = [one for one in report.text(found).splitlines() if one.startswith("steps:")]
    assert "more than 1,000. Dump those of the tiny probe" in line


def test_an_unknown_mistake_is_located(tiny):
    port = RIGHT.edit("npgpt.ops.gelu:forward", "0.5 * x * (1 + t)", "0.5 * x * (1.1 + t)")
    text = report.text(diagnose(tiny, numbers(port, tiny, PASSES)))
    assert ("cause   no known mistake reproduces it; the error is between h.0.mlp.c_fc and "
            "h.0.mlp.gelu") in text.splitlines()  # fmt: skip


def test_the_error_is_after_a_tensor_that_the_wrong_one_is_computed_from(tiny):
    """The gradient of ln_f's weight is the last right one, and no gradient is computed from it."""
    port = RIGHT.edit("npgpt.ops.layernorm:backward", "- via_mean", "- 0.5 * via_mean")
    found = diagnose(tiny, numbers(port, tiny, PASSES))
    assert found.between == ("dact/ln_f", "dact/h.1.after_mlp")


def test_json_has_all_of_it(unscaled):
    found = json.loads(json.dumps(report.as_json(unscaled), allow_nan=False))
    assert (found["agrees"], found["first_wrong"]) == (False, "act/h.0.attn.probs")
    assert [[one["name"] for one in chain] for chain in found["causes"]] == [["scores-not-scaled"]]
    assert len(found["tensors"]) == 165
    assert {one["op"] for one in found["wrong_ops"]} >= {"attention", "attention backward"}


def test_parameters_that_were_changed_before_they_were_dumped(tiny):
    tensors = numbers(RIGHT, tiny, (*PASSES, "param"))
    tensors["param/h.0.ln_1.weight"] = tensors["param/h.0.ln_1.weight"] * 1.5
    found = diagnose(tiny, tensors)
    assert found.first_wrong.name == "param/h.0.ln_1.weight" and found.causes == ()
    text = report.text(found)
    assert "loaded  h.0.ln_1.weight: the right numbers times 1.5" in text
    count = len(found.computed)
    assert f"right   {count} other tensors, given the probe's parameters" in text
    assert "cause   the dump, not the port: all else is right with the probe's" in text


def test_a_parameter_without_a_gradient_has_one_of_0(tiny):
    """PyTorch's `grad` is None where no gradient arrives, and such a parameter is not decayed."""
    tensors = numbers(RIGHT, tiny, ("loss", "grad", "after2"))
    del tensors["grad/wpe.weight"]
    found = reading.read(dump.make(tensors), tiny, {})
    assert not found.own["grad/wpe.weight"][0].any()
    steps = {name for name in found.own if name.startswith("after")}
    assert steps == {name for name in tensors if "after1/" in name} - {"after1/wpe.weight"}
    (note,) = (note for note in found.notes if note.startswith("no gradient: wpe.weight. "))
    assert note.endswith("is not compared after a step, and no parameter after the second step")
    short = {name: x for name, x in tensors.items() if "after" not in name}
    said = diagnose(tiny, short)
    assert (said.first_wrong.name, said.first_wrong.stage) == ("grad/wpe.weight", "backward")


# the command


@pytest.fixture
def files(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    probe.write("probe", tiny)
    return tmp_path


def test_exit_statuses(tiny, files, npgpt_):
    right, wrong = (numbers(port, tiny, ("loss", "grad")) for port in (RIGHT, UNSCALED))
    dump.write("right.npz", dump.make(right))
    dump.write("wrong.npz", dump.make(wrong))
    assert "The port agrees: 29 tensors" in npgpt_("diagnose probe right.npz").out
    assert "scores are not divided by sqrt(D)" in npgpt_("diagnose probe wrong.npz", code=1).out
    found = json.loads(npgpt_("diagnose probe wrong.npz --json", code=1).out)
    assert found["first_wrong"] == "loss"


BAD = {
    "nothing": (lambda t: {"tokens": t["tokens"]}, "neither loss nor gradients"),
    "nan": (
        lambda t: t | {"loss": np.nan, "param/ln_f.bias": np.full(10, np.nan)},
        "param/ln_f.bias has 10 of 10 numbers that are nan or infinite, the first at (0,)",
    ),
    "other tokens": (lambda t: t | {"tokens": t["tokens"] * 0}, "another batch"),
    "other targets": (lambda t: t | {"targets": t["targets"] * 0}, "another batch"),
    "other heads": (lambda t: t | {"meta": '{"n_head": 5}'}, "n_head is 5"),
    "other model": (lambda t: t | {"grad/wte.weight": np.ones((7, 3))}, "wte.weight"),
    "no masks": (lambda t: t | {"meta": '{"dropout": 0.5}'}, "mask/embedding"),
    "no setting": (lambda t: t | {"meta": '{"lr": -1}'}, "lr is -1"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line(tiny, files, npgpt_, case):
    change, says = BAD[case]
    tensors = numbers(RIGHT, tiny, ("loss", "grad"))
    np.savez("bad.npz", **change(tensors | {"tokens": tiny.tokens, "targets": tiny.targets}))
    said = npgpt_("diagnose probe bad.npz", code=2)
    assert said.out == "" and said.err.count("\n") == 1 and says in said.err


def test_map_is_a_pair(files, npgpt_):
    assert "--map is 'x'" in npgpt_("diagnose probe bad.npz --map x", code=2).err


# tests of a port


def test_assert_parity_raises_the_report(tiny):
    assert_parity(numbers(RIGHT, tiny, ("loss", "grad")), tiny)
    assert_parity(numbers(RIGHT, tiny, ("loss", "grad")))  # the tiny probe is the default
    with pytest.raises(AssertionError, match=r"cause   scores are not divided by sqrt\(D\)"):
        assert_parity(numbers(UNSCALED, tiny, ("loss", "grad")), tiny)


PORT = """
import numpy as np
from npgpt.parity.compute import compute
from npgpt.parity.port import RIGHT

def test_port(npgpt_probe, npgpt_stage):
    port = RIGHT.edit("npgpt.ops.layernorm:backward", "- via_mean", "- 2 * via_mean")
    npgpt_stage(compute(port, npgpt_probe, {"loss", "grad", "after1"}, dtype=np.float32))
"""


class Outcomes:
    def __init__(self):
        self.found = {}

    def pytest_runtest_logreport(self, report):
        if report.when == "call":
            stage = report.nodeid.partition("[")[2].rstrip("]")
            reason = report.longrepr[2] if report.skipped else str(report.longrepr or "")
            self.found[stage] = report.outcome, reason


def test_the_plugin_runs_a_test_per_stage(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # npgpt may be installed
    monkeypatch.delitem(sys.modules, "test_port", raising=False)  # another test's module
    (tmp_path / "test_port.py").write_text(PORT)
    outcomes = Outcomes()
    options = ["-q", "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", str(tmp_path)]
    pytest.main([*options, str(tmp_path)], plugins=[pytest_plugin, outcomes])
    found = outcomes.found
    assert list(found) == list(order.STAGES)
    assert {stage: outcome for stage, (outcome, _) in found.items()} == {
        "forward": "skipped", "loss": "passed", "backward": "failed", "step": "skipped",
        "cache": "skipped",
    }  # fmt: skip
    assert "no tensor of this stage was dumped: forward" in found["forward"][1]
    assert "WRONG   gradient of h.1.mlp.c_proj.weight" in found["backward"][1]
    assert "backward is wrong: gradient of h.1.mlp.c_proj.weight" in found["step"][1]


def test_the_plugin_imports_nothing():
    """It is loaded in every run of pytest of everyone who has npgpt."""
    code = (
        "import pytest, sys; before = set(sys.modules); import npgpt.testing.pytest_plugin; "
        "print(*{name.partition('.')[0] for name in set(sys.modules) - before})"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(found.stdout.split()) & {"numpy", "numba", "torch", "npgpt"} == {"npgpt"}


def test_the_plugin_is_registered():
    found = tomllib.loads(Path("pyproject.toml").read_text())["project"]["entry-points"]
    assert found == {"pytest11": {"npgpt": pytest_plugin.__name__}}
    assert pytest_plugin.STAGES == order.STAGES
