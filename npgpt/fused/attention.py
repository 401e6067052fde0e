"""Attention, head by head, a strip of rows at a time. The formula is in npgpt/ops/attention.py.

The T x T probabilities never exist as a whole. Forward computes MR rows of scores at a time,
against the keys up to them. It keeps two numbers per row: row_max, and inv_sum, one over the sum by
which softmax divides. Backward computes the same rows again:
exp(scale * (score - row_max)) * inv_sum.

This is the trade-off of FlashAttention (Dao et al. 2022, arXiv:2205.14135): memory for a second
product. A row of scores fits into a core's cache, so no running maximum is needed. FlashAttention
keeps the logarithm of the sum plus the maximum, which loses digits if scores are large.

Each head is one task and writes only its own columns, so the bits do not depend on the number of
threads.
"""

import math
from typing import NamedTuple

import numpy as np

from npgpt.arrays import Array, rows
from npgpt.fused import dropout
from npgpt.kernels import buffer_pool
from npgpt.kernels.bfloat16 import as_stored
from npgpt.kernels.cpu import BYTES
from npgpt.kernels.gemm_microkernel import LEFT, MR, VECTORS, microkernel
from npgpt.kernels.jit import BLOCKS, inner, njit
from npgpt.kernels.launch import num_threads
from npgpt.kernels.math import exp
from npgpt.kernels.packing import multiply_panels, pack_across, pack_along, right_width, steps_of
from npgpt.kernels.parallel import in_parallel
from npgpt.kernels.row_ops import attend_cached, softmax_row

QUERIES = 4 * MR  # of a strip in backward, an even number: 56 rows of 1024 scores are 224 KB


class Cache(NamedTuple):
    """Other than the NumPy backend's: 2 T numbers per head, not T x T."""

    qkv: Array  # (B, T, 3C)
    row_max: Array  # (B, H, T), before scaling
    inv_sum: Array  # (B, H, T)
    drop: dropout.Cache  # its mask is (B, H, T, T)


def forward(qkv: Array, *, n_head: int, past=None, rate: float = 0.0, rng=None,
            out: Array | None = None):  # fmt: skip
    """(B, T, 3C) -> (B, T, C). With `past`, these T positions follow the cached ones.

    The Cache is for backward of complete sequences: it cannot be used if `past` was not empty.
    """
    return forward_with(qkv.dtype, qkv, n_head, past, rate, rng, out)


def backward(dout: Array, cache: Cache, *, dx: Array | None = None):
    """(B, T, C) -> (B, T, 3C)"""
    return backward_with(cache.qkv.dtype, dout, cache, dx)


def forward_with(panels, qkv: Array, n_head: int, past, rate: float, rng, out: Array | None):
    """Run `forward` with panels of this dtype: that of qkv, or uint32 for bfloat16."""
    B, T, C = *qkv.shape[:-1], qkv.shape[-1] // 3
    D = C // n_head
    out = buffer_pool.empty((B, T, C), qkv.dtype) if out is None else out
    row_max, inv_sum = np.empty((2, B, n_head, T), qkv.dtype)
    scale, start = qkv.dtype.type(D**-0.5), past.length if past is not None else 0
    if past is not None:
        for some, count, cache in past.parts(T):
            begin = cache.reserve(count, buffer_pool.empty)
            _append(qkv[some, :count], begin, cache.k, cache.v)
    keep, factor = dropout.draw((B, n_head, T, start + T), qkv.dtype, rate=rate, rng=rng)
    drop = dropout.Cache(keep, factor)
    if start:
        if keep is not None:
            raise ValueError("dropout is for training, which has no past; leave out rng or past")
        _forward_past(qkv, past.k, past.v, start, scale, out)
    else:
        workspace, packed, _, scores = acquire(panels, qkv, n_head)
        _forward(rows(qkv), mask(keep), factor, scale, packed, scores, rows(out), row_max, inv_sum)
        buffer_pool.release(workspace)
    return out, Cache(qkv, row_max, inv_sum, drop)


