"""Commands whose memory runs out. All cases: python -m parity_tests.support.allocations."""

import sys

import numpy as np
import pytest

from parity_tests.support import allocations, faults

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="replaces NumPy's allocator by libc's"),
]
CASES = 3  # of each scenario, from its first allocation to its last


@pytest.fixture(scope="module", autouse=True)
def replaced():
    with faults.fixtures(real_plot=False):
        yield


@pytest.mark.parametrize("name", allocations.SCENARIOS)
def test_memory_that_runs_out(name):
    count, expected = allocations.measure(name)
    numbers = np.unique(np.linspace(1, count, CASES).astype(int))
    assert len(numbers) >= 3
    found = [allocations.fail(name, int(one), one % 2 == 0, expected) for one in numbers]
    assert 1 in found and set(found) <= {0, 1}  # 0: a run can do without some
