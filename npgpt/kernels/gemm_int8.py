"""Matrix products with int8 weights, multiplied in integers: gemm.py for int8.

Rows of `a` are rounded to int8, with a scale for each group of k (packing_int8.py). Sums of a group
are integers and exact. The groups are added in their order, so a row has the same bits in a product
of any number of rows, and in fused/decode/.
"""

import numpy as np

from npgpt.arrays import LINE, Array
from npgpt.kernels import buffer_pool
from npgpt.kernels.gemv_batch_int8 import TILE
from npgpt.kernels.int8_dots import LINES, dots
from npgpt.kernels.int8_microkernel import multiply_panels
from npgpt.kernels.int8_vectors import FEW_ROWS, GROUPS, LANES, QUAD, ROWS, SIGNED, WIDTH
from npgpt.kernels.jit import exact_inner, inner, njit
from npgpt.kernels.launch import num_threads
from npgpt.kernels.packing_int8 import (
    PERIOD,
    group_of,
    group_quads,
    pack_panel,
    quantize_row,
    quantize_spread,
    row_size,
    workspace_of,
)
from npgpt.kernels.parallel import in_parallel
from npgpt.kernels.work_queue import take

MC = 3 << 10  # rows of `a` that are packed at once
RIGHT = 1 << (17 if SIGNED else 19)  # bytes of right panels of a task: in a second-level cache
TASKS = 32  # of a product with a transposed matrix
QUADS = np.uint32


