"""Forged checkpoints with valid checksums: read or refused, each within 1 s and 100 MB."""

import re
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="the limits of memory and CPU time are Linux's"
)


@pytest.mark.slow
def test_500_forged_checkpoints_are_read_or_refused():
    """By hand: python -m parity_tests.support.fuzz_hdf5 100000."""
    said = subprocess.run(
        [sys.executable, "-m", "parity_tests.support.fuzz_hdf5", "500"],
        capture_output=True,
        text=True,
    )
    assert (said.returncode, said.stderr) == (0, ""), said.stdout + said.stderr
    files, outcomes = re.search(r"^(\d+) files, (\d+) outcomes", said.stdout, re.M).groups()
    assert files == "500"
    assert int(outcomes) >= 50, said.stdout
    assert re.search(r"^ +\d+ read$", said.stdout, re.M)
