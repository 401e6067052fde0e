"""What this machine does at most: operations a second in matrix products, bytes read a second.

What computes is held against both (Williams et al. 2009, "Roofline"): it cannot take less time than
its operations at the one rate, or its bytes at the other.
"""

import time
from collections.abc import Callable

import numpy as np

from npgpt.errors import InputError
from npgpt.performance.flops import Linear

BLOCKS = 64  # parts of the array that is read
SIZE = 2**27  # of its float32: half a gigabyte, far more than caches hold


def multiplying(linears: list[Linear], rows: int, *, backward: bool, dtype=np.float32) -> float:
    """Operations a second of NumPy's BLAS in the products of these layers, for `rows` positions.

    `backward`: in the two products that come back as well.
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
            seconds += count * quickest(lambda a=a, b=b, out=out: np.matmul(a, b, out=out))
    return operations / seconds


def reading() -> float:
    """Bytes a second at which all threads together read an array that is in no cache."""
    size, read = reader()
    return size / quickest(read)


def reader() -> tuple[int, Callable[[], object]]:
    """So many bytes, in no cache, and a function in which all threads together read them once."""
    x, sums = np.ones(SIZE, np.float32), np.empty(BLOCKS, np.float32)
    try:
        from npgpt.kernels.bandwidth import sum_parts
    except InputError:  # NUMBA_DISABLE_JIT: NumPy reads with one thread, as all of its ops do
        return x.nbytes, x.sum
    return x.nbytes, lambda: sum_parts(x, sums)


def quickest(function: Callable[[], object], times: int = 3) -> float:
    """Seconds of the fastest of some calls, after one that touches what they touch."""
    function()
    taken = []
    for _ in range(times):
        started = time.perf_counter()
        function()
        taken.append(time.perf_counter() - started)
    return min(taken)
