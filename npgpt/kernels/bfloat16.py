"""Round float32 to bfloat16 and add bfloat16 to float32, in one pass at the speed of memory.

Gradients are sent as bfloat16 (npgpt/distributed/sums.py), and activations are kept as bfloat16
for backward (npgpt/mixed/). npgpt/quantized_matrix.py has the same conversions in NumPy, which
reads and writes the array several times.
"""

import numpy as np
from numba import types
from numba.extending import overload

from npgpt.arrays import Array, flat
from npgpt.kernels import buffer_pool
from npgpt.kernels.gemv import widen
from npgpt.kernels.jit import inner, njit
from npgpt.kernels.packing import bits
from npgpt.kernels.parallel import in_parallel, part, tasks_for


def rounded(x: Array) -> Array:
    """Return the bits of bfloat16, uint16 of x's shape, to nearest even; nan stays."""
    out = buffer_pool.empty(x.shape, np.uint16)
    round_into(flat(np.ascontiguousarray(x)), flat(out))
    return out


def as_stored(number, like):
    """Return a number for an array: bfloat16 (its bits) for one of uint16, else as it is."""
    raise NotImplementedError("only inside a Numba kernel")


@overload(as_stored)
def _overload_as_stored(number, like):
    if like.dtype == types.uint16:
        return lambda number, like: np.uint16(bits(number))
    return lambda number, like: number


def round_into(numbers: Array, out: Array) -> None:
    """(n,) float32 -> out (n,) uint16: the bits of bfloat16, to nearest even; nan stays."""
    _round(tasks_for(out.size), numbers, out)


def sum_into(halves: Array, out: Array) -> None:
    """(N, n) uint16 -> out (n,) float32: the sum of N rows of bfloat16, added in their order."""
    _sum(tasks_for(out.size), halves, out)


@njit
def _round(tasks, numbers, out):
    in_parallel(tasks, _round_part, (tasks, numbers, out))


@inner
def _round_part(task, tasks, numbers, out):
    numbers, out = part(numbers, task, tasks), part(out, task, tasks)
    for i in range(out.size):
        out[i] = np.uint16(bits(numbers[i]))


@njit
def _sum(tasks, halves, out):
    in_parallel(tasks, _sum_part, (tasks, halves, out))


@inner
def _sum_part(task, tasks, halves, out):
    start, end = task * out.size // tasks, (task + 1) * out.size // tasks
    first, out = halves[0, start:end], out[start:end]
    for i in range(out.size):
        out[i] = widen(first[i])
    for row in range(1, len(halves)):
        more = halves[row, start:end]
        for i in range(out.size):
            out[i] += widen(more[i])
