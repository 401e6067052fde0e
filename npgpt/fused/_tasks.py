"""Tasks, taken by whichever thread is free.

Numba's prange gives every thread the same share beforehand, and the slowest one is waited for: on a
machine that has anything else to do, that is a wait at every loop. Here a thread that has finished
a task takes the next: `prange` over the threads, and in it `while (task := take(counter)) < tasks`.
Who makes a task changes nothing of what it computes.
"""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic


@intrinsic
def take(context, counter):
    """counter[0], and 1 more for whoever comes next. `counter`: (1,) int64, 0 at first."""

    def generate(context, builder, signature, values):
        data = context.make_array(signature.args[0])(context, builder, values[0]).data
        return builder.atomic_rmw("add", data, ir.Constant(ir.IntType(64), 1), "monotonic")

    return types.int64(counter), generate
