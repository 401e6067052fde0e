"""Sums of gradients over ranks, and the exchange of slices, in buckets of bounded size.

Floating-point addition is not associative: a sum's bits depend on its order. `order_of_leaves`,
`LeafSum` and `reduce_halving` have one order for 1, 2, 4, ... V ranks.

V virtual leaves, a power of two:   leaf(v) = g(v) + g(v + V) + g(v + 2V) + ...    in this order
distance d = V/2, V/4, ..., 1:      leaf(v) = leaf(v) + leaf(v XOR d)

g(i) is the gradient of micro-batch i. Rank r of N has the leaves r, r + N, r + 2N, ... . Distances
of at least N are therefore within a rank. The others are recursive halving (Thakur et al. 2005):
rank r exchanges with r XOR d, and each of the two keeps one half of what they have. Both compute
a + b or b + a, which are equal.
"""

import itertools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from npgpt.arrays import Array

BUCKET = 4 << 20  # bytes that one call of MPI sends, at most: they stay in the cache
WINDOW = 4  # buckets that are on their way at the same time
GATHERED = 256  # buckets in one call that copies in place: it needs no memory, and no cache
RANKS = 16  # of more ranks, each is sent a 16th of a bucket: small messages would cost latency


# Within a rank


def order_of_leaves(rank: int, size: int, leaves: int) -> list[int]:
    """Return a rank's leaves in an order in which each pair is complete as early as possible."""
    own, distance = [rank], size
    while distance < leaves:  # the largest distance, which is added first, is the innermost
        own = [x for v in own for x in (v, v + distance)]
        distance *= 2
    return own


class LeafSum:
    """The sum of a rank's leaves in the order of the tree, in at most log2(leaves) + 2 arrays.

    `allocate` returns an array of the size of a gradient. Later sums reuse its memory.
    """

    def __init__(self, allocate: Callable[[], Array]):
        self.allocate = allocate
        self.spare: list[Array] = []
        self.result: Array | None = None  # of the last sum

    def take(self) -> Array:
        """Return an array whose numbers are undefined."""
        return self.spare.pop() if self.spare else self.allocate()

    def __call__(
        self, leaves: Sequence[Sequence[int]], write: Callable[[int, Array], None]
    ) -> Array:
        """Return the sum, which is valid until the next call.

        leaves : the micro-batches of each leaf, in the order of `order_of_leaves`
        write : write(i, out) writes the gradient of micro-batch i
        """
        if self.result is not None:
            self.spare.append(self.result)
        stack: list[tuple[int, Array]] = []  # (level, sum of 2**level leaves)
        for members in leaves:
            total, level = self.sum_in_order(members, write), 0
            while stack and stack[-1][0] == level:
                _, other = stack.pop()
                other += total
                self.spare.append(total)
                total, level = other, level + 1
            stack.append((level, total))
        ((_, self.result),) = stack
        return self.result

    def sum_in_order(self, members: Sequence[int], write: Callable[[int, Array], None]) -> Array:
        """Return the sum of the micro-batches of one leaf, one after the other."""
        total = self.take()
        if not members:
            total.fill(0)
        for i in members[:1]:
            write(i, total)
        for i in members[1:]:
            part = self.take()
            write(i, part)
            total += part
            self.spare.append(part)
        return total


# Between ranks: `bounds` (N + 1,) are those of a Partition


def reduce(comm: Any, flat: Array, bounds: list[int]) -> None:
    """Sum `flat` (n,) over all ranks, in place in this rank's slice; the rest is undefined.

    For 1, 2, 4, 8, ... ranks, the order is that of the tree.
    """
    size = comm.Get_size()
    (reduce_scatter if size & size - 1 else reduce_halving)(comm, flat, bounds)


def reduce_halving(comm: Any, flat: Array, bounds: list[int]) -> None:
    """Sum `flat` (n,) over 2^k ranks, in place in this rank's slice; the rest is undefined."""
    rank, low, high = comm.Get_rank(), 0, comm.Get_size()
    step = _numbers(flat)
    buffers = [np.empty(min(step, len(flat)), flat.dtype) for _ in range(WINDOW)]

    def add(mine: slice, received: Array) -> None:
        flat[mine] += received

    while high - low > 1:
        middle = (low + high) // 2
        halves = (low, middle), (middle, high)
        upper = int(rank >= middle)
        partner = rank + (low - middle if upper else middle - low)
        keep, give = (slice(bounds[i], bounds[j]) for i, j in (halves[upper], halves[1 - upper]))
        with InFlight(add) as in_flight:
            pairs = _pairs_of_buckets(keep, give, step)
            for (mine, theirs), buffer in zip(pairs, itertools.cycle(buffers), strict=False):
                received = buffer[: mine.stop - mine.start]
                requests = [comm.Irecv(received, partner), comm.Isend(flat[theirs], partner)]
                in_flight.append(requests, mine, received)
        low, high = halves[upper]


