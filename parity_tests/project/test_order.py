"""The order and the part of the tests that CI runs again (parity_tests/support/order.py)."""

from itertools import pairwise
from types import SimpleNamespace

import pytest

from parity_tests.support import alone, order


@pytest.fixture
def items(tmp_path):
    """20 files of 3 tests: one test takes data, and one file looks for it by itself."""
    found = []
    for i in range(20):
        path = tmp_path / f"test_{i:02}.py"
        path.write_text('os.environ.get("NPGPT_DATA")' if i == 7 else "import subprocess")
        found += [SimpleNamespace(path=path, name=f"{i}-{n}", fixturenames=[]) for n in range(3)]
    found[4].fixturenames.append("bpe")
    return found


def test_half_of_the_files_and_what_takes_data(items):
    drawn = set()
    for seed in range(12):
        kept, again = list(items), items[::-1]
        others = order.halve(kept, seed)
        order.halve(again, seed)
        names = {item.name for item in kept}
        assert names == {item.name for item in again}  # in every process
        assert names | {item.name for item in others} == {item.name for item in items}
        assert {"1-1", "7-0", "7-1", "7-2"} <= names
        assert 30 <= len(names) <= 30 + 1 + 3
        drawn |= names
    assert len(drawn) == len(items)


def test_an_order_is_random_and_repeated(items):
    first, again, other = list(items), items[::-1], list(items)
    again.sort(key=lambda item: item.name)
    first.sort(key=lambda item: item.name)
    order.shuffle(first, 1)
    order.shuffle(again, 1)
    order.shuffle(other, 2)
    assert first == again != other
    paths = [item.path for item in first]
    assert sum(a != b for a, b in pairwise(paths)) == 19  # files stay together


def test_every_file_begins_without_kernels_in_its_turn(items):
    paths = sorted({item.path for item in items})
    turns = [alone.colds(paths, seed, every=False) for seed in range(alone.TURNS)]
    assert [len(turn) for turn in turns] == [7, 6, 6]
    assert set().union(*turns) == alone.colds(paths, 0, every=True) == set(paths) - {paths[7]}
