"""Commands on a disk that fails. All faults: python -m parity_tests.support.faults."""

import sys
from collections import Counter

import pytest

from parity_tests.support import faults

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="the files of descriptors are in /proc"),
]
# Of the operations of each kind, and of their errors, every n-th is let fail.
STRIDES = {
    "train": {"write": 211, "": 17},
    "export": {"": 11},
    "export npgpt": {"write": 47, "": 5},
    "download": {"write": 37, "": 19},
}


@pytest.fixture(scope="module", autouse=True)
def replaced():
    with faults.fixtures(real_plot=False):
        yield


@pytest.mark.parametrize("name", faults.SCENARIOS)
def test_a_disk_that_fails(name):
    counts, expected = faults.measure(name)
    strides, ended = STRIDES.get(name, {"": 3}), Counter()
    for kind in counts:
        stride = strides.get(kind, strides[""])
        for case in list(faults.cases({kind: counts[kind]}))[::stride]:
            ended[faults.fail(name, *case, expected)] += 1
    assert ended[1] >= 10, ended
    assert {"write", "sync", "rename", "open"} <= counts.keys()
