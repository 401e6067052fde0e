"""Ranks that are threads of one process, for code that calls Allgather and Ibarrier alone."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np

from npgpt.distributed.world import World

LIMIT = 30  # seconds that a rank waits for the others
_local = threading.local()


class Comm:
    """The part of an MPI communicator that is needed here."""

    def __init__(self, rank: int, table: list, barrier: threading.Barrier):
        self.rank, self.table, self.barrier = rank, table, barrier

    def Allgather(self, own, out):
        self.table[self.rank] = np.array(own)
        self.barrier.wait(LIMIT)
        out[...] = np.stack(self.table).reshape(out.shape)
        self.barrier.wait(LIMIT)

    def Ibarrier(self):
        self.barrier.wait(LIMIT)
        return SimpleNamespace(Test=lambda: True)


def here() -> World:
    """Return the world of the calling thread."""
    return _local.world


def run(size: int, program: Callable[[World], object]) -> list:
    """Return what `program(world)` returns on each of `size` ranks."""
    table, barrier = [None] * size, threading.Barrier(size)

    def one(rank: int) -> object:
        _local.world = World(Comm(rank, table, barrier), rank, size, f"host-{rank}")
        try:
            return program(_local.world)
        except BaseException:
            barrier.abort()  # the others would wait
            raise

    with ThreadPoolExecutor(size) as pool:
        return [future.result() for future in [pool.submit(one, rank) for rank in range(size)]]
