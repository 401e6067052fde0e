"""torch on its default kernels, without AVX2."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from npgpt.rng import Generator
from parity_tests.support.torch_stream import CAPABILITY

pytestmark = pytest.mark.slow

STREAMS = "test_random_stream.py", "test_generator.py"


def run_with_default_kernels(*arguments):
    environment = os.environ | {"ATEN_CPU_CAPABILITY": "default"}
    command = [sys.executable, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.skipif(CAPABILITY == "DEFAULT", reason="every test here runs on default kernels")
def test_masks_shuffles_and_sampling_on_default_kernels():
    run = run_with_default_kernels(
        "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", "-p", "no:xdist", "-o", "addopts=",
        *(str(Path(__file__).with_name(name)) for name in STREAMS),
        # both backends draw the same bits, as other tests see
        "-k", "(every_call or loader or thousand or carry or carries) and not fused",
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    assert "DEFAULT kernels round otherwise" in run.stdout  # it did run without AVX2


DEFAULT_DRAWS = """
import sys, torch
torch.manual_seed(123)
torch.empty(100_003).normal_().numpy().tofile(sys.argv[1])
torch.empty(100_003).uniform_(-0.03, 0.03).numpy().tofile(sys.argv[2])
"""


def test_how_far_default_kernels_are_away(tmp_path, ops):
    """Their normals come from libm, their uniforms are rounded twice; they draw the same words."""
    files = [str(tmp_path / name) for name in ("normal", "uniform")]
    run = run_with_default_kernels("-c", DEFAULT_DRAWS, *files)
    assert run.returncode == 0, run.stderr
    normal, uniform = (np.fromfile(name, np.float32) for name in files)

    generator = Generator(123, ops=ops)
    ours = generator.normal(100_003)
    np.testing.assert_allclose(ours, normal, rtol=0, atol=3e-6)
    # of 16 million: two ulp in the median of those that differ, at most 38 above 1/2; see
    # docs/book.md. Next to 0, where a sine or a cosine is, an ulp says nothing
    ulps = np.abs(ours - normal) / np.spacing(np.abs(ours))
    assert np.median(ulps[ulps > 0]) <= 2 and ulps[np.abs(ours) > 0.5].max() <= 38
    there = generator.copy()
    ours, u = generator.uniform(100_003, -0.03, 0.03), there.uniform(100_003)
    low, high = np.float32(-0.03), np.float32(0.03)
    np.testing.assert_array_equal(u * (high - low) + low, uniform)
    differ = ours != uniform
    assert 0.4 < differ.mean() < 0.6
    scale = np.spacing(high)  # an ulp of the larger summand; near 0 the sum's own ulp is smaller
    assert np.abs(ours[differ] - uniform[differ]).max() <= scale
