"""Measure the machine's peak matrix-product throughput and memory bandwidth.

They are the two limits of the roofline model (Williams et al. 2009): a computation takes at least
its operations over the throughput, and at least its bytes over the bandwidth.
"""

import time
from collections.abc import Callable
from functools import partial

import numpy as np

from npgpt.errors import InputError
from npgpt.performance.flops import Linear

BLOCKS = 64  # parts of the array that is read
SIZE = 2**27  # float32 numbers in it: half a gigabyte, far more than caches hold


def matmul_throughput(
    linears: list[Linear], rows: int, *, backward: bool, dtype: str = "float32"
) -> float:
    """Return the operations per second of NumPy's BLAS in these layers, for `rows` positions.

    `backward`: include the two products of the backward pass.
    """
    operations = seconds = 0.0
    for count, inputs, outputs in linears:
        x, w, y = (np.ones(shape, dtype) for shape in
                   ((rows, inputs), (inputs, outputs), (rows, outputs)))  # fmt: skip
        products = [(x, w, y)]
        if backward:
            products += [(y, w.T, np.empty_like(x)), (x.T, y, np.empty_like(w))]
        for a, b, out in products:
            operations += count * 2.0 * rows * inputs * outputs
            seconds += count * fastest(partial(np.matmul, a, b, out=out))
    return operations / seconds


def memory_bandwidth() -> float:
    """Return the bytes per second at which all threads together read an uncached array."""
    size, read = memory_reader()
    return size / fastest(read)


def sum_rate() -> float:
    """Return the numbers per second that one thread adds to an array, both uncached."""
    x, y = np.ones((2, SIZE // 8), np.float32)
    return x.size / fastest(partial(np.add, x, y, out=x))


def memory_reader() -> tuple[int, Callable[[], object]]:
    """Return a size in bytes, larger than all caches, and a function that reads that much memory.

    The function reads every byte once, on all threads.
    """
    x, sums = np.ones(SIZE, np.float32), np.empty(BLOCKS, np.float32)
    try:
        from npgpt.kernels.bandwidth import sum_parts
    except InputError:  # NUMBA_DISABLE_JIT: NumPy reads with one thread, as all of its ops do
        return x.nbytes, x.sum
    return x.nbytes, lambda: sum_parts(x, sums)


def fastest(function: Callable[[], object], times: int = 3) -> float:
    """Return the seconds of the fastest of `times` calls, after one to warm up."""
    function()
    seconds = []
    for _ in range(times):
        started = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - started)
    return min(seconds)
