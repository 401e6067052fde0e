"""Read an array once, with all threads: what a memory bandwidth is measured with."""

from npgpt.kernels.jit import inner, njit
from npgpt.kernels.parallel import in_parallel, part


@njit
def sum_parts(x, sums):
    """sums = the sums of the parts of x (N,), one for each of sums (M,)."""
    in_parallel(len(sums), _sum_part, (x, sums))


@inner
def _sum_part(task, x, sums):
    x, total = part(x, task, len(sums)), x.dtype.type(0)
    for i in range(x.size):
        total += x[i]
    sums[task] = total
