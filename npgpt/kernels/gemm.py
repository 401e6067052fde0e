"""Matrix products in Numba: one pool of threads for everything, no BLAS to share the cores with.

The plan is Goto's (Goto and van de Geijn 2008, "Anatomy of high-performance matrix
multiplication"), around the register block of gemm_microkernel.py:

1. All of `a`, or so many rows and terms at a time, is packed into left panels, by all threads.
2. A task makes a few columns of `out`, TERMS terms of the sum at a time: so much of `b` is packed
   into right panels, which stay in the core's second cache.
3. One left panel after the other meets all of them, tile by tile.
4. The bias goes in with the first TERMS, later ones are added to what is there. One long sum would
   lose digits.
5. An `out` that is large and made in one go, from no more than TERMS, is written past the caches,
   where a vector is a whole line: that need not be read before, and drives nothing else out.

Every sum takes its terms in the same order whoever makes it: the bits do not depend on the number
of threads. A few rows, as in generation, are bound by reading `b` once: there nothing is packed.
"""

import numba
import numpy as np

from npgpt.arrays import LINE, Array
from npgpt.kernels import buffer_pool
from npgpt.kernels.cpu import BYTES
from npgpt.kernels.gemm_microkernel import LEFT, ROWS, VECTORS
from npgpt.kernels.gemv import multiply_rows, multiply_rows_transposed
from npgpt.kernels.jit import inner, njit
from npgpt.kernels.packing import pack, put, right_width, steps_of
from npgpt.kernels.parallel import in_parallel
from npgpt.kernels.simd import barrier
from npgpt.kernels.work_queue import take

TERMS = 768  # even, so that no pair of bfloat16 numbers is torn apart
STACKS = 6  # right panels of a task: 768 terms of 6 x 32 columns are 590 KB in float32
GROUP = 16  # left panels that one thread packs together, where there are enough
MOST_ROWS, MOST_TERMS = 3066, 4 * TERMS  # of `a`, packed at once: 7 MB, as 512 rows of 3072 terms
STREAMED = 1 << 21  # bytes of `out`: what is smaller may still be in a cache when it is read
PARTS = 16  # partial sums of a few rows
FEW = 15  # rows of `a` for which packing would cost more than it saves


