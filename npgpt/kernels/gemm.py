"""Matrix products in Numba: one pool of threads, and no BLAS that competes for the cores.

The algorithm is Goto's (Goto and van de Geijn 2008, "Anatomy of high-performance matrix
multiplication"), with the names of BLIS, around the microkernel of gemm_microkernel.py:

1. All threads pack `a` into left panels of MR rows: at most MC rows and K_PACKED values of k.
2. A task computes the columns of at most RIGHT_PANELS right panels, KC values of k at a time. It
   packs that part of `b` into right panels, which stay in the core's second-level cache.
3. One left panel after the other meets all right panels, tile by tile.
4. The bias is added with the first KC values of k, later ones are added to `out`. One long sum
   would lose digits.
5. A large `out` that is computed in one pass (K <= KC) is written past the caches, if a vector is a
   full cache line: its lines need not be read first, and evict nothing.

Every sum adds its terms in the same order, so the bits do not depend on the number of threads. A
product with at most FEW rows, as in generation, is bound by reading `b`, and has other kernels.
"""

import numpy as np

from npgpt.arrays import LINE, Array
from npgpt.kernels import buffer_pool
from npgpt.kernels.cpu import BFLOAT16, BYTES
from npgpt.kernels.gemm_microkernel import LEFT, MR, VECTORS, microkernel
from npgpt.kernels.gemv import PARTS, multiply_rows, multiply_rows_transposed, part_start
from npgpt.kernels.gemv_batch import multiply_columns, task_columns
from npgpt.kernels.gemv_microkernel import GROUP as GEMV_ROWS
from npgpt.kernels.gemv_tile import ROWS
from npgpt.kernels.jit import inner, njit
from npgpt.kernels.launch import num_threads
from npgpt.kernels.operands import empty_operand, operand, pack_panel
from npgpt.kernels.packing import multiply_panels, pack, right_width, steps_of
from npgpt.kernels.parallel import in_parallel
from npgpt.kernels.simd import fence
from npgpt.kernels.work_queue import take

KC = 768  # even, so that no pair of bfloat16 numbers is split
RIGHT_PANELS = 6  # of a task: 768 x 6 x 32 float32 are 590 KB
GROUP = 16  # left panels that one thread packs together, if there are enough
MC, K_PACKED = 3066, 4 * KC  # of `a`, packed at once: at most 38 MB; 512 x 3072 are 7 MB
STREAMED = 1 << 21  # bytes of `out`: a smaller one may still be in a cache when it is read
FEW = 32  # rows of `a` for which packing costs more than it saves


