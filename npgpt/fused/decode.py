"""One new position through a block, in one parallel loop. What it computes: npgpt/ops/decode.py.

A single position reads every weight once and is bound by that. What costs besides is beginning and
ending parallel loops, so there is one: its tasks are PARTS of each layer, and wait for the layer
before (_tasks.py). A task of a matrix takes some of its rows, which lie one after the other in
memory, and leaves partial sums; whoever needs the result adds them up. There are always as many,
so that the bits do not depend on the number of threads.
"""

from typing import NamedTuple

import numba
import numpy as np

from npgpt.arrays import Array, rows
from npgpt.fused._jit import njit, prange
from npgpt.fused._math import exp
from npgpt.fused._rows import multiply_rows
from npgpt.fused._tasks import take, wait
from npgpt.ops.gelu import CUBIC, SCALE

EPS = 1e-5  # of LayerNorm
PARTS = 16  # tasks of every layer
C_ATTN, ATTENTION, ATTN_PROJ, C_FC, MLP_PROJ, SUM, LAYERS = range(7)


class Matrix(NamedTuple):
    """A linear layer as kernels take it: nothing in it is None."""

    weight: Array  # (I, O), of x's dtype, or bfloat16 (its bits in uint16), or int8
    scale: Array  # (O,), what a column of the product is multiplied with; (0,): nothing
    bias: Array  # (O,)


def forward(x: Array, p, *, n_head: int, past, out: Array | None = None):
    """(B, 1, C) -> (B, 1, C). `p`: the parameters of a block, npgpt/params.py; `past`: what its
    attention remembers, one position more afterwards."""
    return forward_with(matrix, x, p, n_head, past, out)


def matrix(p, dtype) -> Matrix:
    """A linear layer's parameters as a Matrix."""
    bias = np.zeros(p.weight.shape[1], dtype) if p.bias is None else p.bias
    return Matrix(p.weight, np.empty(0, dtype), bias)


