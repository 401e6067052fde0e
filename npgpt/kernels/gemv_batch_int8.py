"""Products of a batch with int8 weights: gemv_batch.py in integers.

A task is WIDTH columns. They are packed into quads, which stay in a cache while every panel of
FEW_ROWS rows meets them. Meanwhile the columns of the next task are prefetched, a share of them
with every group of k. Groups and their order are those of gemm_int8.py, and so are the bits.
"""

import numpy as np

from npgpt.kernels.int8_microkernel import multiply_panels
from npgpt.kernels.int8_vectors import FEW_ROWS, GROUPS, LANES, VECTORS, WIDTH
from npgpt.kernels.jit import exact_inner, inner
from npgpt.kernels.packing_int8 import (
    group_of,
    group_quads,
    pack_panel,
    quantize_row,
    row_size,
    workspace_of,
)

TILE = VECTORS * LANES  # columns


@inner
def empty_rows(M, K):
    """Return an operand of M rows and at most K numbers: integers, starts, scales, and a workspace
    for packed columns."""
    rows = -(-M // FEW_ROWS) * FEW_ROWS
    x, right = np.empty(rows * row_size(K), np.int8), np.empty(row_size(K) * WIDTH // 4, np.uint32)
    starts, scales = np.empty(rows * GROUPS, np.int32), np.empty(rows * GROUPS, np.float32)
    x[:], starts[:], scales[:] = 0, 0, 0
    return x, starts, scales, right


@inner
def round_rows(a, M, operand):
    """Round M rows of `a`, which is flat, to int8."""
    K, (x, starts, scales, _) = len(a) // M, operand
    edge, size = workspace_of(-(-K // GROUPS)), row_size(K)
    for i in range(M):
        quantize_row(a, i * K, K, edge, x, i * size, starts, scales, i * GROUPS)


@exact_inner
def multiply_columns(operand, b, first, ahead, stride, rows, totals):
    """totals = a @ b[:, first : first + WIDTH], without the scales of columns.

    totals: (panels * FEW_ROWS, WIDTH). As many columns are prefetched: `rows` lines from the
    address `ahead` on, `stride` bytes apart.
    """
    (x, starts, scales, right), K, flat = operand, len(b), totals.reshape(-1)
    quads, size, panels = group_quads(K), row_size(K), len(totals) // FEW_ROWS
    for g in range(GROUPS):
        begin, end = group_of(K, g)
        pack_panel(b, begin, end, first, right, g * quads * WIDTH)
    share = -(-rows // (panels * (WIDTH // TILE) * GROUPS))  # of the lines, with every group
    for i in range(0, panels * FEW_ROWS, FEW_ROWS):
        for column in range(0, WIDTH, TILE):
            multiply_panels(FEW_ROWS, x, i * size, size, starts, scales, i * GROUPS, right, column,
                            GROUPS, quads, scales, scales, 0, False, ahead, stride, share, flat,
                            i * WIDTH + column, WIDTH)  # fmt: skip
            ahead += share * GROUPS * stride
