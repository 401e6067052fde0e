"""The products of a batch, by the dtype of the weights: gemv_batch.py, or for int8
gemv_batch_int8.py.

`kind` is an array of that dtype. The left operand is packed, or rounded to int8. The MLP's hidden
numbers are packed by the task that computes them. int8 rounds groups of them that are wider than a
task, so every thread rounds them all: waiting for another one takes longer.
"""

import numpy as np
from numba import types
from numba.extending import overload

from npgpt.kernels import gemv_batch, gemv_batch_int8
from npgpt.kernels.gemv_batch_int8 import empty_rows, round_rows
from npgpt.kernels.gemv_tile import ROWS
from npgpt.kernels.int8_vectors import FEW_ROWS, WIDTH
from npgpt.kernels.operands import empty_operand, pack_rows


def panel_rows(kind):
    """Return the number of rows that a tile computes."""
    raise NotImplementedError("only inside a Numba kernel")


@overload(panel_rows)
def _overload_panel_rows(kind):
    rows = FEW_ROWS if kind.dtype == types.int8 else ROWS
    return lambda kind: rows


def task_columns(x, N, threads, kind):
    """Return the number of columns of a task: of N, or of more in other matrices."""
    raise NotImplementedError("only inside a Numba kernel")


@overload(task_columns)
def _overload_task_columns(x, N, threads, kind):
    if kind.dtype == types.int8:
        return lambda x, N, threads, kind: WIDTH
    return lambda x, N, threads, kind: gemv_batch.task_columns(x, N, threads)


def empty_left(B, C, x, kind):
    """Return a left operand of B rows: of C numbers, for int8 of 4 C at most."""
    raise NotImplementedError("only inside a Numba kernel")


@overload(empty_left)
def _overload_empty_left(B, C, x, kind):
    if kind.dtype == types.int8:
        return lambda B, C, x, kind: empty_rows(B, 4 * C)
    return lambda B, C, x, kind: empty_operand(B, C, ROWS, x, kind)


def pack_left(x, left, kind):
    """left = x"""
    raise NotImplementedError("only inside a Numba kernel")


@overload(pack_left)
def _overload_pack_left(x, left, kind):
    if kind.dtype == types.int8:
        return lambda x, left, kind: round_rows(x.reshape(-1), len(x), left)
    return lambda x, left, kind: pack_rows(x, 0, x.shape[1], ROWS, left, 0, x.shape[1], kind)


def empty_hidden(B, C, x, kind):
    """Return an array for B rows of C hidden numbers."""
    raise NotImplementedError("only inside a Numba kernel")


@overload(empty_hidden)
def _overload_empty_hidden(B, C, x, kind):
    if kind.dtype == types.int8:
        return lambda B, C, x, kind: np.empty(B * C, x.dtype)
    return lambda B, C, x, kind: empty_operand(B, C, ROWS, x, kind)


def pack_hidden(x, B, columns, h, first, C, kind):
    """Write x[:B, :columns] as the columns from `first` on of C hidden numbers."""
    raise NotImplementedError("only inside a Numba kernel")


@overload(pack_hidden)
def _overload_pack_hidden(x, B, columns, h, first, C, kind):
    if kind.dtype != types.int8:
        return lambda x, B, columns, h, first, C, kind: pack_rows(
            x[:B], 0, columns, ROWS, h, first, C, kind
        )

    def copy(x, B, columns, h, first, C, kind):
        for n in range(B):
            row, out = x[n, :columns], h[n * C + first :]
            for c in range(columns):
                out[c] = row[c]

    return copy


def hidden_left(h, B, left, kind):
    """Return the left operand of the hidden numbers of B rows: `h` itself, or for int8 `left`."""
    raise NotImplementedError("only inside a Numba kernel")


@overload(hidden_left)
def _overload_hidden_left(h, B, left, kind):
    if kind.dtype != types.int8:
        return lambda h, B, left, kind: h

    def rounded(h, B, left, kind):
        round_rows(h, B, left)
        return left

    return rounded


def multiply(left, b, first, last, ahead, stride, rows, totals):
    """totals[:, : last - first] = left @ b[:, first:last]

    Meanwhile the next task's columns are prefetched: `rows` rows, `stride` bytes apart, from the
    address `ahead` on.
    """
    raise NotImplementedError("only inside a Numba kernel")


@overload(multiply)
def _overload_multiply(left, b, first, last, ahead, stride, rows, totals):
    if b.dtype == types.int8:
        return lambda left, b, first, last, ahead, stride, rows, totals: (
            gemv_batch_int8.multiply_columns(left, b, first, ahead, stride, rows, totals)
        )
    return lambda left, b, first, last, ahead, stride, rows, totals: gemv_batch.multiply_columns(
        left, b, first, last, ahead, totals
    )
