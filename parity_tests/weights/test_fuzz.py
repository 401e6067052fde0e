"""Forged files of every format: read or refused, each within 1 s and 100 MB."""

import re
import subprocess
import sys

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not sys.platform.startswith("linux"), reason="the limits of memory and CPU time are Linux's"
    ),
]
# Different outcomes of 500 files: at least half of those counted once, so that each reader runs.
OUTCOMES = {
    "checkpoint": 25, "run state": 25, "run directory": 15, "safetensors": 12, "huggingface": 50,
    "quantized": 30, "tensorflow": 14, "openai": 20, "llm.c": 5, "npz": 2,
    "tokenizer": 35, "dump": 40,
}  # fmt: skip


@pytest.fixture(scope="module")
def said():
    """Return the finished process that read 500 forged files of each format."""
    command = [sys.executable, "-m", "parity_tests.support.run_fuzz", "500"]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.parametrize("name", OUTCOMES)
def test_500_forged_files_are_read_or_refused(said, name):
    line = rf"^{re.escape(name)}: (\d+) read, (\d+) refused in (\d+) outcomes, .* failed: \[\]$"
    found = re.search(line, said.stdout, re.M)
    assert found, said.stdout + said.stderr
    read, refused, outcomes = map(int, found.groups())
    assert read + refused == 500
    assert read > 0 or name == "npz"
    assert outcomes >= OUTCOMES[name]


def test_no_format_is_left_out(said):
    assert re.findall(r"^(.+): \d+ read", said.stdout, re.M) == [*OUTCOMES]
    assert (said.returncode, said.stderr) == (0, "")