def matmul(
    a: Array, b: Array, *, out: Array, bias: Array | None = None, beta: int = 0, panels=None
) -> Array:
    """out = a @ b + bias + beta * out: (M, K), (K, N), (N,) -> (M, N), as numpy.matmul or gemm.

    `a` and `b` may be transposed views (x.T). With `beta` 0, `out` is not read; with 1, the product
    is added to it, and there is no bias. `panels`: the dtype of packed operands: that of `out`, or
    uint32 for bfloat16.
    """
    M, K = a.shape
    bias = np.empty(0, out.dtype) if bias is None else bias
    panels = np.dtype(out.dtype if panels is None else panels)
    a, a_transposed = contiguous(a)
    b, b_transposed = contiguous(b)
    if M <= FEW:
        a = np.ascontiguousarray(a.T) if a_transposed else a
        if b_transposed:
            _transposed(a, b, bias, beta, out)
        elif M <= GEMV_ROWS:
            _few_rows(a, b, bias, beta, buffer_pool.empty((PARTS, *out.shape), out.dtype), out)
        else:
            _batch(a, b, bias, beta, num_threads(), np.zeros(1, np.int64), out)
        return out
    pair = 2 if BFLOAT16 and panels == np.uint32 else 1
    threads, left_panels = num_threads(), -(-min(M, MC) // MR)
    left_size = left_panels * -(-min(K, K_PACKED) // pair) * LEFT
    right_size = RIGHT_PANELS * -(-KC // pair) * VECTORS * BYTES // panels.itemsize
    workspace = buffer_pool.acquire(left_size + threads * right_size, panels)
    left = workspace[:left_size]
    right = workspace[left_size : left_size + threads * right_size].reshape(threads, right_size)
    for top in range(0, M, MC):
        for first in range(0, K, K_PACKED):
            rows, depth = min(MC, M - top), min(K_PACKED, K - first)
            _matmul(a, a_transposed, top, rows, b, b_transposed, first, depth, bias,
                    beta == 1 or first > 0, np.zeros(1, np.int64), left, right, out)  # fmt: skip
    buffer_pool.release(workspace)
    return out


def contiguous(x: Array) -> tuple[Array, bool]:
    """Return `x` or its transpose, the C-contiguous one, and whether it was transposed."""
    if x.flags.f_contiguous and not x.flags.c_contiguous:
        return x.T, True
    return np.ascontiguousarray(x), False


@njit
def _matmul(
    a, a_transposed, top, rows, b, b_transposed, first, K, bias, adds, counter, left, right, out
):  # fmt: skip
    """out[top : top + rows] = the same rows of a, times b, for K values of k from `first` on."""
    N, threads = out.shape[1], len(right)
    panels, right_panels = -(-rows // MR), -(-N // right_width(out))
    most = max(1, min(RIGHT_PANELS, right_panels // (2 * threads)))  # several tasks per thread,
    across = -(-right_panels // most)
    down = min(panels, -(-2 * threads // across))  # if need be, of fewer rows
    flat_out = out.reshape(-1)
    group = max(1, min(GROUP, panels // (4 * threads)))
    in_parallel(-(-panels // group), _pack_left,
                (group, panels, a, a_transposed, top, first, K, left))  # fmt: skip
    in_parallel(threads, _multiply,
                (top, rows, b, b_transposed, first, K, bias, adds, most, across, down, counter,
                 left, right, flat_out, N))  # fmt: skip


@inner
def _pack_left(task, group, panels, a, a_transposed, top, first, K, left):
    """Pack a group of left panels."""
    panel = task * group
    for start in range(0, K, KC):
        kc, count = min(KC, K - start), min(group, panels - panel)
        size = steps_of(kc, left) * LEFT
        pack(a, not a_transposed, first + start, kc, top + panel * MR, MR, LEFT, count,
             left, steps_of(start, left) * panels * LEFT + panel * size, size)  # fmt: skip


@inner
def _multiply(
    thread, top, rows, b, b_transposed, first, K, bias, adds, most, across, down, counter, left,
    rights, out, N,
):  # fmt: skip
    """Run one thread: task after task, each a range of right panels times a range of left ones."""
    width, right = right_width(out), rights[thread]
    panels, right_panels = -(-rows // MR), -(-N // width)
    corner = np.empty(MR * width, out.dtype)
    # of the bias from `out`: one of two arrays would be counted, as in `multiply_panels`
    distance = (bias.ctypes.data - out.ctypes.data) // out.itemsize
    K_total = b.shape[1] if b_transposed else b.shape[0]
    one_pass = K == K_total and K <= KC and not adds
    streams = one_pass and out.nbytes >= STREAMED and can_stream(out, N)
    task = take(counter, 0)
    while task < across * down:
        i, begin = task // across, task % across * most
        end = min(begin + most, right_panels)
        for start in range(0, K, KC):
            kc = min(KC, K - start)
            steps = steps_of(kc, right)
            pack(b, b_transposed, first + start, kc, begin * width, width, width, end - begin,
                 right, 0, steps * width)  # fmt: skip
            for panel in range(i * panels // down, (i + 1) * panels // down):
                p = (steps_of(start, left) * panels + panel * steps) * LEFT
                height = min(MR, rows - panel * MR)
                for right_panel in range(begin, end):
                    column, q = right_panel * width, (right_panel - begin) * steps * width
                    o, columns = (top + panel * MR) * N + column, min(width, N - column)
                    if BYTES < LINE and height == MR and columns == width:  # without a call
                        t, addend_stride, joins = o, N, 1
                        if not adds and start == 0:
                            t, addend_stride, joins = column + distance, 0, bias.size
                        microkernel(MR, left, p, right, q, width, steps, out, t, addend_stride,
                                    joins, out, o, N, 0)  # fmt: skip
                        continue
                    if adds or start:
                        addend, t, addend_stride, joins = out, o, N, 1
                    else:
                        addend, t, addend_stride, joins = bias, column, 0, bias.size
                    multiply_panels(left, p, right, q, width, steps, addend, t, addend_stride,
                                    joins, out, o, N, height, columns, corner, streams)  # fmt: skip
        task = take(counter, 0)
    fence()


@inner
def can_stream(out, columns):
    """Return True if a vector is a cache line, and every row of `out` begins at one.

    Non-temporal stores pay off only for full cache lines (docs/kernels.md#streaming).
    """
    parts = out.ctypes.data, columns * out.itemsize
    return BYTES == LINE and parts[0] % LINE == 0 and parts[1] % LINE == 0


# At most FEW rows. For a few of them (gemv.py), each task has its own rows of b, and the partial
# sums are added up. For more (gemv_batch.py) and for a transposed b, it has its own columns.


@njit
def _few_rows(a, b, bias, beta, parts, out):
    in_parallel(PARTS, _multiply_part, (a, b, parts))
    _add_parts(parts, bias, beta, 0, out.shape[1], out)


@inner
def _multiply_part(task, a, b, parts):
    """Multiply a task's rows of b."""
    K = len(b)
    multiply_rows(a, b, part_start(task, K, b), part_start(task + 1, K, b), parts[task])


@njit
def _transposed(x, b, bias, beta, out):
    a = operand(x, 0, x.shape[1], b)
    product = np.empty((1, *out.shape), out.dtype) if beta else out.reshape((1, *out.shape))
    in_parallel(PARTS, _multiply_part_transposed, (a, b, bias, beta, product, out))


@inner
def _multiply_part_transposed(task, a, b, bias, beta, product, out):
    """Multiply a task's rows of b: its columns of the result."""
    first, last = task * len(b) // PARTS, (task + 1) * len(b) // PARTS
    multiply_rows_transposed(a, len(out), b, first, last, product[0])
    if beta or bias.size:
        _add_parts(product, bias, beta, first, last, out)


@njit
def _batch(x, b, bias, beta, threads, counter, out):
    (M, K), panels = x.shape, -(-len(x) // ROWS)
    a = empty_operand(M, K, ROWS, x, b)
    in_parallel(panels, _pack_rows, (x, a, b))
    in_parallel(threads, _multiply_batch, (threads, panels, a, b, bias, beta, counter, out))


@inner
def _pack_rows(panel, x, a, b):
    """Pack a panel of the left operand."""
    K = x.shape[1]
    pack_panel(panel, x, 0, K, ROWS, a, 0, K, b)


@inner
def _multiply_batch(thread, threads, panels, a, b, bias, beta, counter, out):
    """Run one thread: task after task, each a range of columns."""
    N, width = b.shape[1], task_columns(out, b.shape[1], threads)
    totals = np.empty((panels * ROWS, width), out.dtype)
    task = take(counter, 0)
    while task * width < N:
        first, last = task * width, min(N, (task + 1) * width)
        multiply_columns(a, b, first, last, b.ctypes.data + last * b.itemsize, totals)
        for i in range(len(out)):
            row, total = out[i, first:last], totals[i]
            if bias.size:
                for j in range(last - first):
                    total[j] += bias[first + j]
            if beta:
                for j in range(last - first):
                    total[j] += row[j]
            for j in range(last - first):
                row[j] = total[j]
        task = take(counter, 0)


@inner
def _add_parts(parts, bias, beta, first, last, out):
    """out = the sum of the parts + bias + beta * out, in the columns from `first` to `last`."""
    for i in range(len(out)):
        total, out_row = parts[0, i, first:last], out[i, first:last]
        for part in range(1, len(parts)):
            more = parts[part, i, first:last]
            for j in range(last - first):
                total[j] += more[j]
        if bias.size:
            for j in range(last - first):
                total[j] += bias[first + j]
        if beta:
            for j in range(last - first):
                total[j] += out_row[j]
        for j in range(last - first):
            out_row[j] = total[j]