class InFlight:
    """Exchanges that have been started, at most WINDOW of them. Each is finished by `finish`.

    On a network, the next exchange starts while the last bytes of the one before are on their way.
    """

    def __init__(self, finish: Callable[[slice, Array], None]):
        self.finish = finish
        self.started: deque[tuple[list[Any], slice, Array]] = deque()

    def append(self, requests: list[Any], mine: slice, received: Array) -> None:
        """Add an exchange, and finish the first one if there are WINDOW: its buffer is next."""
        self.started.append((requests, mine, received))
        if len(self.started) == WINDOW:
            self.finish_first()

    def finish_first(self) -> None:
        """Wait for the first exchange, and finish it."""
        requests, mine, received = self.started.popleft()
        for request in requests:
            request.Wait()
        self.finish(mine, received)

    def __enter__(self) -> "InFlight":
        return self

    def __exit__(self, kind: type | None, *error: object) -> None:
        while self.started and kind is None:
            self.finish_first()


def reduce_scatter(comm: Any, flat: Array, bounds: list[int]) -> None:
    """Sum `flat` (n,) over all ranks by MPI's own order, in place in this rank's slice."""
    own = comm.Get_rank()
    for pieces in _buckets(bounds, _numbers(flat)):
        packed = np.concatenate([flat[piece] for piece in pieces])
        counts = [piece.stop - piece.start for piece in pieces]
        comm.Reduce_scatter(packed, flat[pieces[own]], counts)


def reduce_scatter_bfloat16(comm: Any, flat: Array, bounds: list[int]) -> None:
    """Sum `flat` (n,) over all ranks, in place in this rank's slice, with bfloat16 on the network.

    A number is rounded once, by its sender. Its owner adds in float32, in the order of the ranks.
    """
    from npgpt.kernels import bfloat16  # here: it imports Numba

    rank, size = comm.Get_rank(), comm.Get_size()
    numbers = most(_numbers(flat), size)
    buffers = [np.empty((2, numbers), np.uint16) for _ in range(WINDOW)]

    def add(mine: slice, parts: Array) -> None:
        bfloat16.sum_into(parts, flat[mine])

    with InFlight(add) as in_flight:
        rows = _buckets(bounds, _numbers(flat))
        for pieces, (sent, received) in zip(rows, itertools.cycle(buffers), strict=False):
            own, requests, start = pieces[rank].stop - pieces[rank].start, [], 0
            parts = received[: size * own].reshape(size, own)  # one from each rank
            bfloat16.round_into(flat[pieces[rank]], parts[rank])
            for distance in range(1, size):
                after, before = (rank + distance) % size, (rank - distance) % size
                end = start + pieces[after].stop - pieces[after].start
                bfloat16.round_into(flat[pieces[after]], sent[start:end])
                requests.append(comm.Irecv(parts[before], before))
                requests.append(comm.Isend(sent[start:end], after))
                start = end
            in_flight.append(requests, pieces[rank], parts)


def all_gather(comm: Any, flat: Array, bounds: list[int]) -> None:
    """Copy each rank's slice of `flat` (n,) to all ranks, in place."""
    from mpi4py import MPI

    for pieces in _buckets(bounds, GATHERED * _numbers(flat)):
        counts = [piece.stop - piece.start for piece in pieces]
        comm.Allgatherv(MPI.IN_PLACE, [flat, (counts, [piece.start for piece in pieces])])


def gather(comm: Any, own: Array, root: int = 0) -> Array | None:
    """Return the slices of all ranks one after another on rank `root`, and None on the others."""
    rank, size = comm.Get_rank(), comm.Get_size()
    lengths = np.empty(size, np.int64)
    comm.Allgather(np.array([len(own)]), lengths)
    if rank != root:
        for piece in _split(0, len(own), _numbers(own)):
            comm.Send(own[piece], root)
        return None
    full = np.empty(lengths.sum(), own.dtype)
    start = 0
    for other in range(size):
        end = start + lengths[other]
        if other == rank:
            full[start:end] = own
        else:
            for piece in _split(start, end, _numbers(own)):
                comm.Recv(full[piece], other)
        start = end
    return full


def _numbers(flat: Array) -> int:
    """Return the size of a bucket in numbers of the array's dtype."""
    return max(1, BUCKET // flat.itemsize)


def _split(start: int, end: int, step: int) -> list[slice]:
    """Return slices of at most `step` numbers."""
    return [slice(i, min(i + step, end)) for i in range(start, end, step)]


def _pairs_of_buckets(a: slice, b: slice, step: int) -> Iterator[tuple[slice, slice]]:
    """Yield equally many slices of `a` and `b`; those of the shorter one end with empty slices."""
    for i in range(0, max(a.stop - a.start, b.stop - b.start), step):
        yield tuple(slice(min(s.start + i, s.stop), min(s.start + i + step, s.stop))
                    for s in (a, b))  # type: ignore[misc]  # fmt: skip


def most(step: int, size: int) -> int:
    """Return the largest number of numbers in a bucket for `size` ranks."""
    return size * max(1, step // min(size, RANKS))


def _buckets(bounds: list[int], step: int) -> Iterator[list[slice]]:
    """Yield one slice of about `step` / N numbers for each of the N ranks, until all are used."""
    size = len(bounds) - 1
    step = most(step, size) // size
    for i in range(0, int(np.diff(bounds).max(initial=0)), step):
        yield [slice(min(a + i, b), min(a + i + step, b))
               for a, b in itertools.pairwise(bounds)]  # fmt: skip
