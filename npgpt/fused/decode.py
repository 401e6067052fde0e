"""One new position through all blocks, in one parallel loop. The formula is in npgpt/ops/decode.py.

A single position reads every weight once, and memory bandwidth bounds it. The remaining cost is
idle bandwidth. Starting and ending parallel loops costs some, so there is only one. Waiting for
other threads costs some, so meanwhile a thread prefetches the weights that it reads next.

Every block has five stages. Each stage needs the previous one and has PARTS parts, shared among the
threads. A thread that has finished its own parts takes those of others (kernels/work_queue.py). A
part of a matrix is a contiguous range of its rows and yields partial sums, which the next stage
adds up. PARTS is fixed, so the bits do not depend on the number of threads.
"""

from typing import NamedTuple

import numpy as np

from npgpt.arrays import LINE, Array, rows
from npgpt.fused.layernorm import EPS
from npgpt.kernels.gemv import multiply_rows_then
from npgpt.kernels.jit import inner, njit
from npgpt.kernels.launch import num_threads
from npgpt.kernels.parallel import in_parallel
from npgpt.kernels.pointers import address, array_at, prefetch_at
from npgpt.kernels.row_ops import attend_cached, gelu_denominator, layernorm_row
from npgpt.kernels.work_queue import has_reached, take
from npgpt.ops import decode, lora
from npgpt.ops.gelu import CUBIC, SCALE

PARTS = 16  # of every stage
C_ATTN, ATTN_PROJ, C_FC, MLP_PROJ, ATTENTION = range(5)  # matrices first
STAGES = C_ATTN, ATTENTION, ATTN_PROJ, C_FC, MLP_PROJ
WEIGHT, BIAS, FACTOR = range(3)  # of a matrix; the first two of a LayerNorm
MOST_AHEAD = 1 << 18  # bytes that a waiting thread prefetches: a fourth of a second-level cache


class Matrix(NamedTuple):
    """A linear layer for the kernels. Its weight has x's dtype, or is quantized: bfloat16 (its bits
    in uint16) or int8."""

    weight: Array  # (I, O)
    bias: Array | None  # (O,)
    scale: Array | None  # (O,), factors of the product's columns


class Addresses(NamedTuple):
    """The addresses of the parameters of L blocks; 0 for None."""

    matrices: Array  # (L, 4, 3)
    norms: Array  # (L, 2, 2)
    kind: Array  # (0,), of the matrices' dtype


def forward(x: Array, blocks, *, n_head: int, past, out: Array | None = None):
    """(B, 1, C) -> (B, 1, C). `blocks`: the parameters of every block (npgpt/model/params.py).
    `past`: one cache per block (npgpt/model/kv_cache.py), extended by this position. Of rows of
    unequal length: one RowCaches per block."""
    return forward_with(matrix, x, blocks, n_head, past, out)


def matrix(p) -> Matrix:
    """Return a linear layer's parameters as a Matrix."""
    return Matrix(p.weight, p.bias, None)


