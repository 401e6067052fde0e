"""Sums of gradients over ranks, and the exchange of slices, in buckets of bounded size.

Floating-point addition is not associative: a sum's bits depend on its order. `order_of_leaves`,
`LeafSum` and `halving` have one order for 1, 2, 4, ... V ranks.

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
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from npgpt.arrays import Array

BUCKET = 2 << 20  # bytes that one call of MPI sends, at most: they stay in the cache
WINDOW = 32  # buckets that are on their way at the same time, at most
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
        self.chain: list[Array] = []  # of the last sum

    def take(self) -> Array:
        """Return an array whose numbers are undefined."""
        return self.spare.pop() if self.spare else self.allocate()

    def prepare(
        self, leaves: Sequence[Sequence[int]], write: Callable[[int | None, Array], object]
    ) -> tuple[int | None, list[Array]]:
        """Write and add all gradients but the last. Return its micro-batch, and a chain of arrays.

        The caller writes the last gradient into the last array. `add_up` then adds each array to
        the one before it, and the first one is the sum. Arrays are valid until the next call.

        leaves : the micro-batches of each leaf, in the order of `order_of_leaves`
        write : write(i, out) writes the gradient of micro-batch i, or zeros for None
        """
        self.spare += self.chain
        self.chain = []
        *others, (last, _) = additions(leaves)
        for i, count in others:
            self.chain.append(self.take())
            write(i, self.chain[-1])
            for _ in range(count):
                total = self.chain.pop()
                self.chain[-1] += total
                self.spare.append(total)
        self.chain.append(self.take())
        return last, self.chain


def additions(leaves: Sequence[Sequence[int]]) -> Iterator[tuple[int | None, int]]:
    """Yield each micro-batch, and the number of additions that follow its gradient.

    A gradient is added to its leaf, and a complete leaf to its partner, and so on. A leaf without
    micro-batches yields None.
    """
    for number, members in enumerate(leaves, start=1):
        pairs = (number & -number).bit_length() - 1  # that this leaf completes
        one_by_one: Sequence[int | None] = members or [None]
        *others, last = one_by_one
        for k, i in enumerate(others):
            yield i, min(k, 1)
        yield last, min(len(others), 1) + pairs


def add_up(chain: Sequence[Array], part: slice = slice(None)) -> None:
    """Add each array to the one before it, from the last to the first, in one part of them."""
    for total, one in itertools.pairwise(reversed(chain)):
        one[part] += total[part]


# Between ranks: `bounds` (N + 1,) are those of a Partition


Wait = Callable[[Any], None]  # returns when a request of MPI is complete


class Transfer(NamedTuple):
    """The slice of a flat array that a rank sends to another, and the one that it receives."""

    give: slice
    to: int
    keep: slice
    source: int


def halving(rank: int, bounds: list[int]) -> Iterator[Transfer]:
    """Yield the transfers of recursive halving on 2^k ranks: first half of the numbers, then less.

    A rank keeps one half of what it has, and gives its partner the other.
    """
    low, high = 0, len(bounds) - 1
    while high - low > 1:
        middle = (low + high) // 2
        halves = (low, middle), (middle, high)
        upper = int(rank >= middle)
        partner = rank + (low - middle if upper else middle - low)
        keep, give = (slice(bounds[i], bounds[j]) for i, j in (halves[upper], halves[1 - upper]))
        yield Transfer(give, partner, keep, partner)
        low, high = halves[upper]


def ring(rank: int, bounds: list[int], first: int) -> Iterator[Transfer]:
    """Yield N - 1 transfers, by which each slice travels around all ranks.

    first : which slice a rank gives first, by its distance. 0: its own, which is copied. 1: that of
        the rank before, which is added up on its way.
    """
    size = len(bounds) - 1
    slices = [slice(a, b) for a, b in itertools.pairwise(bounds)]
    for distance in range(first, first + size - 1):
        give, keep = slices[(rank - distance) % size], slices[(rank - distance - 1) % size]
        yield Transfer(give, (rank + 1) % size, keep, (rank - 1) % size)


def block(request: Any) -> None:
    """Return when a request of MPI is complete."""
    request.Wait()


def reduce(
    comm: Any, flat: Array, bounds: list[int], spare: list[Array] | None = None, wait: Wait = block
) -> None:
    """Sum `flat` (n,) over all ranks, in place in this rank's slice; the rest is undefined.

    For 1, 2, 4, 8, ... ranks, the order is that of the tree. For others, it is that of a ring.
    `spare`: buffers of earlier calls, which are used again.
    """
    rank, size = comm.Get_rank(), comm.Get_size()
    transfers = ring(rank, bounds, 1) if size & size - 1 else halving(rank, bounds)
    in_flight = InFlight(lambda: np.empty(_numbers(flat), flat.dtype), spare, wait=wait)
    for transfer in transfers:
        for given, kept in _buckets_of(transfer, _numbers(flat)):
            buffer, own = in_flight.take(), flat[kept]
            received = buffer[: len(own)]
            requests = _start(comm, transfer, flat[given], received)
            in_flight.append(requests, buffer, partial(np.add, own, received, out=own))
        in_flight.finish_all()  # the next transfer gives the sums


def all_gather(comm: Any, flat: Array, bounds: list[int]) -> None:
    """Copy each rank's slice of `flat` (n,) to all ranks, in place."""
    in_flight = InFlight(lambda: flat[:0])
    for transfer in ring(comm.Get_rank(), bounds, 0):
        for given, kept in _buckets_of(transfer, _numbers(flat)):
            buffer = in_flight.take()
            requests = _start(comm, transfer, flat[given], flat[kept])
            in_flight.append(requests, buffer, lambda: None)
        in_flight.finish_all()  # the next transfer gives what has been received


