"""Memory, descriptors, mappings and threads stay. By hand: python -m parity_tests.support.soak."""

import sys

import pytest

from parity_tests.support import soak

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc is Linux's"),
]


def test_nothing_is_left_behind():
    rows = list(soak.run(steps=200, tokens=400, files=60))
    assert len(rows) == 11
    for name, warm, after in rows:
        assert after.memory < warm.memory + 4, name
        assert after.descriptors <= warm.descriptors, name
        assert after.mappings <= warm.mappings + 4, name  # of the allocator
        assert after.threads <= warm.threads, name


def test_what_is_left_behind_is_seen(tmp_path):
    """A descriptor, a mapping and 100 kB a time."""
    from npgpt.weights.mapped import MappedFile

    (tmp_path / "file").write_bytes(bytes(100_000))
    kept = []

    def step():
        kept.append(MappedFile(tmp_path / "file"))
        kept[-1].data[:] = 1

    warm, after = soak.soak(60, step)
    assert after.memory > warm.memory + 4
    assert after.descriptors == warm.descriptors + 54
    assert after.mappings >= warm.mappings + 50