def forward_with(matrix, x: Array, p, n_head: int, past, out: Array | None):
    """`forward`, with this function to make a Matrix of a layer."""
    (B, _, C), number = x.shape, x.dtype.type
    out = np.empty_like(x) if out is None else out
    start = past.grow(1)
    qkv, h = (np.empty((PARTS, B, many * C), x.dtype) for many in (3, 4))
    attended, added = np.empty((B, C), x.dtype), np.empty((2, PARTS, B, C), x.dtype)
    layers = (matrix(layer, x.dtype) for layer in (*p.attn, *p.mlp))
    c_attn, attn_proj, c_fc, mlp_proj = layers
    _forward(
        rows(x), p.ln_1, c_attn, attn_proj, p.ln_2, c_fc, mlp_proj, number(EPS), number(SCALE),
        number(CUBIC), past.k, past.v, start, number((C // n_head) ** -0.5),
        numba.get_num_threads(), np.zeros(LAYERS + 1, np.int64), qkv, attended, added, h, rows(out),
    )  # fmt: skip
    return out


@njit(parallel=True)
def _forward(
    x, ln_1, c_attn, attn_proj, ln_2, c_fc, mlp_proj, eps, gelu_scale, cubic, k, v, start, scale,
    threads, counters, qkv, attended, added, h, out,
):  # fmt: skip
    for _thread in prange(threads):
        _tasks(x, ln_1, c_attn, attn_proj, ln_2, c_fc, mlp_proj, eps, gelu_scale, cubic, k, v,
               start, scale, counters, qkv, attended, added, h, out)  # fmt: skip


@njit
def _tasks(
    x, ln_1, c_attn, attn_proj, ln_2, c_fc, mlp_proj, eps, gelu_scale, cubic, k, v, start, scale,
    counters, qkv, attended, added, h, out,
):  # fmt: skip
    """What one thread does: task after task, layer after layer."""
    (B, C), H = x.shape, k.shape[1]
    some, wide = np.empty((B, C), x.dtype), np.empty((B, 4 * C), x.dtype)
    ready = -1  # the layer whose input this thread has made already
    task = take(counters, LAYERS)
    while task < LAYERS * PARTS:
        layer, part = task // PARTS, task % PARTS
        if layer:
            wait(counters, layer - 1, PARTS)
        if layer == C_ATTN:
            if ready != layer:
                _normalise(x, ln_1, eps, some)
            first, last = _share(C, part)
            multiply_rows(some, c_attn.weight, first, last, qkv[part])
        elif layer == ATTENTION:
            for head in range(part * B * H // PARTS, (part + 1) * B * H // PARTS):
                _attend(qkv, c_attn, head // H, head % H, k, v, start, scale, attended)
        elif layer == ATTN_PROJ:
            first, last = _share(C, part)
            multiply_rows(attended, attn_proj.weight, first, last, added[0, part])
        elif layer == C_FC:
            if ready != layer:
                _total(x, added[0], attn_proj, 0, C, some)
                _normalise(some, ln_2, eps, some)
            first, last = _share(C, part)
            multiply_rows(some, c_fc.weight, first, last, h[part])
        elif layer == MLP_PROJ:
            first, last = _share(4 * C, part)
            wide[:, first:last] = 0
            _total(wide, h, c_fc, first, last, wide)
            _gelu(first, last, gelu_scale, cubic, wide)
            multiply_rows(wide, mlp_proj.weight, first, last, added[1, part])
        else:
            first, last = _share(C, part)
            _total(x, added[0], attn_proj, first, last, some)
            _total(some, added[1], mlp_proj, first, last, out)
        ready = layer
        take(counters, layer)  # one part more of it is done
        task = take(counters, LAYERS)


@njit
def _share(size, part):
    """Which of so many rows or columns are those of a part."""
    return part * size // PARTS, (part + 1) * size // PARTS


@njit
def _total(x, parts, p, first, last, out):
    """out = x + bias + scale * the sum of the parts, in these columns."""
    sums = np.empty(last - first, x.dtype)
    for n in range(len(x)):
        home, before = out[n, first:last], x[n, first:last]
        sums[:] = 0
        for part in range(len(parts)):
            more = parts[part, n, first:last]
            for c in range(last - first):
                sums[c] += more[c]
        for c in range(last - first):
            home[c] = before[c] + p.bias[first + c]
        if p.scale.size:
            for c in range(last - first):
                home[c] += p.scale[first + c] * sums[c]
        else:
            for c in range(last - first):
                home[c] += sums[c]


@njit
def _normalise(x, p, eps, out):
    """LayerNorm, by every thread for itself: that is quicker than to wait for somebody else's."""
    N, C = x.shape
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
            home[c] = (row[c] - mean) * rstd * p.weight[c] + p.bias[c]


@njit
def _gelu(first, last, scale, cubic, x):
    """In place, in these columns. See npgpt/fused/gelu.py."""
    one, two = x.dtype.type(1), x.dtype.type(2)
    for n in range(len(x)):
        row = x[n, first:last]
        for c in range(last - first):
            inner = scale * (row[c] + cubic * row[c] * row[c] * row[c])
            row[c] = row[c] / (one + exp(-two * inner))


@njit
def _attend(qkv, p, b, h, k, v, start, scale, out):
    """Remembers the new key and value of one head, and attends to all that are remembered."""
    H, D = k.shape[1], k.shape[3]
    C, seen = H * D, start + 1
    zero, one = out.dtype.type(0), out.dtype.type(1)
    new = np.empty((3, D), out.dtype)
    for i in range(3):
        left = i * C + h * D
        new[i] = 0
        for part in range(len(qkv)):
            for d in range(D):
                new[i, d] += qkv[part, b, left + d]
        for d in range(D):
            step = p.scale[left + d] if p.scale.size else one
            new[i, d] = p.bias[left + d] + step * new[i, d]
    query, keys, values, home = new[0], k[b, h], v[b, h], out[b, h * D : (h + 1) * D]
    keys[start] = new[1]
    values[start] = new[2]
    scores = np.empty(seen, out.dtype)
    for s in range(seen):
        total = zero
        for d in range(D):
            total += query[d] * keys[s, d]
        scores[s] = total * scale
    top = scores[0]
    for s in range(1, seen):
        top = max(top, scores[s])
    total = zero
    for s in range(seen):
        scores[s] = exp(scores[s] - top)
        total += scores[s]
    home[:] = 0
    for s in range(seen):
        share = scores[s] * (one / total)
        for d in range(D):
            home[d] += share * values[s, d]
