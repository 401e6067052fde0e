"""One position of a few rows through all blocks: the kernel of fused/decode for one text.

A single position reads every weight once, and memory bandwidth bounds it. The remaining cost is
idle bandwidth. Starting and ending parallel loops costs some, so there is only one. Waiting for
other threads costs some, so meanwhile a thread prefetches the weights that it reads next.

Every stage has PARTS parts. A part of a matrix is a contiguous range of its rows and yields partial
sums, which the next stage adds up. PARTS is fixed, so the bits do not depend on the threads.
"""

import numpy as np

from npgpt.arrays import LINE
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
from npgpt.kernels.gemv import PARTS, multiply_rows_then, part_start
from npgpt.kernels.jit import inner, njit
from npgpt.kernels.parallel import in_parallel
from npgpt.kernels.pointers import array_at
from npgpt.kernels.row_ops import gelu_denominator
from npgpt.kernels.work_queue import take

MOST_AHEAD = 1 << 18  # bytes that a waiting thread prefetches: a fourth of a second-level cache


@njit
def forward(
    matrices, norms, kind, caches, stored, n_head, texts, capacities, starts, scale, eps,
    gelu_scale, cubic, threads, x, out,
):  # fmt: skip
    """(B, C) -> (B, C)"""
    (B, C), L = x.shape, len(matrices)
    stream, attended = np.empty((2 * L, B, C), x.dtype), np.empty_like(x)
    qkv, h = np.empty((PARTS, B, 3 * C), x.dtype), np.empty((PARTS, B, 4 * C), x.dtype)
    added = np.empty((2, PARTS, B, C), x.dtype)
    counters = np.zeros((len(STAGES) * L * (threads + 1), LINE // 8), np.int64)
    copy_rows(x, stream[0])
    in_parallel(threads, _stages,
                (matrices, norms, kind, caches, stored, n_head, texts, capacities, starts, scale,
                 eps, gelu_scale, cubic, threads, counters, stream, qkv, attended, h,
                 added))  # fmt: skip
    _total(stream[-1], added[1], matrices[-1, MLP_PROJ], 0, C, out)


@inner
def _stages(
    thread, matrices, norms, kind, caches, stored, n_head, texts, capacities, starts, scale, eps,
    gelu_scale, cubic, threads, counters, stream, qkv, attended, h, added,
):  # fmt: skip
    """Run one thread through all stages of all blocks."""
    _, B, C = stream.shape
    x, normed, wide = np.empty((B, C), h.dtype), np.empty((B, C), h.dtype), np.empty_like(h[0])
    own, own_end = own_tasks(thread, threads, PARTS)
    for step in range(len(STAGES) * len(matrices)):
        layer, stage = step // len(STAGES), STAGES[step % len(STAGES)]
        matrix = ATTN_PROJ if stage == ATTENTION else stage
        pointer, (I, O) = matrices[layer, matrix, WEIGHT], shape_of(matrix, C)
        row, begin, end = kind.itemsize * O, part_start(own, I, kind), part_start(own_end, I, kind)
        lines = min(MOST_AHEAD, (end - begin) * row) // LINE
        wait_and_prefetch(counters, step, threads, PARTS, pointer + begin * row, lines, 0, 1)
        a, sums = normed, qkv
        if stage == C_ATTN:
            if layer:
                _total(stream[2 * layer - 1], added[1], matrices[layer - 1, MLP_PROJ], 0, C, x)
            else:
                copy_rows(stream[0], x)
            normalise(x, norms[layer, 0], eps, normed)
        elif stage == ATTN_PROJ:
            a, sums = attended, added[0]
        elif stage == C_FC:
            _total(stream[2 * layer], added[0], matrices[layer, ATTN_PROJ], 0, C, x)
            normalise(x, norms[layer, 1], eps, normed)
            sums = h
        elif stage == MLP_PROJ:
            a, sums = wide, added[1]
        following = _next_address(matrices, layer, stage, own, kind.itemsize, C)
        weight = array_at(pointer, (I, O), kind)
        part = next_task(counters, step, thread, threads, PARTS)
        while part >= 0:
            first, last = part_start(part, I, kind), part_start(part + 1, I, kind)
            if stage == ATTENTION:
                heads = (len(texts) - 1) * n_head
                for head in range(part * heads // PARTS, (part + 1) * heads // PARTS):
                    text = head // n_head
                    for b in range(texts[text], texts[text + 1]):
                        _attend(qkv, matrices[layer, C_ATTN], b, head % n_head, n_head,
                                caches[layer, b], stored, capacities[layer, b], starts[b], scale,
                                attended)  # fmt: skip
            else:
                if stage == MLP_PROJ:
                    wide[:, first:last] = 0
                    _total(wide, h, matrices[layer, C_FC], first, last, wide)
                    _gelu(first, last, gelu_scale, cubic, wide)
                elif part == 0 and stage == C_ATTN:
                    copy_rows(x, stream[2 * layer])  # for later stages, which add to it
                elif part == 0 and stage == C_FC:
                    copy_rows(x, stream[2 * layer + 1])
                multiply_rows_then(a, weight, first, last, sums[part], max(end, last), following)
            take(counters.reshape(-1), counter_of(counters, step, threads, threads))
            part = next_task(counters, step, thread, threads, PARTS)


@inner
def _next_address(matrices, layer, stage, part, itemsize, C):
    """Return the address at which the thread that starts with `part` starts in the next matrix."""
    layer, stage = next_matrix(layer, stage, len(matrices))
    I, O = shape_of(stage, C)
    return matrices[layer, stage, WEIGHT] + part * I // PARTS * O * itemsize


@inner
def _total(x, parts, p, first, last, out):
    """out = x + bias + scale * the sum of the parts, in the columns from `first` to `last`."""
    sums = np.empty(last - first, x.dtype)
    for n in range(len(x)):
        out_row, before = out[n, first:last], x[n, first:last]
        _add_up(parts, n, p, first, last, sums)
        for c in range(last - first):
            out_row[c] = before[c] + sums[c]


@inner
def _add_up(parts, n, p, first, last, sums):
    """sums = bias + scale * the sum of the parts, in row n and columns `first` to `last`."""
    size = (parts.shape[-1],)
    bias, scale = array_at(p[BIAS], size, sums), array_at(p[FACTOR], size, sums)
    sums[:] = 0
    for part in range(len(parts)):
        more = parts[part, n, first:last]
        for c in range(last - first):
            sums[c] += more[c]
    if p[FACTOR]:
        for c in range(last - first):
            sums[c] *= scale[first + c]
    if p[BIAS]:
        for c in range(last - first):
            sums[c] += bias[first + c]


@inner
def _gelu(first, last, scale, cubic, x):
    """Apply GELU in place, to the columns from `first` to `last`."""
    for n in range(len(x)):
        row = x[n, first:last]
        for c in range(last - first):
            row[c] = row[c] / gelu_denominator(row[c], scale, cubic)


@inner
def _attend(qkv, p, b, h, H, cache, stored, capacity, start, scale, out):
    """Add up the query, key and value of a head, and attend."""
    C = out.shape[1]
    D = C // H
    new = np.empty((3, D), out.dtype)
    for i in range(3):
        left = i * C + h * D
        _add_up(qkv, b, p, left, left + D, new[i])
    attend(new, cache, stored, capacity, start, h, scale, out[b, h * D : (h + 1) * D])
