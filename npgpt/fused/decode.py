"""One new position through all blocks, in one parallel loop. What it computes: npgpt/ops/decode.py.

A single position reads every weight once and is bound by that. What costs besides is whatever lets
memory wait: beginning and ending parallel loops, so there is one, and threads that wait for each
other, so meanwhile they ask for the weights that they will read next.

Every block has five stages. Each stage needs the one before and has PARTS parts, shared among the
threads; a thread that has done its own parts takes those of others (kernels/work_queue.py). A part
of a matrix is a contiguous range of its rows and yields partial sums, which the next stage adds up.
PARTS is fixed, so that the bits do not depend on the number of threads.
"""

from typing import NamedTuple

import numba
import numpy as np

from npgpt.arrays import LINE, Array, rows
from npgpt.kernels.gemv import multiply_rows_then
from npgpt.kernels.jit import inner, njit
from npgpt.kernels.math import exp, largest
from npgpt.kernels.parallel import in_parallel
from npgpt.kernels.pointers import address, array_at, fetch_at
from npgpt.kernels.work_queue import passed, take
from npgpt.ops.gelu import CUBIC, SCALE

EPS = 1e-5  # of LayerNorm
PARTS = 16  # of every stage
C_ATTN, ATTN_PROJ, C_FC, MLP_PROJ, ATTENTION = range(5)  # matrices first
STAGES = C_ATTN, ATTENTION, ATTN_PROJ, C_FC, MLP_PROJ
WEIGHT, BIAS, FACTOR = range(3)  # of a matrix; the first two of a LayerNorm
MOST_AHEAD = 1 << 18  # bytes that a waiting thread asks for: a fourth of a second cache


class Matrix(NamedTuple):
    """A linear layer as kernels take it. Its weight is of x's dtype, or bfloat16 (its bits in
    uint16), or int8."""

    weight: Array  # (I, O)
    bias: Array | None  # (O,)
    scale: Array | None  # (O,), what a column of the product is multiplied with


class Places(NamedTuple):
    """Where the parameters of L blocks lie: addresses, 0 where there is nothing."""

    matrices: Array  # (L, 4, 3)
    norms: Array  # (L, 2, 2)
    kind: Array  # (0,), of the matrices' dtype


def forward(x: Array, blocks, *, n_head: int, past, out: Array | None = None):
    """(B, 1, C) -> (B, 1, C). `blocks`: the parameters of every block (npgpt/model/params.py).
    `past`: one cache per block (npgpt/model/kv_cache.py), extended by this position."""
    return forward_with(matrix, x, blocks, n_head, past, out)


def matrix(p) -> Matrix:
    """A linear layer's parameters as a Matrix."""
    return Matrix(p.weight, p.bias, None)


