"""Functions of commands on many ranks: wait for all, agree on numbers, report an error once."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from npgpt.distributed.world import World, wait

PATIENCE = 15  # seconds that the first rank has to end all, after an error that all ranks have


@contextmanager
def first_reports(world: World, *kinds: type[Exception]) -> Iterator[None]:
    """Let the first rank report an error of these kinds, which all ranks may have.

    It may write files before it ends the others. An error of another rank alone is reported later.
    """
    try:
        yield
    except kinds:
        if not world.is_first:
            time.sleep(PATIENCE)
        raise


def wait_for_all(world: World) -> None:
    """Return when all ranks have called this. MPI's own calls would use a core meanwhile."""
    wait(world.comm)


def smallest(world: World, numbers: Sequence[int]) -> list[int]:
    """Return the smallest of the numbers of all ranks, one by one."""
    if world.size == 1:
        return list(numbers)
    import numpy as np
    from mpi4py import MPI

    found = np.array(numbers, np.int64)
    world.comm.Allreduce(MPI.IN_PLACE, found, MPI.MIN)
    return found.tolist()