def backward_with(panels, dout: Array, cache: Cache, dx: Array | None):
    """Run `backward` with panels of this dtype."""
    qkv, row_max, inv_sum, (keep, factor) = cache
    dx = buffer_pool.empty(qkv.shape, dout.dtype) if dx is None else dx
    n_head = row_max.shape[1]
    scale = dout.dtype.type((qkv.shape[-1] // 3 // n_head) ** -0.5)
    workspace, *parts = acquire(panels, dx, n_head)
    _backward(rows(dout), rows(qkv), row_max, inv_sum, mask(keep), factor, scale, *parts, rows(dx))
    buffer_pool.release(workspace)
    return dx


def mask(keep: Array | None) -> Array:
    """Return the mask, or an empty one without dropout: a kernel has one list of types."""
    return np.empty((0, 0, 0, 0), bool) if keep is None else keep


def acquire(panels, qkv: Array, n_head: int) -> list[Array]:
    """Return a workspace, and three arrays in it, each with one part per task.

    Packed operands of a head in panels of this dtype; two sums of the same size; and two strips of
    QUERIES rows of scores.
    """
    B, T, C = qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3
    width = VECTORS * BYTES // qkv.itemsize
    S, D = (-(-T // width) | 1) * width, -(-C // n_head // width) * width
    tasks = min(B * n_head, num_threads())
    shapes = (tasks, 5, (S + MR) * D), (tasks, 2, (S + MR) * D), (tasks, 2, QUERIES, S)
    workspace = buffer_pool.acquire(sum(map(math.prod, shapes)), qkv.dtype)
    parts, first = [], 0
    for shape in shapes:
        parts.append(workspace[first : first + math.prod(shape)].reshape(shape))
        first += math.prod(shape)
    return [workspace, parts[0].view(panels), *parts[1:]]


# Kernels. `x` are the rows of qkv, (B * T, 3C). The queries of head h are in the columns from
# h * D, its keys from C + h * D, its values from 2C + h * D. Right panels are stored one after the
# other. `scores`, `probs` and their gradients have S columns. Row r belongs to query first + r, and
# its first `n_keys` columns are used. S is T rounded up to an odd number of panels: rows that are a
# multiple of a page apart would compete for the same sets of the first-level cache.


@inner
def _pack_keys(x, top, T, left, D, packed):
    """Pack rows top..top + T and columns left..left + D of x into right panels, a lane per row."""
    width, steps = right_width(packed), steps_of(D, packed)
    for s in range(0, T, width):
        pack_along(x, left, D, top + s, min(width, T - s), width, 1, packed, s * steps, 0)


@inner
def _pack_values(x, top, T, left, D, packed):
    """Pack the same rows and columns into right panels, a lane per column."""
    width, steps = right_width(packed), steps_of(T, packed)
    for d in range(0, D, width):
        pack_across(x, top, T, left + d, min(width, D - d), width, 1, packed, d * steps, 0)


@inner
def _multiply_keys(left, D, keys, n_keys, scores, r):
    """Compute MR rows of scores: a left panel (K = D) times the first `n_keys` packed keys."""
    width, steps, S = right_width(scores), steps_of(D, keys), scores.shape[1]
    flat = scores.reshape(-1)
    for s in range(0, n_keys, width):
        microkernel(MR, left, 0, keys, s * steps, width, steps, flat, 0, 0, 0, flat, r * S + s, S,
                    0)  # fmt: skip


@inner
def _multiply_values(left, T, values, n_keys, out, top, height, column, D, corner):
    """Compute rows of a head: a left panel (K = n_keys) times the first of T packed values."""
    width, columns = right_width(out), out.shape[1]
    flat = out.reshape(-1)
    for d in range(0, D, width):
        o = top * columns + column + d
        multiply_panels(left, 0, values, d * steps_of(T, values), width, steps_of(n_keys, values),
                        flat, o, columns, 0, flat, o, columns, height, min(width, D - d), corner,
                        False)  # fmt: skip


@njit
def _forward(x, keep, factor, scale, packed, scores, out, row_max, inv_sum):
    in_parallel(len(packed), _forward_heads,
                (x, keep, factor, scale, packed, scores, out, row_max, inv_sum))  # fmt: skip


@inner
def _forward_heads(task, x, keep, factor, scale, packed, workspace, out, row_max, inv_sum):
    """Compute a task's part of the heads."""
    (B, H, T), C, width, tasks = row_max.shape, out.shape[1], right_width(x), len(packed)
    D = C // H
    keys, values, scores = packed[task, 0], packed[task, 1], workspace[task, 0]
    left = np.empty(LEFT * max(T + width, D), packed.dtype)
    corner = np.empty(MR * width, x.dtype)
    for head in range(task * B * H // tasks, (task + 1) * B * H // tasks):
        b, h, begin = head // H, head % H, head // H * T
        _pack_keys(x, begin, T, C + h * D, D, keys)
        _pack_values(x, begin, T, 2 * C + h * D, D, values)
        for first in range(0, T, MR):
            height = min(MR, T - first)
            n_keys = first + height
            columns = -(-n_keys // width) * width  # of whole vectors
            pack_along(x, h * D, D, begin + first, height, LEFT, 1, left, 0, 0)
            _multiply_keys(left, D, keys, n_keys, scores, 0)
            for r in range(height):
                t = first + r
                row_max[b, h, t], inv_sum[b, h, t] = _softmax(scores, r, t + 1, columns, scale)
                if keep.size:
                    for s in range(t + 1):
                        scores[r, s] *= keep[b, h, t, s] * factor
            pack_along(scores, 0, columns, 0, height, LEFT, 1, left, 0, 0)
            _multiply_values(left, T, values, n_keys, out, begin + first, height, h * D, D, corner)


@njit
def _backward(dout, x, row_max, inv_sum, keep, factor, scale, packed, sums, scores, dx):
    in_parallel(len(packed), _backward_heads,
                (dout, x, row_max, inv_sum, keep, factor, scale, packed, sums, scores,
                 dx))  # fmt: skip


@inner
def _backward_heads(
    task, dout, x, row_max, inv_sum, keep, factor, scale, packed, sums, workspace, dx
):
    """Compute a task's part of the heads."""
    (B, H, T), C, width, tasks = row_max.shape, dout.shape[1], right_width(dx), len(packed)
    D = C // H
    D_padded = -(-D // width) * width
    keys, values, queries, keys_across, douts = (
        packed[task, 0], packed[task, 1], packed[task, 2], packed[task, 3], packed[task, 4],
    )  # fmt: skip
    dk, dv = sums[task, 0], sums[task, 1]
    probs, dprobs = workspace[task, 0], workspace[task, 1]
    left = np.empty(LEFT * max(T, D, QUERIES), packed.dtype)
    corner = np.empty(MR * width, dx.dtype)
    for head in range(task * B * H // tasks, (task + 1) * B * H // tasks):
        b, h, begin = head // H, head % H, head // H * T
        _pack_keys(x, begin, T, C + h * D, D, keys)
        _pack_keys(x, begin, T, 2 * C + h * D, D, values)
        _pack_values(x, begin, T, h * D, D, queries)
        _pack_values(x, begin, T, C + h * D, D, keys_across)
        _pack_values(dout, begin, T, h * D, D, douts)
        dk[:], dv[:] = 0, 0
        for first in range(0, T, QUERIES):
            rows = min(QUERIES, T - first)
            for r in range(0, rows, MR):
                height = min(MR, rows - r)
                n_keys = first + r + height
                pack_along(x, h * D, D, begin + first + r, height, LEFT, 1, left, 0, 0)
                _multiply_keys(left, D, keys, n_keys, probs, r)
                pack_along(dout, h * D, D, begin + first + r, height, LEFT, 1, left, 0, 0)
                _multiply_keys(left, D, values, n_keys, dprobs, r)
            n_keys = first + rows
            for r in range(rows):
                t = first + r
                _softmax_again(probs, r, t + 1, scale, row_max[b, h, t], inv_sum[b, h, t])
                if keep.size:
                    for s in range(t + 1):
                        dprobs[r, s] *= keep[b, h, t, s] * factor
                _softmax_backward(dprobs, probs, r, t + 1, scale)
                dscores = dprobs
                for s in range(t + 1, n_keys):
                    probs[r, s], dscores[r, s] = 0, 0
                if keep.size:
                    for s in range(t + 1):
                        probs[r, s] *= keep[b, h, t, s] * factor
            for s in range(0, n_keys, MR):
                _add_values(probs, T, douts, first, rows, dv, s, D_padded, left)
                _add_values(dscores, T, queries, first, rows, dk, s, D_padded, left)
            for r in range(0, rows, MR):
                height = min(MR, rows - r)
                pack_along(dscores, 0, n_keys, r, height, LEFT, 1, left, 0, 0)
                _multiply_values(left, T, keys_across, n_keys, dx, begin + first + r, height,
                                 h * D, D, corner)  # fmt: skip
        for t in range(T):
            for start, total in ((C + h * D, dk), (2 * C + h * D, dv)):
                dx_row, total_row = dx[begin + t, start : start + D], total[t * D_padded :][:D]
                for d in range(D):
                    dx_row[d] = total_row[d]


@inner
def _add_values(scores, T, values, first, rows, total, s, D_padded, left):
    """Add to MR rows of `total`, from row s on: the columns of the scores from s on, transposed,
    times packed values (K = rows)."""
    width = right_width(total)
    pack_across(scores, 0, rows, s, MR, LEFT, 1, left, 0, 0)
    for d in range(0, D_padded, width):
        q, o = d * steps_of(T, values) + steps_of(first, values) * width, s * D_padded + d
        microkernel(MR, left, 0, values, q, width, steps_of(rows, values), total, o, D_padded, 1,
                    total, o, D_padded, 0)  # fmt: skip


@njit
def _append(qkv, start, k, v):
    in_parallel(BLOCKS, _append_block, (qkv, start, k, v))


@inner
def _append_block(block, qkv, start, k, v):
    """Write a block of positions into the cache, (B, H, capacity, D)."""
    (B, T, _), (_, H, _, D) = qkv.shape, k.shape
    for b in range(B):
        for t in range(block * T // BLOCKS, (block + 1) * T // BLOCKS):
            for h in range(H):
                key, value = qkv[b, t, (H + h) * D :][:D], qkv[b, t, (2 * H + h) * D :][:D]
                k_row, v_row = k[b, h, start + t], v[b, h, start + t]
                for d in range(D):
                    k_row[d] = as_stored(key[d], k)
                for d in range(D):
                    v_row[d] = as_stored(value[d], v)


@njit
def _forward_past(qkv, k, v, start, scale, out):
    in_parallel(k.shape[0] * k.shape[1], _attend, (qkv, k, v, start, scale, out))


@inner
def _attend(head, qkv, k, v, start, scale, out):
    """Compute T new queries of a head against all cached keys, which are not packed."""
    _, H, capacity, D = k.shape
    T, b, h = out.shape[1], head // H, head % H
    scores = np.empty(capacity, qkv.dtype)
    for t in range(T):
        S, columns = start + t + 1, slice(h * D, (h + 1) * D)
        attend_cached(qkv[b, t, columns], k[b, h, :S], v[b, h, :S], capacity * D * k.itemsize,
                      scale, scores[:S], out[b, t, columns])  # fmt: skip


@inner
def _softmax(scores, r, n_keys, columns, scale):
    """scores[r] -> probabilities, in place, and 0 from `n_keys` to `columns`.

    Returns row_max and inv_sum.
    """
    scores[r, n_keys:columns] = -np.inf
    row_max, total = softmax_row(scores[r, :columns], scale)
    inv_sum = scores.dtype.type(1) / total
    for s in range(columns):
        scores[r, s] *= inv_sum
    return row_max, inv_sum


@inner
def _softmax_again(scores, r, n_keys, scale, row_max, inv_sum):
    """scores[r] -> the probabilities of forward, in place."""
    for s in range(n_keys):
        scores[r, s] = exp((scores[r, s] - row_max) * scale) * inv_sum


@inner
def _softmax_backward(dprobs, probs, r, n_keys, scale):
    """dprobs[r] -> the gradient of the scores, in place."""
    total = probs.dtype.type(0)
    for s in range(n_keys):
        total += dprobs[r, s] * probs[r, s]
    for s in range(n_keys):
        dprobs[r, s] = probs[r, s] * (dprobs[r, s] - total) * scale
