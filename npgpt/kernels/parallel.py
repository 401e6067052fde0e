"""`in_parallel(tasks, body, args)`: the one parallel loop of all kernels.

In a kernel it calls body(task, *args) for every task < tasks, shared among the threads; a single
task starts no thread. `body` is a kernel that returns nothing, `args` a tuple. It raises RunError
if a body has raised, and in a forked process that has lost its threads.
"""

from npgpt.kernels.jit import inner, is_fast, njit
from npgpt.kernels.launch import num_threads, start_threads

WORTH = 1 << 14  # numbers: fewer are done before another thread has started

if is_fast():
    from npgpt.kernels.parallel_loop import loop_of, run_tasks

    in_parallel = loop_of(njit(run_tasks, parallel=True), start_threads)
else:
    from npgpt.kernels.plain_loop import in_parallel

    # a loop from the cache of Numba 0.61 does not start them, and crashes
    start_threads()

__all__ = ["WORTH", "in_parallel", "part", "tasks_for"]


def tasks_for(n: int) -> int:
    """Return the number of tasks for an elementwise loop over `n` elements."""
    return max(1, min(num_threads(), n // WORTH))


@inner
def part(x, task, tasks):
    """Return a task's part of x (N,)."""
    return x[task * x.size // tasks : (task + 1) * x.size // tasks]
