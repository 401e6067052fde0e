"""Attention, one head at a time, block by block. What it computes is in npgpt/ops/attention.py.

The T x T probabilities never exist whole. Forward makes a few rows of scores at a time, against the
keys up to them only, and keeps of each row two numbers: top, its largest score, and share, one over
the sum that softmax divides by. Backward makes the same rows again, exp(score - top) * share. That
is FlashAttention's bargain (Dao et al. 2022, arXiv:2205.14135), memory for a second product, but
without its running maximum, since a row of scores fits into a core's cache; and with two numbers
where it keeps their logarithm, which loses digits when scores are large. Each head is one task and
writes only its own columns, so the bits do not depend on the number of threads.
"""

import math
from typing import NamedTuple

import numba
import numpy as np

from npgpt.arrays import Array, rows
from npgpt.fused import dropout
from npgpt.kernels import buffer_pool
from npgpt.kernels.cpu import BYTES
from npgpt.kernels.gemm_microkernel import LEFT, ROWS, VECTORS, tile
from npgpt.kernels.jit import inner, njit
from npgpt.kernels.math import exp, largest
from npgpt.kernels.packing import pack_across, pack_along, put, right_width, steps_of
from npgpt.kernels.parallel import in_parallel

QUERIES = 4 * ROWS  # of backward, at a time, an even number: 56 rows of 1024 scores are 224 KB


class Cache(NamedTuple):
    """Not the NumPy backend's: 2 T numbers a head instead of T x T."""

    qkv: Array  # (B, T, 3C)
    top: Array  # (B, H, T), before scaling
    share: Array  # (B, H, T)
    drop: dropout.Cache  # its mask is (B, H, T, T)


def forward(qkv: Array, *, n_head: int, past=None, rate: float = 0.0, rng=None,
            out: Array | None = None):  # fmt: skip
    """(B, T, 3C) -> (B, T, C). With `past`, these T positions follow the ones it remembers.

    Going backward is for whole sequences: with a past that was not empty, the Cache serves nobody.
    """
    return forward_with(qkv.dtype, qkv, n_head, past, rate, rng, out)


def backward(dout: Array, cache: Cache, *, dx: Array | None = None):
    """(B, T, C) -> (B, T, 3C)"""
    return backward_with(cache.qkv.dtype, dout, cache, dx)


def forward_with(kind, qkv: Array, n_head: int, past, rate: float, rng, out: Array | None):
    """`forward`, its products of panels of this dtype: qkv's own, or uint32 for pairs of bfloat16
    numbers."""
    B, T, C = *qkv.shape[:-1], qkv.shape[-1] // 3
    D = C // n_head
    out = buffer_pool.empty((B, T, C), qkv.dtype) if out is None else out
    top, share = np.empty((2, B, n_head, T), qkv.dtype)
    scale, start = qkv.dtype.type(D**-0.5), past.length if past is not None else 0
    if past is not None:
        k, v = (part.reshape(B, T, n_head, D).transpose(0, 2, 1, 3) for part in
                (qkv[..., C : 2 * C], qkv[..., 2 * C :]))  # fmt: skip
        past.append(k, v)
    keep, factor = dropout.draw((B, n_head, T, start + T), qkv.dtype, rate=rate, rng=rng)
    drop = dropout.Cache(keep, factor)
    if start:
        if keep is not None:
            raise ValueError("dropout is for training, which has no past; leave out rng or past")
        _forward_past(qkv, past.k, past.v, start, scale, out)
    else:
        room, panels, _, space = workspace(kind, qkv, n_head)
        _forward(rows(qkv), mask(keep), factor, scale, panels, space, rows(out), top, share)
        buffer_pool.release(room)
    return out, Cache(qkv, top, share, drop)