def forward_with(matrix, x: Array, blocks, n_head: int, past, out: Array | None):
    """`forward`, with this function to make a Matrix of a layer."""
    (B, _, C), number, L = x.shape, x.dtype.type, len(blocks)
    if not L:
        raise ValueError("there are no blocks")
    places = places_of(matrix, blocks, past, x.dtype)
    starts = {slot.reserve(1) for slot in past}
    if len(starts) != 1:
        raise ValueError(f"blocks remember different numbers of positions: {sorted(starts)}")
    remembered = np.array([[address(slot.k, x.dtype), address(slot.v, x.dtype)] for slot in past])
    out, threads = np.empty_like(x) if out is None else out, numba.get_num_threads()
    stream, qkv, h, added = (
        np.empty(shape, x.dtype) for shape in
        ((2 * L, B, C), (PARTS, B, 3 * C), (PARTS, B, 4 * C), (2, PARTS, B, C))
    )  # fmt: skip
    stream[0] = rows(x)
    counters = np.zeros((len(STAGES) * L * (threads + 1), LINE // 8), np.int64)
    room = past[0].k.shape[-2]
    _forward(places.matrices, places.norms, places.kind, remembered, n_head, room, starts.pop(),
             number((C // n_head) ** -0.5), number(EPS), number(SCALE), number(CUBIC), threads,
             counters, stream, qkv, h, added, rows(out))  # fmt: skip
    return out


def places_of(matrix, blocks, past, dtype) -> Places:
    """Of these blocks, looked up once for every memory."""
    if past[0].backend_state is None or past[0].backend_state[0] is not blocks:
        past[0].backend_state = blocks, find_places(matrix, blocks, dtype)
    return past[0].backend_state[1]


def find_places(matrix, blocks, dtype) -> Places:
    """Of these blocks."""
    layers = [[matrix(layer) for layer in (*p.attn, *p.mlp)] for p in blocks]
    kind = layers[0][0].weight.dtype
    return Places(
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


# Kernels. A number is at `place` if it is an address.


@njit
def _forward(
    matrices, norms, kind, remembered, n_head, room, start, scale, eps, gelu_scale, cubic, threads,
    counters, stream, qkv, h, added, out,
):  # fmt: skip
    attended = np.empty_like(out)
    in_parallel(threads, _stages,
                (matrices, norms, kind, remembered, n_head, room, start, scale, eps, gelu_scale,
                 cubic, threads, counters, stream, qkv, attended, h, added))  # fmt: skip
    C = out.shape[1]
    _total(stream[-1], added[1], matrices[-1, MLP_PROJ], 0, C, out)


@inner
def _stages(
    thread, matrices, norms, kind, remembered, n_head, room, start, scale, eps, gelu_scale, cubic,
    threads, counters, stream, qkv, attended, h, added,
):  # fmt: skip
    """What one thread does, stage after stage."""
    _, B, C = stream.shape
    x, some, wide = np.empty((B, C), h.dtype), np.empty((B, C), h.dtype), np.empty_like(h[0])
    mine, beyond = _own(thread, threads)
    for step in range(len(STAGES) * len(matrices)):
        layer, stage = step // len(STAGES), STAGES[step % len(STAGES)]
        matrix = ATTN_PROJ if stage == ATTENTION else stage
        place, (I, O) = matrices[layer, matrix, WEIGHT], _shape(matrix, C)
        row, begin, end = kind.itemsize * O, mine * I // PARTS, beyond * I // PARTS
        _wait(counters, step, threads, place + begin * row, min(MOST_AHEAD, (end - begin) * row))
        a, sums = some, qkv
        if stage == C_ATTN:
            if layer:
                _total(stream[2 * layer - 1], added[1], matrices[layer - 1, MLP_PROJ], 0, C, x)
            else:
                _copy(stream[0], x)
            _normalise(x, norms[layer, 0], eps, some)
        elif stage == ATTN_PROJ:
            a, sums = attended, added[0]
        elif stage == C_FC:
            _total(stream[2 * layer], added[0], matrices[layer, ATTN_PROJ], 0, C, x)
            _normalise(x, norms[layer, 1], eps, some)
            sums = h
        elif stage == MLP_PROJ:
            a, sums = wide, added[1]
        then = _then(matrices, layer, stage, mine, kind.itemsize, C)
        weight = array_at(place, (I, O), kind)
        part = _next_part(counters, step, thread, threads)
        while part >= 0:
            first, last = part * I // PARTS, (part + 1) * I // PARTS
            if stage == ATTENTION:
                for head in range(part * B * n_head // PARTS, (part + 1) * B * n_head // PARTS):
                    _attend(qkv, matrices[layer, C_ATTN], head // n_head, head % n_head, n_head,
                            remembered[layer], room, start, scale, attended)  # fmt: skip
            else:
                if stage == MLP_PROJ:
                    wide[:, first:last] = 0
                    _total(wide, h, matrices[layer, C_FC], first, last, wide)
                    _gelu(first, last, gelu_scale, cubic, wide)
                elif part == 0 and stage == C_ATTN:
                    _copy(x, stream[2 * layer])  # for whoever comes by the next time
                elif part == 0 and stage == C_FC:
                    _copy(x, stream[2 * layer + 1])
                multiply_rows_then(a, weight, first, last, sums[part], max(end, last), then)
            take(counters.reshape(-1), _counter(counters, step, threads, threads))
            part = _next_part(counters, step, thread, threads)


@inner
def _copy(x, out):
    """out = x. Numba's own out[:] = x can tell what shapes differ, which takes long to compile."""
    for n in range(len(x)):
        for c in range(x.shape[1]):
            out[n, c] = x[n, c]


@inner
def _own(thread, threads):
    """The parts that a thread begins with: they lie one after the other."""
    return thread * PARTS // threads, (thread + 1) * PARTS // threads


@inner
def _shape(stage, C):
    """(I, O) of its matrix."""
    if stage == C_FC:
        return C, 4 * C
    if stage == MLP_PROJ:
        return 4 * C, C
    return C, C if stage == ATTN_PROJ else 3 * C


@inner
def _then(matrices, layer, stage, part, itemsize, C):
    """Where in the next matrix a thread begins that begins with this part."""
    stage += 1
    if stage > MLP_PROJ:
        layer, stage = min(layer + 1, len(matrices) - 1), C_ATTN
    I, O = _shape(stage, C)
    return matrices[layer, stage, WEIGHT] + part * I // PARTS * O * itemsize


# Counters: for every step one a thread, of how many of its parts are taken, and one of what is
# done.


@inner
def _counter(counters, step, threads, i):
    """Which one it is, of the flat array. Each has a cache line of its own."""
    return (step * (threads + 1) + i) * counters.shape[1]


@inner
def _next_part(counters, step, thread, threads):
    """A part that nobody has taken yet, of this thread or of others; -1 where there is none."""
    flat = counters.reshape(-1)
    for i in range(thread, thread + threads):
        i %= threads
        first, last = _own(i, threads)
        if first < last:
            part = first + take(flat, _counter(counters, step, threads, i))
            if part < last:
                return part
    return -1


@inner
def _wait(counters, step, threads, place, size):
    """Until all parts of the step before are done; meanwhile so many bytes are asked for."""
    if step == 0:
        return
    flat, end = counters.reshape(-1), place + size
    before = _counter(counters, step - 1, threads, threads)
    while not passed(flat, before, PARTS):
        if place < end:
            fetch_at(place)
            place += LINE


@inner
def _total(x, parts, p, first, last, out):
    """out = x + bias + scale * the sum of the parts, in these columns."""
    sums = np.empty(last - first, x.dtype)
    for n in range(len(x)):
        home, before = out[n, first:last], x[n, first:last]
        _add_up(parts, n, p, first, last, sums)
        for c in range(last - first):
            home[c] = before[c] + sums[c]


@inner
def _add_up(parts, n, p, first, last, sums):
    """sums = bias + scale * the sum of the parts, in these columns of row n."""
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
    """LayerNorm, by every thread for itself: that is quicker than to wait for somebody else's."""
    N, C = x.shape
    weight, bias = array_at(p[WEIGHT], (C,), x), array_at(p[BIAS], (C,), x)
    zero, one, size = x.dtype.type(0), x.dtype.type(1), x.dtype.type(C)
    for n in range(N):
        row, home = x[n], out[n]
        total = zero
        for c in range(C):
            total += row[c]
        mean = total / size
        total = zero
        for c in range(C):
            total += (row[c] - mean) * (row[c] - mean)
        rstd = one / np.sqrt(total / size + eps)
        for c in range(C):
            home[c] = (row[c] - mean) * rstd * weight[c] + bias[c]


@inner
def _gelu(first, last, scale, cubic, x):
    """In place, in these columns. See npgpt/fused/gelu.py."""
    one, two = x.dtype.type(1), x.dtype.type(2)
    for n in range(len(x)):
        row = x[n, first:last]
        for c in range(last - first):
            inner = scale * (row[c] + cubic * row[c] * row[c] * row[c])
            row[c] = row[c] / (one + exp(-two * inner))


@inner
def _attend(qkv, p, b, h, H, remembered, room, start, scale, out):
    """Remembers the new key and value of one head, and attends to all that are remembered."""
    C, seen = out.shape[1], start + 1
    D = C // H
    zero, one = out.dtype.type(0), out.dtype.type(1)
    new = np.empty((3, D), out.dtype)
    for i in range(3):
        left = i * C + h * D
        _add_up(qkv, b, p, left, left + D, new[i])
    query, home = new[0], out[b, h * D : (h + 1) * D]
    here = (b * H + h) * room * D * out.itemsize
    keys, values = (
        array_at(remembered[0] + here, (room, D), out),
        array_at(remembered[1] + here, (room, D), out),
    )
    for d in range(D):
        keys[start, d], values[start, d] = new[1, d], new[2, d]
    scores = np.empty(seen, out.dtype)
    for s in range(seen):
        total = zero
        for d in range(D):
            total += query[d] * keys[s, d]
        scores[s] = total * scale
    top = largest(scores)
    total = zero
    for s in range(seen):
        scores[s] = exp(scores[s] - top)
        total += scores[s]
    home[:] = 0
    for s in range(seen):
        share = scores[s] * (one / total)
        for d in range(D):
            home[d] += share * values[s, d]
