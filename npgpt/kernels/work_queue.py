"""A work queue of atomic counters: a thread that has finished a task takes the next one.

Numba's prange gives every thread an equal share in advance, and every loop waits for the slowest.
On a machine with other work, that wait is long. Here `in_parallel` runs over the threads, and each
calls `task = take(counters, 0)` until no task is left. The bits do not depend on which thread
computes a task.

If tasks need the results of earlier ones, a thread waits until the count of finished tasks
`has_reached` their number. This replaces the end of one parallel loop and the start of the next,
tens of microseconds. It cannot deadlock, even with a single thread: tasks are taken in order, so a
task that another one waits for has been taken by a thread that is running.
"""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic


@intrinsic
def take(context, counters, i):
    """Return counters[i] and add 1 to it, atomically. `counters`: (N,) int64, 0 at first.

    A thread for which `has_reached` then returns True can read all that this one has written.
    """

    def generate(context, builder, signature, values):
        return builder.atomic_rmw(
            "add", pointer_to(context, builder, signature, values), ONE, "acq_rel"
        )

    return types.int64(counters, types.intp), generate


@intrinsic
def has_reached(context, counters, i, count):
    """Return True if counters[i] >= count. Then all that was written before can be read."""

    def generate(context, builder, signature, values):
        pointer = pointer_to(context, builder, signature, values)
        now = builder.load_atomic(pointer, "acquire", 8)
        return builder.icmp_signed(">=", now, values[2])

    return types.boolean(counters, types.intp, types.int64), generate


ONE = ir.Constant(ir.IntType(64), 1)


def pointer_to(context, builder, signature, values):
    """Return a pointer to counters[i]."""
    data = context.make_array(signature.args[0])(context, builder, values[0]).data
    return builder.gep(data, [values[1]])