def backward_with(kind, dout: Array, cache: Cache, dx: Array | None):
    """`backward`, its products of such panels."""
    qkv, top, share, (keep, factor) = cache
    dx = buffer_pool.empty_like(qkv) if dx is None else dx
    n_head = top.shape[1]
    scale = qkv.dtype.type((qkv.shape[-1] // 3 // n_head) ** -0.5)
    room, *parts = workspace(kind, qkv, n_head)
    _backward(rows(dout), rows(qkv), top, share, mask(keep), factor, scale, *parts, rows(dx))
    buffer_pool.release(room)
    return dx


def mask(keep: Array | None) -> Array:
    """The mask, or an empty one where nothing is dropped: a kernel takes an array either way."""
    return np.empty((0, 0, 0, 0), bool) if keep is None else keep


def workspace(kind, qkv: Array, n_head: int) -> list[Array]:
    """What buffer_pool lent, and in it for every task the packed parts of a head, in panels of this
    dtype; two sums of as many numbers; and twice QUERIES rows of scores."""
    B, T, C = qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3
    wide = VECTORS * BYTES // qkv.itemsize
    S, D = (-(-T // wide) | 1) * wide, -(-C // n_head // wide) * wide
    tasks = min(B * n_head, numba.get_num_threads())
    shapes = (tasks, 5, (S + ROWS) * D), (tasks, 2, (S + ROWS) * D), (tasks, 2, QUERIES, S)
    room = buffer_pool.acquire(sum(map(math.prod, shapes)), qkv.dtype)
    parts, first = [], 0
    for shape in shapes:
        parts.append(room[first : first + math.prod(shape)].reshape(shape))
        first += math.prod(shape)
    return [room, parts[0].view(kind), *parts[1:]]


# Kernels. `x` are the rows of qkv, (B * T, 3C), a head's queries in the columns from h * D, its
# keys from C + h * D, its values from 2C + h * D. Right panels lie one after the other.
# `scores`, `probs` and their gradients are rows of S columns, of which row r belongs to query
# first + r and the first `seen` columns count. S is T rounded up to an odd number of panels: rows a
# whole number of pages apart would meet in the same few places of the first cache.


@inner
def _pack_keys(x, top, T, left, D, packed):
    """Rows top..top + T and columns left..left + D of x as right panels: a lane for every row."""
    wide, steps = right_width(x), steps_of(D, packed)
    for s in range(0, T, wide):
        pack_along(x, left, D, top + s, min(wide, T - s), wide, 1, packed, s * steps, 0)


@inner
def _pack_values(x, top, T, left, D, packed):
    """The same rows and columns as right panels with a lane for every column."""
    wide, steps = right_width(x), steps_of(T, packed)
    for d in range(0, D, wide):
        pack_across(x, top, T, left + d, min(wide, D - d), wide, 1, packed, d * steps, 0)


@inner
def _multiply_keys(left, D, keys, seen, scores, r):
    """ROWS rows of scores: a left panel of D terms times `seen` packed keys."""
    wide, steps, S = right_width(scores), steps_of(D, keys), scores.shape[1]
    flat = scores.reshape(-1)
    for s in range(0, seen, wide):
        tile(left, 0, keys, s * steps, wide, steps, flat, 0, 0, 0, flat, r * S + s, S, 0)


@inner
def _multiply_values(left, T, values, terms, out, top, height, column, D, corner):
    """Rows of a head: a left panel of `terms` rows of the values, of which T are packed."""
    wide, columns = right_width(out), out.shape[1]
    flat = out.reshape(-1)
    for d in range(0, D, wide):
        o = top * columns + column + d
        put(left, 0, values, d * steps_of(T, values), wide, steps_of(terms, values),
            flat, o, columns, 0, flat, o, columns, height, min(wide, D - d), corner,
            False)  # fmt: skip


@njit
def _forward(x, keep, factor, scale, panels, space, out, top, share):
    in_parallel(len(panels), _forward_heads,
                (x, keep, factor, scale, panels, space, out, top, share))  # fmt: skip


@inner
def _forward_heads(task, x, keep, factor, scale, panels, space, out, top, share):
    """A task's share of the heads."""
    (B, H, T), C, tasks = top.shape, out.shape[1], len(panels)
    D = C // H
    keys, values, scores = panels[task, 0], panels[task, 1], space[task, 0]
    left = np.empty(LEFT * max(T, D), panels.dtype)
    corner = np.empty(ROWS * right_width(x), x.dtype)
    for head in range(task * B * H // tasks, (task + 1) * B * H // tasks):
        b, h, begin = head // H, head % H, head // H * T
        _pack_keys(x, begin, T, C + h * D, D, keys)
        _pack_values(x, begin, T, 2 * C + h * D, D, values)
        for first in range(0, T, ROWS):
            height = min(ROWS, T - first)
            seen = first + height
            pack_along(x, h * D, D, begin + first, height, LEFT, 1, left, 0, 0)
            _multiply_keys(left, D, keys, seen, scores, 0)
            for r in range(height):
                t = first + r
                top[b, h, t], share[b, h, t] = _softmax(scores, r, t + 1, seen, scale)
                if keep.size:
                    for s in range(t + 1):
                        scores[r, s] *= keep[b, h, t, s] * factor
            pack_along(scores, 0, seen, 0, height, LEFT, 1, left, 0, 0)
            _multiply_values(left, T, values, seen, out, begin + first, height, h * D, D, corner)


@njit
def _backward(dout, x, top, share, keep, factor, scale, panels, sums, space, dx):
    in_parallel(len(panels), _backward_heads,
                (dout, x, top, share, keep, factor, scale, panels, sums, space, dx))  # fmt: skip


@inner
def _backward_heads(task, dout, x, top, share, keep, factor, scale, panels, sums, space, dx):
    """A task's share of the heads."""
    (B, H, T), C, wide, tasks = top.shape, dout.shape[1], right_width(x), len(panels)
    D = C // H
    D_wide = -(-D // wide) * wide
    keys, values, queries, keys_across, douts = (
        panels[task, 0], panels[task, 1], panels[task, 2], panels[task, 3], panels[task, 4],
    )  # fmt: skip
    dk, dv = sums[task, 0], sums[task, 1]
    probs, dprobs = space[task, 0], space[task, 1]
    left = np.empty(LEFT * max(T, D, QUERIES), panels.dtype)
    corner = np.empty(ROWS * wide, x.dtype)
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
            for r in range(0, rows, ROWS):
                height = min(ROWS, rows - r)
                seen = first + r + height
                pack_along(x, h * D, D, begin + first + r, height, LEFT, 1, left, 0, 0)
                _multiply_keys(left, D, keys, seen, probs, r)
                pack_along(dout, h * D, D, begin + first + r, height, LEFT, 1, left, 0, 0)
                _multiply_keys(left, D, values, seen, dprobs, r)
            seen = first + rows
            for r in range(rows):
                t = first + r
                _softmax_again(probs, r, t + 1, scale, top[b, h, t], share[b, h, t])
                if keep.size:
                    for s in range(t + 1):
                        dprobs[r, s] *= keep[b, h, t, s] * factor
                _softmax_backward(dprobs, probs, r, t + 1, scale)
                dscores = dprobs
                for s in range(t + 1, seen):
                    probs[r, s], dscores[r, s] = 0, 0
                if keep.size:
                    for s in range(t + 1):
                        probs[r, s] *= keep[b, h, t, s] * factor
            for s in range(0, seen, ROWS):
                _add_values(probs, T, douts, first, rows, dv, s, D_wide, left)
                _add_values(dscores, T, queries, first, rows, dk, s, D_wide, left)
            for r in range(0, rows, ROWS):
                height = min(ROWS, rows - r)
                pack_along(dscores, 0, seen, r, height, LEFT, 1, left, 0, 0)
                _multiply_values(left, T, keys_across, seen, dx, begin + first + r, height,
                                 h * D, D, corner)  # fmt: skip
        for t in range(T):
            for start, total in ((C + h * D, dk), (2 * C + h * D, dv)):
                home, some = dx[begin + t, start : start + D], total[t * D_wide :][:D]
                for d in range(D):
                    home[d] = some[d]


@inner
def _add_values(scores, T, values, first, terms, total, s, D_wide, left):
    """ROWS rows of `total` from s on += as many columns of the scores, from s on, transposed, times
    packed values: D_wide columns each."""
    wide = right_width(total)
    pack_across(scores, 0, terms, s, ROWS, LEFT, 1, left, 0, 0)
    for d in range(0, D_wide, wide):
        q, o = d * steps_of(T, values) + steps_of(first, values) * wide, s * D_wide + d
        tile(left, 0, values, q, wide, steps_of(terms, values), total, o, D_wide, 1,
             total, o, D_wide, 0)  # fmt: skip


@njit
def _forward_past(qkv, k, v, start, scale, out):
    in_parallel(k.shape[0] * k.shape[1], _attend, (qkv, k, v, start, scale, out))


@inner
def _attend(head, qkv, k, v, start, scale, out):
    """A few new queries against many remembered keys: every key is read once, as it lies."""
    _, H, T_max, D = k.shape
    T, b, h = out.shape[1], head // H, head % H
    zero = qkv.dtype.type(0)
    scores, y = np.empty((1, T_max), qkv.dtype), np.empty(D, qkv.dtype)
    for t in range(T):
        seen = start + t + 1
        for s in range(seen):
            total = zero
            for d in range(D):
                total += qkv[b, t, h * D + d] * k[b, h, s, d]
            scores[0, s] = total
        _softmax(scores, 0, seen, seen, scale)
        y[:] = 0
        for s in range(seen):
            for d in range(D):
                y[d] += scores[0, s] * v[b, h, s, d]
        for d in range(D):
            out[b, t, h * D + d] = y[d]


@inner
def _softmax(scores, r, seen, width, scale):
    """scores[r] -> probabilities, in place; 0 from `seen` to `width`. Returns top and share."""
    zero, one = scores.dtype.type(0), scores.dtype.type(1)
    top = largest(scores[r, :seen])
    total = zero
    for s in range(seen):
        e = exp((scores[r, s] - top) * scale)
        scores[r, s] = e
        total += e
    share = one / total
    for s in range(seen):
        scores[r, s] *= share
    for s in range(seen, width):
        scores[r, s] = zero
    return top, share


@inner
def _softmax_again(scores, r, seen, scale, top, share):
    """scores[r] -> the probabilities of forward, in place, without looking for top and share."""
    for s in range(seen):
        scores[r, s] = exp((scores[r, s] - top) * scale) * share


@inner
def _softmax_backward(dprobs, probs, r, seen, scale):
    """dprobs[r] -> the gradient of the scores, in place."""
    total = probs.dtype.type(0)
    for s in range(seen):
        total += dprobs[r, s] * probs[r, s]
    for s in range(seen):
        dprobs[r, s] = probs[r, s] * (dprobs[r, s] - total) * scale
