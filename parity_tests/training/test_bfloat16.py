"""Training in bfloat16."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from llvmlite import binding

import npgpt
from npgpt import mixed
from npgpt.model import params
from npgpt.performance import system_info
from parity_tests.support.quantized import TOKENS
from parity_tests.support.weight_files import CONFIG

# Training


# its learning rate stays where it is, and so does not depend on --steps
TINY = (
    "--data text.txt --n-layer 1 --n-embd 16 --n-head 2 --context-length 16 --batch-size 4 "
    "--stride 16 --eval-every 2 --sample-tokens 3 --warmup-steps 1 --min-lr 5e-3"
)


def test_a_bfloat16_model_has_float32_parameters():
    model, wide = npgpt.GPT(CONFIG, seed=3, dtype="bfloat16"), npgpt.GPT(CONFIG, seed=3)
    assert (model.ops, model.dtype) == (mixed, np.float32)
    optimizer = npgpt.AdamW(model.params, lr=1e-2)
    for (name, a), (_, b) in zip(
        params.named(model.params), params.named(wide.params), strict=True
    ):
        np.testing.assert_array_equal(a, b, err_msg=name)
    losses = []
    for _ in range(4):
        loss, cache = model.loss(TOKENS[:, :-1], TOKENS[:, 1:])
        gradients = model.backward(cache)
        optimizer.step(gradients)
        losses.append(float(loss))
    assert all(array.dtype == np.float32 for _, array in params.named(gradients))
    assert losses == sorted(losses, reverse=True) and losses[-1] < losses[0] - 0.1


@pytest.mark.slow
def test_a_run_in_bfloat16_resumes_bit_for_bit(said):
    Path("text.txt").write_text("The lamp is lit at dusk, and the keeper writes it down. " * 15)
    said(f"train {TINY} --dtype bfloat16 --steps 6 --out whole")
    said(f"train {TINY} --dtype bfloat16 --steps 3 --out half")
    said("train --resume half --steps 6")
    assert json.loads(Path("half/config.json").read_text())["dtype"] == "bfloat16"
    trees = [params.named(npgpt.load(path).params) for path in ("whole", "half")]
    for (name, a), (_, b) in zip(*trees, strict=True):
        assert a.dtype == np.float32
        np.testing.assert_array_equal(a, b, err_msg=name)
    error = said("train --resume half --dtype float32", code=2).err
    assert "--dtype float32 does not fit: half was made with bfloat16" in error
    said(f"train {TINY} --init-from whole --dtype bfloat16 --steps 1 --out more")
    error = said("train --init-from whole --dtype float64", code=2).err
    assert "--dtype float64 does not fit" in error


@pytest.mark.slow
def test_training_says_where_bfloat16_saves_no_time(said, monkeypatch):
    Path("text.txt").write_text("The lamp is lit at dusk, and the keeper writes it down. " * 15)
    for able, lines in ((True, 0), (False, 1)):
        monkeypatch.setattr(system_info, "multiplies_bfloat16", lambda able=able: able)
        error = said(f"train {TINY} --dtype bfloat16 --steps 1 --out {able}").err
        assert error.count("bfloat16 saves memory, but no time\n") == lines
    assert "bfloat16 saves" not in said(f"train {TINY} --steps 1 --out float32").err


@pytest.mark.parametrize("features", ["+avx2,+fma", "+avx2,+fma,+avx512f,+avx512bf16"])
def test_info_says_which_path_it_is(features):
    """NUMBA_CPU_FEATURES is what the kernels may use of the CPU. Nothing is compiled here."""
    host = binding.get_host_cpu_features()
    if lacking := [name for name in features.split(",") if not host.get(name[1:])]:
        pytest.skip(f"this CPU lacks {lacking}")
    program = (
        "from npgpt.performance import system_info as info; "
        "print(info.bfloat16(info.multiplies_bfloat16()))"
    )
    environment = os.environ | {"NUMBA_CPU_FEATURES": features}
    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment
    )
    assert found.stderr == ""
    expected = "by AVX512_BF16" if "bf16" in features else "this CPU has no AVX512_BF16"
    assert expected in found.stdout
    assert "bfloat16" in system_info.gather().facts