def matmul(
    a: Array, b: Array, *, out: Array, bias: Array | None = None, beta: int = 0, panels=None
) -> Array:
    """out = a @ b + bias + beta * out: (M, K), (K, N), (N,) -> (M, N)

    `a` and `b` may be transposed views (x.T). With beta 0, `out` is not read; with 1, it is added
    to, and there is no bias. Like numpy.matmul, or BLAS's gemm. `panels`: the dtype in which the
    operands are packed, out's own, or uint32 for pairs of bfloat16 numbers.
    """
    M, K = a.shape
    bias = np.empty(0, out.dtype) if bias is None else bias
    panels = np.dtype(out.dtype if panels is None else panels)
    a, a_transposed = upright(a)
    b, b_transposed = upright(b)
    if M <= FEW:
        a = np.ascontiguousarray(a.T) if a_transposed else a
        parts = buffer_pool.empty((1 if b_transposed else PARTS, *out.shape), out.dtype)
        _few_rows(a, b, b_transposed, bias, beta, PARTS, parts, out)
        return out
    pair = 2 if panels == np.uint32 else 1
    threads, many = numba.get_num_threads(), -(-min(M, MOST_ROWS) // ROWS)
    lefts = many * -(-min(K, MOST_TERMS) // pair) * LEFT
    rights = STACKS * -(-TERMS // pair) * VECTORS * BYTES // panels.itemsize
    room = buffer_pool.acquire(lefts + threads * rights, panels)
    left, right = room[:lefts], room[lefts : lefts + threads * rights].reshape(threads, rights)
    for top in range(0, M, MOST_ROWS):
        for first in range(0, K, MOST_TERMS):
            rows, terms = min(MOST_ROWS, M - top), min(MOST_TERMS, K - first)
            _matmul(a, a_transposed, top, rows, b, b_transposed, first, terms, bias,
                    beta == 1 or first > 0, np.zeros(1, np.int64), left, right, out)  # fmt: skip
    buffer_pool.release(room)
    return out


def upright(x: Array) -> tuple[Array, bool]:
    """`x` or its transpose, whichever is C-contiguous, and whether it was the transpose."""
    if x.flags.f_contiguous and not x.flags.c_contiguous:
        return x.T, True
    return np.ascontiguousarray(x), False


@njit
def _matmul(
    a, a_transposed, top, rows, b, b_transposed, first, terms, bias, adds, counter, left, right, out
):  # fmt: skip
    """out[top : top + rows] = the same rows of a, times b, `terms` terms of the sum from `first`"""
    N, threads = out.shape[1], len(right)
    panels, stacks = -(-rows // ROWS), -(-N // right_width(out))
    most = max(1, min(STACKS, stacks // (2 * threads)))  # a few tasks for every thread,
    across = -(-stacks // most)
    down = min(panels, -(-2 * threads // across))  # if need be, out of fewer rows
    home = out.reshape(-1)
    group = max(1, min(GROUP, panels // (4 * threads)))
    in_parallel(-(-panels // group), _pack_left,
                (group, panels, a, a_transposed, top, first, terms, left))  # fmt: skip
    in_parallel(threads, _multiply,
                (top, rows, b, b_transposed, first, terms, bias, adds, most, across, down, counter,
                 left, right, home, N))  # fmt: skip


@inner
def _pack_left(task, group, panels, a, a_transposed, top, first, terms, left):
    """A group of left panels."""
    panel = task * group
    for start in range(0, terms, TERMS):
        some, count = min(TERMS, terms - start), min(group, panels - panel)
        size = steps_of(some, left) * LEFT
        pack(a, not a_transposed, first + start, some, top + panel * ROWS, ROWS, LEFT, count,
             left, steps_of(start, left) * panels * LEFT + panel * size, size)  # fmt: skip


@inner
def _multiply(
    thread, top, rows, b, b_transposed, first, terms, bias, adds, most, across, down, counter, left,
    rights, out, N,
):  # fmt: skip
    """What one thread does: task after task, each some right panels times some left ones."""
    wide, right = right_width(out), rights[thread]
    panels, stacks = -(-rows // ROWS), -(-N // wide)
    corner = np.empty(ROWS * wide, out.dtype)
    terms_in_all = b.shape[1] if b_transposed else b.shape[0]
    at_once = terms == terms_in_all and terms <= TERMS and not adds
    streams = at_once and out.nbytes >= STREAMED and streamable(out, N)
    task = take(counter, 0)
    while task < across * down:
        i, begin = task // across, task % across * most
        end = min(begin + most, stacks)
        for start in range(0, terms, TERMS):
            some = min(TERMS, terms - start)
            steps = steps_of(some, right)
            pack(b, b_transposed, first + start, some, begin * wide, wide, wide, end - begin,
                 right, 0, steps * wide)  # fmt: skip
            for panel in range(i * panels // down, (i + 1) * panels // down):
                p = (steps_of(start, left) * panels + panel * steps) * LEFT
                height = min(ROWS, rows - panel * ROWS)
                for stack in range(begin, end):
                    column, q = stack * wide, (stack - begin) * steps * wide
                    o, width = (top + panel * ROWS) * N + column, min(wide, N - column)
                    if adds or start:
                        onto, t, onto_stride, joins = out, o, N, 1
                    else:
                        onto, t, onto_stride, joins = bias, column, 0, bias.size
                    put(left, p, right, q, wide, steps, onto, t, onto_stride, joins,
                        out, o, N, height, width, corner, streams)  # fmt: skip
        task = take(counter, 0)
    barrier()


@inner
def streamable(out, columns):
    """Is a vector a cache line, and every row of it made of whole ones? Of halves (AVX2), 1 to 4 %
    were lost."""
    parts = out.ctypes.data, columns * out.itemsize
    return BYTES == LINE and parts[0] % LINE == 0 and parts[1] % LINE == 0


# A few rows (gemv.py): every task its own rows of b, whose partial sums are added up, or, of a
# transposed b, its own columns of the result.


@njit
def _few_rows(a, b, b_transposed, bias, beta, tasks, parts, out):
    in_parallel(tasks, _some_rows, (a, b, b_transposed, bias, beta, tasks, parts, out))
    if not b_transposed:
        _finish(parts, bias, beta, 0, out.shape[1], out)


@inner
def _some_rows(task, a, b, b_transposed, bias, beta, tasks, parts, out):
    """A task's rows of b."""
    first, last = task * len(b) // tasks, (task + 1) * len(b) // tasks
    if b_transposed:
        multiply_rows_transposed(a, b, first, last, parts[0])
        _finish(parts, bias, beta, first, last, out)
    else:
        multiply_rows(a, b, first, last, parts[task])


@inner
def _finish(parts, bias, beta, first, last, out):
    """out = the sum of the parts + bias + beta * out, in these columns."""
    for i in range(len(out)):
        total, home = parts[0, i, first:last], out[i, first:last]
        for part in range(1, len(parts)):
            more = parts[part, i, first:last]
            for j in range(last - first):
                total[j] += more[j]
        if bias.size:
            for j in range(last - first):
                total[j] += bias[first + j]
        if beta:
            for j in range(last - first):
                total[j] += home[j]
        for j in range(last - first):
            home[j] = total[j]