def forward_with(matrix, x: Array, blocks, n_head: int, past, out: Array | None):
    """Run `forward`, with `matrix` to convert the parameters of a layer."""
    if any(isinstance(p, lora.Params) for one in blocks for p in (*one.attn, *one.mlp)):
        return decode.forward(x, blocks, n_head=n_head, past=past, out=out)
    (B, _, C), number, L = x.shape, x.dtype.type, len(blocks)
    if not L:
        raise ValueError("there are no blocks")
    addresses = addresses_of(matrix, blocks, past, x.dtype)
    caches, starts, capacities = reserve(past, x.dtype)
    texts = first_rows(past[0], B)
    out, threads = np.empty_like(x) if out is None else out, num_threads()
    stream, qkv, h, added = (
        np.empty(shape, x.dtype) for shape in
        ((2 * L, B, C), (PARTS, B, 3 * C), (PARTS, B, 4 * C), (2, PARTS, B, C))
    )  # fmt: skip
    stream[0] = rows(x)
    counters = np.zeros((len(STAGES) * L * (threads + 1), LINE // 8), np.int64)
    _forward(addresses.matrices, addresses.norms, addresses.kind, caches, n_head, texts, capacities,
             starts, number((C // n_head) ** -0.5), number(EPS), number(SCALE),
             number(CUBIC), threads, counters, stream, qkv, h, added, rows(out))  # fmt: skip
    return out


def reserve(past, dtype) -> tuple[Array, Array, Array]:
    """Reserve a position of every row. Return the addresses of keys and values, (L, B, 2), the
    reserved positions and the capacities, (B,) each."""
    if hasattr(past[0], "rows"):
        starts = np.array([[row.reserve(1) for row in layer.rows] for layer in past])
        caches = np.array([[row_addresses(row, dtype) for row in layer.rows] for layer in past])
        capacities = np.array([row.k.shape[-2] for row in past[0].rows])
    else:
        B = len(past[0].k)
        starts = np.array([[layer.reserve(1)] * B for layer in past])
        first = np.array([[address(layer.k, dtype), address(layer.v, dtype)] for layer in past])
        caches = first[:, None] + np.arange(B)[:, None] * past[0].k.strides[0]
        capacities = np.full(B, past[0].k.shape[-2])
    if (starts != starts[0]).any():
        raise ValueError(
            "all layers must have the same number of cached positions, not "
            f"{sorted(set(starts.ravel().tolist()))}"
        )
    return caches, starts[0], capacities


def first_rows(past, B: int) -> Array:
    """Return the first row of each text, and B. A text of several rows has one cache for all."""
    rows = getattr(past, "rows", None)
    return np.array([b for b in range(B) if not (b and rows and rows[b] is rows[b - 1])] + [B])


def row_addresses(row, dtype) -> tuple[int, int]:
    """Return the addresses of a row's keys and values, cached until it grows."""
    if row.backend_state is None or row.backend_state[0] is not row.k:
        row.backend_state = row.k, (address(row.k, dtype), address(row.v, dtype))
    return row.backend_state[1]


def addresses_of(matrix, blocks, past, dtype) -> Addresses:
    """Return the blocks' parameter addresses, cached in the key/value cache."""
    if past[0].backend_state is None or past[0].backend_state[0] is not blocks:
        past[0].backend_state = blocks, collect_addresses(matrix, blocks, dtype)
    return past[0].backend_state[1]


def collect_addresses(matrix, blocks, dtype) -> Addresses:
    """Return the blocks' parameter addresses."""
    layers = [[matrix(layer) for layer in (*p.attn, *p.mlp)] for p in blocks]
    kind = layers[0][0].weight.dtype
    return Addresses(
        np.array([
            [[address(p.weight, kind), address(p.bias, dtype), address(p.scale, dtype)]
             for p in block] for block in layers
        ]),
        np.array([
            [[address(norm.weight, dtype), address(norm.bias, dtype)] for norm in (p.ln_1, p.ln_2)]
            for p in blocks
        ]),
        np.empty(0, kind),
    )  # fmt: skip


# Kernels.


@njit
def _forward(
    matrices, norms, kind, caches, n_head, texts, capacities, starts, scale, eps, gelu_scale,
    cubic, threads, counters, stream, qkv, h, added, out,
):  # fmt: skip
    attended = np.empty_like(out)
    in_parallel(threads, _stages,
                (matrices, norms, kind, caches, n_head, texts, capacities, starts, scale,
                 eps, gelu_scale, cubic, threads, counters, stream, qkv, attended, h,
                 added))  # fmt: skip
    C = out.shape[1]
    _total(stream[-1], added[1], matrices[-1, MLP_PROJ], 0, C, out)


@inner
def _stages(
    thread, matrices, norms, kind, caches, n_head, texts, capacities, starts, scale, eps,
    gelu_scale, cubic, threads, counters, stream, qkv, attended, h, added,
):  # fmt: skip
    """Run one thread through all stages of all blocks."""
    _, B, C = stream.shape
    x, normed, wide = np.empty((B, C), h.dtype), np.empty((B, C), h.dtype), np.empty_like(h[0])
    own, own_end = _own_parts(thread, threads)
    for step in range(len(STAGES) * len(matrices)):
        layer, stage = step // len(STAGES), STAGES[step % len(STAGES)]
        matrix = ATTN_PROJ if stage == ATTENTION else stage
        pointer, (I, O) = matrices[layer, matrix, WEIGHT], _shape(matrix, C)
        row, begin, end = kind.itemsize * O, own * I // PARTS, own_end * I // PARTS
        _wait_and_prefetch(counters, step, threads, pointer + begin * row,
                           min(MOST_AHEAD, (end - begin) * row))  # fmt: skip
        a, sums = normed, qkv
        if stage == C_ATTN:
            if layer:
                _total(stream[2 * layer - 1], added[1], matrices[layer - 1, MLP_PROJ], 0, C, x)
            else:
                _copy(stream[0], x)
            _normalise(x, norms[layer, 0], eps, normed)
        elif stage == ATTN_PROJ:
            a, sums = attended, added[0]
        elif stage == C_FC:
            _total(stream[2 * layer], added[0], matrices[layer, ATTN_PROJ], 0, C, x)
            _normalise(x, norms[layer, 1], eps, normed)
            sums = h
        elif stage == MLP_PROJ:
            a, sums = wide, added[1]
        following = _next_address(matrices, layer, stage, own, kind.itemsize, C)
        weight = array_at(pointer, (I, O), kind)
        part = _next_part(counters, step, thread, threads)
        while part >= 0:
            first, last = part * I // PARTS, (part + 1) * I // PARTS
            if stage == ATTENTION:
                heads = (len(texts) - 1) * n_head
                for head in range(part * heads // PARTS, (part + 1) * heads // PARTS):
                    text = head // n_head
                    for b in range(texts[text], texts[text + 1]):
                        _attend(qkv, matrices[layer, C_ATTN], b, head % n_head, n_head,
                                caches[layer, b], capacities[b], starts[b], scale,
                                attended)  # fmt: skip
            else:
                if stage == MLP_PROJ:
                    wide[:, first:last] = 0
                    _total(wide, h, matrices[layer, C_FC], first, last, wide)
                    _gelu(first, last, gelu_scale, cubic, wide)
                elif part == 0 and stage == C_ATTN:
                    _copy(x, stream[2 * layer])  # for later stages, which add to it
                elif part == 0 and stage == C_FC:
                    _copy(x, stream[2 * layer + 1])
                multiply_rows_then(a, weight, first, last, sums[part], max(end, last), following)
            take(counters.reshape(-1), _counter(counters, step, threads, threads))
            part = _next_part(counters, step, thread, threads)


@inner
def _copy(x, out):
    """out = x. Numba's out[:] = x can report shapes that differ, which takes long to compile."""
    for n in range(len(x)):
        for c in range(x.shape[1]):
            out[n, c] = x[n, c]


@inner
def _own_parts(thread, threads):
    """Return the first and the end of the parts with which a thread starts: a contiguous range."""
    return thread * PARTS // threads, (thread + 1) * PARTS // threads


@inner
def _shape(stage, C):
    """Return (I, O) of a stage's matrix."""
    if stage == C_FC:
        return C, 4 * C
    if stage == MLP_PROJ:
        return 4 * C, C
    return C, C if stage == ATTN_PROJ else 3 * C


@inner
def _next_address(matrices, layer, stage, part, itemsize, C):
    """Return the address at which the thread that starts with `part` starts in the next matrix."""
    stage += 1
    if stage > MLP_PROJ:
        layer, stage = min(layer + 1, len(matrices) - 1), C_ATTN
    I, O = _shape(stage, C)
    return matrices[layer, stage, WEIGHT] + part * I // PARTS * O * itemsize


# Counters. Every step has one per thread, which counts the taken ones of its own parts, and one
# that counts the finished parts.


@inner
def _counter(counters, step, threads, i):
    """Return the index of a counter in the flat array; each counter has its own cache line."""
    return (step * (threads + 1) + i) * counters.shape[1]


@inner
def _next_part(counters, step, thread, threads):
    """Return a part that no thread has taken, this thread's own ones first; -1 if none is left."""
    flat = counters.reshape(-1)
    for i in range(thread, thread + threads):
        i %= threads
        first, last = _own_parts(i, threads)
        if first < last:
            part = first + take(flat, _counter(counters, step, threads, i))
            if part < last:
                return part
    return -1


@inner
def _wait_and_prefetch(counters, step, threads, pointer, size):
    """Spin until every part of the previous step is done, prefetching `size` bytes meanwhile."""
    if step == 0:
        return
    flat, end = counters.reshape(-1), pointer + size
    finished = _counter(counters, step - 1, threads, threads)
    while not has_reached(flat, finished, PARTS):
        if pointer < end:
            prefetch_at(pointer)
            pointer += LINE


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
def _normalise(x, p, eps, out):
    """Apply LayerNorm. Every thread does all of it: waiting for another thread takes longer."""
    N, C = x.shape
    weight, bias = array_at(p[WEIGHT], (C,), x), array_at(p[BIAS], (C,), x)
    for n in range(N):
        layernorm_row(x[n], weight, bias, eps, out[n])


@inner
def _gelu(first, last, scale, cubic, x):
    """Apply GELU in place, to the columns from `first` to `last`."""
    for n in range(len(x)):
        row = x[n, first:last]
        for c in range(last - first):
            row[c] = row[c] / gelu_denominator(row[c], scale, cubic)


@inner
def _attend(qkv, p, b, h, H, cache, capacity, start, scale, out):
    """Append the new key and value of one head to its cache, and attend to all of them."""
    C, S = out.shape[1], start + 1
    D = C // H
    new = np.empty((3, D), out.dtype)
    for i in range(3):
        left = i * C + h * D
        _add_up(qkv, b, p, left, left + D, new[i])
    query, out_row = new[0], out[b, h * D : (h + 1) * D]
    offset = h * capacity * D * out.itemsize
    k, v = (
        array_at(cache[0] + offset, (capacity, D), out),
        array_at(cache[1] + offset, (capacity, D), out),
    )
    for d in range(D):
        k[start, d], v[start, d] = new[1, d], new[2, d]
    attend_cached(query, k[:S], v[:S], scale, np.empty(S, out.dtype), out_row)