def reduce_scatter_bfloat16(
    comm: Any, flat: Array, bounds: list[int], spare: list[Array] | None = None, wait: Wait = block
) -> None:
    """Sum `flat` (n,) over all ranks, in place in this rank's slice, with bfloat16 on the network.

    A number is rounded once, by its sender. Its owner adds in float32, in the order of the ranks.
    """
    from npgpt.kernels import bfloat16  # here: it imports Numba

    rank, size = comm.Get_rank(), comm.Get_size()
    numbers = most(_numbers(flat), size)
    limit = max(2, WINDOW * _numbers(flat) // numbers)
    in_flight = InFlight(lambda: np.empty((2, numbers), np.uint16), spare, limit, wait)
    for pieces in _buckets(bounds, _numbers(flat)):
        buffer, own = in_flight.take(), flat[pieces[rank]]
        (sent, received), requests, start = buffer, [], 0
        parts = received[: size * len(own)].reshape(size, len(own))  # one from each rank
        bfloat16.round_into(own, parts[rank])
        for distance in range(1, size):
            after, before = (rank + distance) % size, (rank - distance) % size
            end = start + pieces[after].stop - pieces[after].start
            bfloat16.round_into(flat[pieces[after]], sent[start:end])
            requests.append(comm.Irecv(parts[before], before))
            requests.append(comm.Isend(sent[start:end], after))
            start = end
        in_flight.append(requests, buffer, partial(bfloat16.sum_into, parts, own))
    in_flight.finish_all()


class InFlight:
    """Exchanges that have been started, at most `limit` of them, and their buffers.

    On a network, many buckets are on their way: MPI's own messages, which ask for the next ones,
    wait behind them. An exchange is finished as soon as it is complete. Within a machine, few
    buffers are therefore used, and they stay in the cache.
    """

    def __init__(
        self,
        allocate: Callable[[], Array],
        spare: list[Array] | None = None,
        limit: int | None = None,
        wait: Wait = block,
    ):
        self.allocate, self.limit, self.wait = allocate, limit or WINDOW, wait
        self.spare = [] if spare is None else spare
        self.started: deque[tuple[list[Any], Array, Callable[[], object]]] = deque()

    def take(self) -> Array:
        """Return a buffer that no exchange uses. Wait for one if there are `limit` exchanges."""
        while self.started and (len(self.started) == self.limit or self.is_first_complete()):
            self.finish_first()
        return self.spare.pop() if self.spare else self.allocate()

    def append(self, requests: list[Any], buffer: Array, finish: Callable[[], object]) -> None:
        """Add an exchange. `finish()` uses what it has received."""
        self.started.append((requests, buffer, finish))

    def is_first_complete(self) -> bool:
        """Return True if the first exchange is complete."""
        return all(request.Test() for request in self.started[0][0])

    def finish_first(self) -> None:
        """Wait for the first exchange, and finish it."""
        requests, buffer, finish = self.started.popleft()
        for request in requests:
            self.wait(request)
        finish()
        self.spare.append(buffer)

    def finish_all(self) -> None:
        """Wait for all exchanges, and finish them in their order."""
        while self.started:
            self.finish_first()


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


def _buckets_of(transfer: Transfer, step: int) -> Iterator[tuple[slice, slice]]:
    """Yield slices of what is given and of what is kept, then empty ones of the shorter."""
    give, keep = (_split(part.start, part.stop, step) for part in (transfer.give, transfer.keep))
    yield from itertools.zip_longest(give, keep, fillvalue=slice(0))


def _start(comm: Any, transfer: Transfer, sent: Array, received: Array) -> list[Any]:
    """Start to receive and to send arrays that are not empty, and return the requests."""
    requests = [comm.Irecv(received, transfer.source)] if received.size else []
    return [*requests, comm.Isend(sent, transfer.to)] if sent.size else requests


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
