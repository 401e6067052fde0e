"""A test of whether this Numba compiles with fast_compiler.py and parallel_loop.py, for jit.py.

Two tiny kernels use everything of both files; no thread is started for that.
"""

from typing import Any

import numpy as np

OPTIONS = {"nogil": True, "error_model": "numpy"}


def succeeds() -> bool:
    """Return True if the tiny kernels are compiled as expected and compute the right numbers."""
    try:
        return answers()
    except MemoryError:
        raise  # says nothing about Numba
    except Exception:  # a private name is missing or different; Numba raises errors of many kinds
        return False


def start_none() -> None:
    """Start no threads: the loop of these kernels runs in this one."""


def answers() -> bool:
    """`succeeds`, which raises if a name is missing."""
    from npgpt.kernels import fast_compiler, parallel_loop

    def scale(x, factor):
        return x * factor

    def body(task, x, out):
        out[task] = scale(x[task], 2) + scale(x[task], 3)

    def runner(function, args, tasks):
        for task in range(tasks):
            parallel_loop.call(function, task, args)

    def kernel(tasks, x, out):
        in_parallel(tasks, body, (x, out))

    inner: list[Any] = [fast_compiler.inner(function, OPTIONS) for function in (scale, body)]
    scale, body = inner
    in_parallel = parallel_loop.loop_of(fast_compiler.njit(runner, OPTIONS), start_none)
    kernel = fast_compiler.njit(kernel, OPTIONS)
    x = np.arange(1.0, 6.0)
    for tasks in (1, 5):
        out = np.zeros(5)
        kernel(tasks, x, out)
        if not np.array_equal(out, np.where(np.arange(5) < tasks, 5 * x, 0)):
            return False
    # once for all constants, and never to be called by itself
    found = [compiled for one in inner for compiled in one.overloads.values()]
    return len(found) == 2 and all(
        isinstance(compiled.entry_point, fast_compiler.NoAddress) for compiled in found
    )
