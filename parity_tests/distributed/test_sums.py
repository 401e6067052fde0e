"""Sums over leaves and ranks: their order, their bits, and what is sent."""

import functools
import itertools

import numpy as np
import pytest
import torch

from npgpt.distributed import sums
from parity_tests.support import thread_ranks


@pytest.mark.parametrize("leaves", [1, 2, 8])
def test_the_order_of_a_sum_does_not_depend_on_the_ranks(leaves):
    """Sums as texts, whose operands are sorted as addition is commutative, show the tree."""

    class Text(str):
        def __add__(self, other):
            return Text(f"({' '.join(sorted([self, other]))})")

    def write(i, out):
        out.fill(Text(f"g{i}"))

    def total(size):
        found = []
        for rank in range(size):
            own = [range(v, 11, leaves) for v in sums.order_of_leaves(rank, size, leaves)]
            made = []
            add = sums.LeafSum(lambda made=made: made.append(np.empty(5, object)) or made[-1])
            for _ in range(2):  # the second time, in the memory of the first
                last, chain = add.prepare(own, write)
                write(last, chain[-1])
                for part in (slice(3, 5), slice(1, 3), slice(0, 1)):  # as backward finishes them
                    sums.add_up(chain, part)
            assert len(made) <= len(own).bit_length() + 1
            (text,) = set(chain[0])
            found.append(text)
        while len(found) > 1:  # recursive halving
            half = len(found) // 2
            found = [
                f"({' '.join(sorted(pair))})" for pair in zip(found, found[half:], strict=False)
            ]
        return found[0]

    sizes = [n for n in (1, 2, 4, 8) if n <= leaves]
    assert len({total(n) for n in sizes}) == 1
    assert [*sums.additions([[], [3, 5], [], [7]])] == [
        (None, 0), (3, 0), (5, 2), (None, 0), (7, 2),
    ]  # fmt: skip


def test_pairs_of_leaves_at_the_largest_distance_come_first():
    assert sums.order_of_leaves(0, 1, 8) == [0, 4, 2, 6, 1, 5, 3, 7]
    assert sums.order_of_leaves(1, 2, 8) == [1, 5, 3, 7]
    assert sums.order_of_leaves(2, 4, 4) == [2]


@pytest.mark.parametrize("bounds", [[0, 5, 5, 9], [0, 9]])
def test_buckets_are_bounded_and_complete(bounds):
    found = list(sums._buckets(bounds, 6))
    assert all(s.stop - s.start <= max(1, 6 // (len(bounds) - 1)) for row in found for s in row)
    assert sorted(i for row in found for s in row for i in range(s.start, s.stop)) == [*range(9)]


# of unequal slices, some of them empty
BOUNDS = {1: [0, 40], 2: [0, 17, 40], 3: [0, 9, 9, 40], 4: [0, 9, 18, 33, 40],
          7: [0, 1, 2, 9, 18, 18, 31, 40], 8: [0, 5, 10, 15, 20, 25, 30, 36, 40]}  # fmt: skip


@pytest.mark.parametrize("window", [1, 2, 32])
@pytest.mark.parametrize("size", BOUNDS)
def test_sums_and_copies_between_ranks(size, window, rng, monkeypatch):
    """The owner of a slice has the sum in the order of the tree or the ring; then all have all."""
    monkeypatch.setattr(sums, "BUCKET", 16)
    monkeypatch.setattr(sums, "WINDOW", window)
    parts, bounds = rng.standard_normal((size, 40)).astype(np.float32), BOUNDS[size]

    def program(here):
        flat = parts[here.rank].copy()
        sums.reduce(here.comm, flat, bounds)
        low, high = bounds[here.rank : here.rank + 2]
        own = flat[low:high].copy()
        flat[:low], flat[high:] = np.nan, np.nan
        sums.all_gather(here.comm, flat, bounds)
        return own, flat

    found = thread_ranks.run(size, program)
    total = np.concatenate([own for own, _ in found])
    for _, flat in found:
        assert flat.tobytes() == total.tobytes()
    expected = np.empty_like(total)
    for rank, (low, high) in enumerate(itertools.pairwise(bounds)):
        if size & size - 1:  # a ring, in which a slice ends at its owner
            order = [parts[(rank + k) % size, low:high] for k in range(1, size + 1)]
            expected[low:high] = functools.reduce(np.add, order)
        else:
            rows = parts[:, low:high]
            while len(rows) > 1:  # distances N/2, N/4, ...
                rows = rows[: len(rows) // 2] + rows[len(rows) // 2 :]
            expected[low:high] = rows[0]
    assert total.tobytes() == expected.tobytes()


@pytest.mark.parametrize("size", [1, 3, 4])
def test_sums_in_bfloat16_between_ranks(size, rng, monkeypatch):
    """Rounded once, and added in float32 in the order of the ranks."""
    monkeypatch.setattr(sums, "BUCKET", 32)
    parts, bounds = rng.standard_normal((size, 40)).astype(np.float32), BOUNDS[size]

    def program(here):
        flat = parts[here.rank].copy()
        sums.reduce_scatter_bfloat16(here.comm, flat, bounds)
        return flat[bounds[here.rank] : bounds[here.rank + 1]]

    found = np.concatenate(thread_ranks.run(size, program))
    rounded = torch.tensor(parts).bfloat16().float().numpy()
    assert found.tobytes() == functools.reduce(np.add, rounded, np.float32(0)).tobytes()
