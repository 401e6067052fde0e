"""Two small collective calls of commands that run on many ranks."""

from collections.abc import Sequence

from npgpt.distributed.world import World, wait


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