def matmul(a: Array, b: Array, scale: Array, bias: Array | None, out: Array) -> None:
    """out = (a @ b) * scale + bias: (M, K), (K, N) int8, (N,), (N,) -> (M, N)"""
    a, b = np.ascontiguousarray(a), np.ascontiguousarray(b)
    (M, K), N, threads = a.shape, out.shape[1], num_threads()
    bias = np.zeros(N, np.float32) if bias is None else bias
    size = GROUPS * -(-K // PERIOD)  # quads of a row
    most = max(1, min(RIGHT // (QUAD * WIDTH * max(1, size)), -(-N // WIDTH) // (2 * threads)))
    rows, right_size = -(-min(M, MC) // ROWS) * ROWS, most * WIDTH * size
    right = buffer_pool.empty((threads, right_size), QUADS)
    left = buffer_pool.empty((rows * (size * QUAD + LANES),), np.int8)
    starts, scales = np.empty(rows * GROUPS, np.int32), np.empty(rows * GROUPS, np.float32)
    for top in range(0, M, MC):
        _matmul(a[top : top + MC], b, scale, bias, most, np.zeros(1, np.int64), left, starts,
                scales, right, out[top : top + MC])  # fmt: skip


def matmul_transposed(a: Array, b: Array, scale: Array, bias: Array | None, out: Array) -> None:
    """out = (a @ b.T) * scale + bias: (M, K), (N, K) int8, (N,), (N,) -> (M, N)"""
    a, b = np.ascontiguousarray(a), np.ascontiguousarray(b)
    M, K = a.shape
    bias = np.empty(0, np.float32) if bias is None else bias
    x = np.empty((M, -(-K // PERIOD) * PERIOD), np.int8)
    starts, scales = np.empty((M, GROUPS), np.int32), np.empty((M, GROUPS), np.float32)
    _matmul_transposed(a, b, scale, bias, x, starts, scales, out)


@njit
def _matmul(a, b, scale, bias, most, counter, left, starts, scales, right, out):
    in_parallel(-(-len(a) // ROWS), _round_rows, (a, left, starts, scales))
    in_parallel(len(right), _multiply,
                (b, scale, bias, most, counter, left, starts, scales, right, out))  # fmt: skip


@inner
def _round_rows(panel, a, left, starts, scales):
    """Round ROWS rows of a."""
    (M, K), flat = a.shape, a.reshape(-1)
    edge = workspace_of(-(-K // GROUPS))
    for i in range(panel * ROWS, min(M, (panel + 1) * ROWS)):
        quantize_row(flat, i * K, K, edge, left, i * row_size(K), starts, scales, i * GROUPS)


@exact_inner
def _multiply(thread, b, scale, bias, most, counter, left, starts, scales, rights, out):
    """Run one thread: task after task, each a range of right panels times all left ones."""
    (K, N), M, right = b.shape, len(out), rights[thread]
    quads, tile = group_quads(K), np.empty(ROWS * TILE, out.dtype)
    flat, size, task = out.reshape(-1), row_size(K), take(counter, 0)
    while task * most * WIDTH < N:
        begin, end = task * most * WIDTH, min(N, (task + 1) * most * WIDTH)
        for column in range(begin, end, WIDTH):
            for g in range(GROUPS):
                first, last = group_of(K, g)
                pack_panel(b, first, last, column, right,
                           ((column - begin) // WIDTH * GROUPS + g) * quads * WIDTH)  # fmt: skip
        for i in range(0, M, ROWS):
            for column in range(begin, end, TILE):
                r = (column - begin) // WIDTH * GROUPS * quads * WIDTH + column % WIDTH
                full = M - i >= ROWS and N - column >= TILE
                # as in packing.multiply_panels: an array that is selected from two is slow
                distance = (tile.ctypes.data - flat.ctypes.data) // flat.itemsize
                o, stride = (i * N + column, N) if full else (distance, TILE)
                multiply_panels(ROWS, left, i * size, size, starts, scales, i * GROUPS, right, r,
                                GROUPS, quads, scale, bias, column, full, 0, 0, 0, flat, o,
                                stride)  # fmt: skip
                for n in range(0 if full else min(ROWS, M - i)):
                    _finish(tile[n * TILE :], scale, bias, column, min(N, column + TILE), flat,
                            (i + n) * N + column)  # fmt: skip
        task = take(counter, 0)


@exact_inner
def _finish(row, scale, bias, first, last, out, o):
    """out[o:] = row * scale + bias, in the columns from `first` to `last`."""
    for n in range(last - first):
        row[n] *= scale[first + n]
    for n in range(last - first):
        out[o + n] = row[n] + bias[first + n]


# A transposed matrix, whose rows are read where they are. Each of its quads meets one of `x`.


@njit
def _matmul_transposed(a, b, scale, bias, x, starts, scales, out):
    in_parallel(len(a), _round_spread, (a, x, starts, scales))
    in_parallel(TASKS, _multiply_columns, (b, scale, bias, x, starts, scales, out))


@inner
def _round_spread(i, a, x, starts, scales):
    quantize_spread(a[i], x[i], starts[i], scales[i])


@exact_inner
def _multiply_columns(task, b, scale, bias, x, starts, scales, out):
    """Compute a task's columns, LANES at a time."""
    (N, K), (M, padded) = b.shape, x.shape
    first = N // LANES * task // TASKS * LANES
    last = N if task == TASKS - 1 else N // LANES * (task + 1) // TASKS * LANES
    flat, edge = b.reshape(-1), np.zeros(LANES * padded, np.int8)
    found = np.empty(FEW_ROWS * LANES, out.dtype)
    flat_x, flat_starts, flat_scales = x.reshape(-1), starts.reshape(-1), scales.reshape(-1)
    flat_out = out.reshape(-1)
    to_edge = (edge.ctypes.data - flat.ctypes.data) // b.itemsize
    to_found = (found.ctypes.data - flat_out.ctypes.data) // out.itemsize
    steps, panels = padded // PERIOD, -(-M // FEW_ROWS)
    for column in range(first, last, LANES):
        end = min(last, column + LANES)
        inside, whole = K == padded, end - column == LANES
        if not inside or not whole:  # a vector must not be read past the end of b
            for n in range(end - column):
                edge[n * padded :][:K] = b[column + n]
        j, stride = (column * K, K) if inside and whole else (to_edge, padded)
        ahead = np.intp(b.ctypes.data) + (column + LANES) * K
        for panel in range(panels):
            i, done = panel * FEW_ROWS, LINES * panel // panels
            o, width = (i * N + column, N) if whole else (to_found, LANES)
            count = LINES * (panel + 1) // panels - done
            start = ahead + done * LANES * steps // LINES * LINE
            if M == 1:
                dots(1, flat_x, 0, padded, 1, flat_starts, flat_scales, 0, flat, j, stride, steps,
                     start, count, flat_out, o, width)  # fmt: skip
            else:
                dots(FEW_ROWS, flat_x, i * padded, padded, M - i, flat_starts, flat_scales,
                     i * GROUPS, flat, j, stride, steps, start, count, flat_out, o,
                     width)  # fmt: skip
            for r in range(0 if whole else min(FEW_ROWS, M - i)):
                for n in range(end - column):
                    out[i + r, column + n] = found[r * LANES + n]
    for i in range(M):
        row = out[i, first:last]
        for n in range(last - first):
            row[n] *= scale[first + n]
        for n in range(last - first if bias.size else 0):
            row[n] += bias[first + n]
