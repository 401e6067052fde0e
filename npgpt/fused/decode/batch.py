"""One position of many rows through all blocks: the kernel of fused/decode for a batch.

Products are bound by multiplying, so a task is a range of a matrix's columns (products.py): it adds
up all of k, and finishes its columns with bias, GELU and residual. There are no partial sums of a
batch to write and read. The order of sums is that of few.py, and so are the bits.
"""

import numpy as np

from npgpt.arrays import LINE
from npgpt.fused.decode.products import (
    empty_hidden,
    empty_left,
    hidden_left,
    multiply,
    pack_hidden,
    pack_left,
    panel_rows,
    task_columns,
)
from npgpt.fused.decode.stages import (
    ATTENTION,
    ATTN_PROJ,
    BIAS,
    C_ATTN,
    C_FC,
    FACTOR,
    MLP_PROJ,
    STAGES,
    WEIGHT,
    attend,
    copy_rows,
    counter_of,
    next_matrix,
    next_task,
    normalise,
    own_tasks,
    shape_of,
    wait_and_prefetch,
)
from npgpt.kernels.gemv import PARTS
from npgpt.kernels.jit import inner, njit
from npgpt.kernels.parallel import in_parallel
from npgpt.kernels.pointers import array_at
from npgpt.kernels.row_ops import gelu_denominator
from npgpt.kernels.work_queue import take


@njit
def forward(
    matrices, norms, kind, caches, stored, n_head, texts, capacities, starts, scale, eps,
    gelu_scale, cubic, threads, x, out,
):  # fmt: skip
    """(B, C) -> (B, C)"""
    (B, C), L = x.shape, len(matrices)
    stream, qkv = np.empty((2 * L + 1, B, C), x.dtype), np.empty((B, 3 * C), x.dtype)
    attended, h = np.empty_like(x), empty_hidden(B, 4 * C, x, kind)
    counters = np.zeros((len(STAGES) * L * (threads + 1), LINE // 8), np.int64)
    copy_rows(x, stream[0])
    in_parallel(threads, _stages,
                (matrices, norms, kind, caches, stored, n_head, texts, capacities, starts, scale,
                 eps, gelu_scale, cubic, threads, counters, stream, qkv, attended, h))  # fmt: skip
    copy_rows(stream[-1], out)


@inner
def _stages(
    thread, matrices, norms, kind, caches, stored, n_head, texts, capacities, starts, scale, eps,
    gelu_scale, cubic, threads, counters, stream, qkv, attended, h,
):  # fmt: skip
    """Run one thread through all stages of all blocks."""
    _, B, C = stream.shape
    normed, tasks = np.empty((B, C), stream.dtype), 0
    width = task_columns(stream, C, threads, kind)
    left, panels = empty_left(B, C, normed, kind), -(-B // panel_rows(kind))
    totals = np.empty((panels * panel_rows(kind), width), stream.dtype)
    for step in range(len(STAGES) * len(matrices)):
        layer, stage = step // len(STAGES), STAGES[step % len(STAGES)]
        matrix = ATTN_PROJ if stage == ATTENTION else stage
        pointer, (I, O) = matrices[layer, matrix, WEIGHT], shape_of(matrix, C)
        size, row = width * kind.itemsize, O * kind.itemsize
        blocks, lines = -(-O // width), -(-size // LINE)
        own, own_end = own_tasks(thread, threads, blocks)
        wait_and_prefetch(counters, step, threads, tasks, pointer + own * size, lines, row,
                          I // PARTS)  # fmt: skip
        tasks = PARTS if stage == ATTENTION else blocks
        if stage == ATTN_PROJ:
            pack_left(attended, left, kind)
        elif stage in (C_ATTN, C_FC):
            norm = 0 if stage == C_ATTN else 1
            normalise(stream[2 * layer + norm], norms[layer, norm], eps, normed)
            pack_left(normed, left, kind)
        a = hidden_left(h, B, left, kind) if stage == MLP_PROJ else left
        weight = array_at(pointer, (I, O), kind)
        task = next_task(counters, step, thread, threads, tasks)
        while task >= 0:
            if stage == ATTENTION:
                heads = (len(texts) - 1) * n_head
                for head in range(task * heads // tasks, (task + 1) * heads // tasks):
                    text = head // n_head
                    for b in range(texts[text], texts[text + 1]):
                        _attend(qkv[b], head % n_head, n_head, caches[layer, b], stored,
                                capacities[layer, b], starts[b], scale, attended[b])  # fmt: skip
            else:
                first, last = task * width, min(O, (task + 1) * width)
                ahead, stride, rows = pointer + last * kind.itemsize, row, I
                if task + 1 >= own_end:
                    ahead, stride, rows = _next_columns(matrices, layer, stage, thread, threads, C,
                                                        width, kind)  # fmt: skip
                multiply(a, weight, first, last, ahead, stride, rows, totals)
                for n in range(B):
                    total = totals[n, : last - first]
                    _shift(total, matrices[layer, stage], first, O)
                    if stage == C_ATTN:
                        _copy(total, qkv[n, first:last])
                    elif stage == C_FC:
                        _gelu(total, gelu_scale, cubic)
                    else:
                        k = 2 * layer + (stage == MLP_PROJ)
                        _add(stream[k, n, first:last], total, stream[k + 1, n, first:last])
                if stage == C_FC:
                    pack_hidden(totals, B, last - first, h, first, O, kind)
            take(counters.reshape(-1), counter_of(counters, step, threads, threads))
            task = next_task(counters, step, thread, threads, tasks)


@inner
def _next_columns(matrices, layer, stage, thread, threads, C, width, kind):
    """Return where a thread starts in the next matrix: the address, a row's bytes, and the rows."""
    layer, stage = next_matrix(layer, stage, len(matrices))
    I, O = shape_of(stage, C)
    own, _ = own_tasks(thread, threads, -(-O // width))
    row = O * kind.itemsize
    return matrices[layer, stage, WEIGHT] + own * width * kind.itemsize, row, I


# A row of a task's columns. Its type says that it is contiguous, so the loops are vectorised.


@inner
def _shift(row, p, first, O):
    """row = row * scale + bias, in the columns from `first` on."""
    bias, scale = array_at(p[BIAS], (O,), row), array_at(p[FACTOR], (O,), row)
    if p[FACTOR]:
        for c in range(len(row)):
            row[c] *= scale[first + c]
    if p[BIAS]:
        for c in range(len(row)):
            row[c] += bias[first + c]


@inner
def _gelu(row, scale, cubic):
    """Apply GELU in place."""
    for c in range(len(row)):
        row[c] = row[c] / gelu_denominator(row[c], scale, cubic)


@inner
def _copy(row, out):
    """out = row"""
    for c in range(len(row)):
        out[c] = row[c]


@inner
def _add(x, row, out):
    """out = x + row"""
    for c in range(len(row)):
        out[c] = x[c] + row[c]


@inner
def _attend(qkv, h, H, cache, stored, capacity, start, scale, out):
    """Attend with the query, key and value of a head of one row."""
    C = len(out)
    D = C // H
    new = np.empty((3, D), out.dtype)
    for i in range(3):
        for d in range(D):
            new[i, d] = qkv[i * C + h * D + d]
    attend(new, cache, stored, capacity, start, h, scale, out[h * D : (h + 1) * D])
