"""Tasks, taken by whichever thread is free.

Numba's prange gives every thread the same share beforehand, and the slowest one is waited for: on a
machine that has anything else to do, that is a wait at every loop. Here a thread that has finished
a task takes the next: `in_parallel` over the threads, and in it `task = take(counters, 0)` until
there are no more. Who makes a task changes nothing of what it computes.

Where tasks need what earlier ones made, whoever comes too early waits until the count of those has
`passed` their number, which saves the end of one parallel loop and the beginning of the next: tens
of microseconds, as long as a small product takes. It cannot come to a standstill, even where one
thread runs everything: tasks are taken in order, so whatever is waited for has been taken by a
thread that is at work.
"""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic


@intrinsic
def take(context, counters, i):
    """counters[i], and one more for whoever comes next; what this thread has written until now can
    be read by whoever waits for that. `counters`: (N,) int64, 0 at first."""

    def generate(context, builder, signature, values):
        return builder.atomic_rmw(
            "add", address(context, builder, signature, values), ONE, "acq_rel"
        )

    return types.int64(counters, types.intp), generate


@intrinsic
def passed(context, counters, i, many):
    """Is counters[i] `many` or more? Then what was written before that can be read."""

    def generate(context, builder, signature, values):
        now = builder.load_atomic(address(context, builder, signature, values), "acquire", 8)
        return builder.icmp_signed(">=", now, values[2])

    return types.boolean(counters, types.intp, types.int64), generate


ONE = ir.Constant(ir.IntType(64), 1)


def address(context, builder, signature, values):
    """Of counters[i]."""
    data = context.make_array(signature.args[0])(context, builder, values[0]).data
    return builder.gep(data, [values[1]])
