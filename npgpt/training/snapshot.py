"""A copy of a model and of the state of its run, to be written while training continues."""

import itertools
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from npgpt.model.params import Params, leaves, zeros_like
from npgpt.system import machine, memory
from npgpt.weights.checkpoint import Contents, TrainingState

THREADS = 4  # at most: more do not copy faster
SPARE = 256 << 20  # bytes of memory that a copy must leave to training and to the HDF5 library


def copy_model(model: Contents) -> Contents | None:
    """Return an independent copy of a model, None if it does not fit into memory."""
    copied = copy_trees([model.params])
    return None if copied is None else model._replace(params=copied[0])


def copy_run(
    model: Contents, run: TrainingState, into: tuple[Contents, TrainingState] | None = None
) -> tuple[Contents, TrainingState] | None:
    """Return an independent copy of a model and its run, None if it does not fit into memory.

    `into`: an earlier copy of the same run, which is no longer needed. Its memory is used again:
    pages that are new to a process take several times as long as the copy.
    """
    copied = copy_trees(trees_of(model, run), into and trees_of(*into))
    if copied is None:
        return None
    parameters, *moments = copied
    state = TrainingState(
        run.state, run.random_state, run.order, dict(zip(run.moments, moments, strict=True))
    )
    return model._replace(params=parameters), state


def trees_of(model: Contents, run: TrainingState) -> list[Params]:
    """Return the parameters and the moments."""
    return [model.params, *run.moments.values()]


def copy_trees(trees: list[Params], copies: list[Params] | None = None) -> list[Params] | None:
    """Return copies of trees, made by several threads, or None if they do not fit into memory.

    `copies`: where to put them.
    """
    if copies is None and not fits(trees):
        return None
    try:
        copies = copies or [zeros_like(tree) for tree in trees]
        with ThreadPoolExecutor(min(THREADS, machine.cores())) as pool:
            pairs = zip(copies, trees, strict=True)
            work = [pool.map(np.copyto, leaves(twin), leaves(tree)) for twin, tree in pairs]
            for _ in itertools.chain(*work):  # NumPy copies without the interpreter's lock
                pass
    except (MemoryError, RuntimeError):  # RuntimeError: no memory for a thread
        return None
    return copies


def fits(trees: list[Params]) -> bool:
    """Return True if there is memory for a copy of trees."""
    size = sum(leaf.nbytes for tree in trees for leaf in leaves(tree))
    available = memory.available()
    return available is None or available >= size + SPARE
