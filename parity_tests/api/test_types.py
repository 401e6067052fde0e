"""Types for users: mypy finds mistakes in their code, and the stub has the names of the package."""

import ast
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import npgpt

ROOT = Path(__file__).resolve().parents[2]
STUB = ROOT / "npgpt" / "__init__.pyi"

# `# E: code` is the error that mypy finds in a line; in the others it finds none
PROGRAM = """
import numpy as np
import npgpt

config = npgpt.Config(vocab_size=5, context_length=4, n_layer=1, n_head=1, n_embd=4)
npgpt.Config(vocab="x")  # E: call-arg
npgpt.Confg()  # E: attr-defined
model = npgpt.GPT(config, ops=npgpt.ops)
npgpt.GPT(config, ops="numpy", dtype="bfloat16", seed=npgpt.Generator(3))
npgpt.GPT(config, lr="x")  # E: call-arg
npgpt.GPT("gpt2-small")  # E: arg-type
npgpt.GPT(config, ops=np)  # E: arg-type
model.loss("text")  # E: call-arg arg-type
model.loss("text", "text")  # E: arg-type arg-type
model.loss([[0.5]], [[1]])  # E: arg-type
model.loss(np.zeros((1, 2), int), [[1, 2]], npgpt.Generator(1))
loss, gradients = model.loss_and_gradients([[1, 2]], [[2, 3]])
model.backward(gradients)  # E: arg-type
npgpt.AdamW(model.params, lr="x")  # E: arg-type
npgpt.AdamW(model.params).step(gradients, lr=1e-3)
npgpt.AdamW(model.params).stepp(gradients)  # E: attr-defined
npgpt.SGD(model.params, momentum="x")  # E: arg-type
npgpt.Muon(model.params).step(gradients, lr=1e-3)
npgpt.TrainingConfig(optimizer="lion")  # E: arg-type
model.params.h[0].attn.c_attn.wieght  # E: attr-defined
for token in npgpt.generate(model, [1, 2], 3):
    token.bit_length()
for row in npgpt.generate(model, [[1, 2], [3]], 3):
    row.bit_length()  # E: attr-defined
npgpt.generate(model, [1], "3")  # E: call-overload
model.trace([[1, 2]])["h.0.attn.probs"].mean()
print(npgpt.presets["tiny"].config.n_layer, npgpt.evaluate(model, "text"), npgpt.load("x").size)
npgpt.fused.linear.forward, npgpt.mixed.linear.forward, npgpt.zeros_like(model.params)
npgpt.fused.linaer  # E: attr-defined
"""


@pytest.fixture(scope="module")
def mypy():
    if find_spec("mypy") is None:
        pytest.skip("mypy is not installed: pip install '.[test]'")
    return [sys.executable, "-m", "mypy"]


@pytest.mark.slow
@pytest.mark.slow
def test_mistakes_in_a_users_program_are_errors_of_types(mypy, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    options = "--no-pretty --no-warn-unused-configs --show-error-codes --no-error-summary"
    command = [*mypy, "--config-file", str(ROOT / "pyproject.toml"), *options.split(), str(program)]
    said = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert said.stderr == ""
    found = re.findall(r"program\.py:(\d+): error: .*\[([\w-]+)\]$", said.stdout, re.MULTILINE)
    others = [line for line in said.stdout.splitlines() if "program.py" not in line]
    assert others == []
    expected = [
        (str(number), code)
        for number, line in enumerate(PROGRAM.split("\n"), 1)
        for code in line.partition("# E: ")[2].split()
    ]
    assert sorted(found) == sorted(expected)


def test_the_stub_has_the_public_names_from_their_modules():
    found = {}
    for node in ast.parse(STUB.read_text("utf-8")).body:
        if isinstance(node, ast.ImportFrom):
            (name,) = node.names
            assert name.asname == name.name  # or type checkers take it for private
            found[name.name] = node.module
    assert {found.pop(name) for name in npgpt._PACKAGES} == {"npgpt"}
    assert found == npgpt._MODULES


def test_types_are_installed():
    assert (ROOT / "npgpt" / "py.typed").is_file()
    project = (ROOT / "pyproject.toml").read_text("utf-8")
    assert 'npgpt = ["py.typed", "*.pyi"]' in project


def test_no_module_is_left_out():
    """mypy checks every module: none is on a list of exceptions."""
    project = (ROOT / "pyproject.toml").read_text("utf-8")
    assert "ignore_errors" not in project
