"""npgpt.ops, npgpt.fused and npgpt.mixed: attributes, imported when they are used."""

import subprocess
import sys

import pytest

import npgpt
from npgpt import backends
from npgpt.model.backend import OPS

HEAD = "import sys, npgpt; loaded = lambda: 'numba' in sys.modules\n"
CONFIG = "npgpt.Config(vocab_size=5, context_length=4, n_layer=1, n_head=1, n_embd=4)"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("program", "says"),
    [
        ("found = npgpt.fused, npgpt.mixed, npgpt.ops; print(loaded(), 'numpy' in sys.modules)",
         "False False"),
        (f"npgpt.GPT({CONFIG}, ops=npgpt.ops).logits([[1]]); print(loaded())", "False"),
        (f"npgpt.GPT({CONFIG}, ops='numpy').logits([[1]]); print(loaded())", "False"),
        ("found = npgpt.fused; print(loaded(), found.__name__, loaded())",
         "False npgpt.fused True"),
        ("found = npgpt.fused; import npgpt.fused as same; print(same is found, loaded())",
         "True True"),
        ("from npgpt import fused; from npgpt.fused import linear; print(fused.linear is linear)",
         "True"),
        ("from npgpt.fused import linear; print(npgpt.fused.linear is linear)", "True"),
        ("print(npgpt.fused.gelu is npgpt.mixed.gelu)", "True"),
        ("print(npgpt.backends.get().__name__, npgpt.backends.get('mixed') is npgpt.mixed)"
         .replace("npgpt.backends", "__import__('npgpt.backends').backends"),
         "npgpt.fused True"),
    ],
)  # fmt: skip
def test_in_a_process_of_its_own(program, says):
    said = subprocess.run([sys.executable, "-c", HEAD + program], capture_output=True, text=True)
    assert (said.stdout.strip(), said.stderr) == (says, "")


def test_they_are_listed():
    assert {"ops", "fused", "mixed", "show"} <= set(dir(npgpt))


def test_which_backend_computes():
    fused, mixed, plain = (backends.get(name) for name in ("fused", "mixed", "numpy"))
    assert (fused, mixed, plain) == (npgpt.fused, npgpt.mixed, npgpt.ops)
    assert backends.get() is backends.get(dtype="float64") is backends.get(fused) is fused
    assert backends.get(dtype="bfloat16") is backends.get("fused", dtype="bfloat16") is mixed
    assert [backends.name_of(one) for one in (fused, plain)] == ["npgpt.fused", "npgpt.ops"]
    assert [backends.key_of(one) for one in (fused, mixed, plain)] == ["fused", "mixed", "numpy"]
    assert all(set(OPS) <= set(dir(one)) for one in (fused, mixed, plain))
    assert len(OPS) == 15
