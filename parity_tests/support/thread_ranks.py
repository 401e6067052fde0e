"""Ranks that are threads of one process, for code that needs only a few functions of MPI."""

import itertools
import queue
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np

from npgpt.distributed.world import World

LIMIT = 30  # seconds that a rank waits for the others
_local = threading.local()


class Comm:
    """The part of an MPI communicator that is needed here. `sent`: the number of messages."""

    def __init__(self, rank: int, table: list, barrier: threading.Barrier, channels: dict):
        self.rank, self.table, self.barrier, self.channels = rank, table, barrier, channels
        self.sent = 0

    def Get_rank(self):
        return self.rank

    def Get_size(self):
        return len(self.table)

    def Isend(self, array, to):
        """Lend an array: what is written into it before the request is complete may arrive."""
        self.sent += 1
        taken = threading.Event()
        self.channels[self.rank, to].put((array, taken))
        return SimpleNamespace(Test=taken.is_set, Wait=lambda: taken.wait(LIMIT))

    def Irecv(self, array, source):
        return Receipt(array, self.channels[source, self.rank])

    def Allgather(self, own, out):
        self.table[self.rank] = np.array(own)
        self.barrier.wait(LIMIT)
        out[...] = np.stack(self.table).reshape(out.shape)
        self.barrier.wait(LIMIT)

    def Allgatherv(self, own, out):
        self.table[self.rank] = np.array(own)
        self.barrier.wait(LIMIT)
        array, sizes = out
        array[...] = np.concatenate(self.table)
        assert [part.size for part in self.table] == list(sizes)
        self.barrier.wait(LIMIT)

    def Gatherv(self, own, out, root):
        self.table[self.rank] = np.array(own)
        self.barrier.wait(LIMIT)
        if self.rank == root:
            array, sizes = out
            array[...] = np.concatenate(self.table)
            assert [part.size for part in self.table] == list(sizes)
        self.barrier.wait(LIMIT)

    def Ibarrier(self):
        self.barrier.wait(LIMIT)
        return SimpleNamespace(Test=lambda: True)


class Receipt:
    """The request of an Irecv; of one channel, they are waited for in their order."""

    def __init__(self, array, channel: queue.Queue):
        self.array, self.channel, self.done = array, channel, False
        array.fill(np.nan if array.dtype.kind == "f" else 0)  # undefined until it is complete

    def Test(self):
        if not self.done and not self.channel.empty():
            self.Wait()
        return self.done

    def Wait(self):
        if not self.done:
            message, taken = self.channel.get(timeout=LIMIT)
            assert message.shape == self.array.shape, "two ranks have cut a slice in two ways"
            self.array[...] = message
            self.done = True
            taken.set()


def here() -> World:
    """Return the world of the calling thread."""
    return _local.world


def run(size: int, program: Callable[[World], object]) -> list:
    """Return what `program(world)` returns on each of `size` ranks."""
    table, barrier = [None] * size, threading.Barrier(size)
    channels = {pair: queue.Queue() for pair in itertools.product(range(size), repeat=2)}

    def one(rank: int) -> object:
        _local.world = World(Comm(rank, table, barrier, channels), rank, size, f"host-{rank}")
        try:
            return program(_local.world)
        except BaseException:
            barrier.abort()  # the others would wait
            raise

    with ThreadPoolExecutor(size) as pool:
        return [future.result() for future in [pool.submit(one, rank) for rank in range(size)]]
