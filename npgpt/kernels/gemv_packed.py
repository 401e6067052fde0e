"""gemv_batch.py for CPUs with 16 registers, where a task's columns of b come from memory in rows.

Rows of b are some KB apart, often a multiple of 4 KB: a part of them, read in place, falls into a
few sets of the first-level cache, and every tile would read it from the second-level one again.
So each part is copied once, tile after tile, and all panels of a meet the copy. Up to 2 ROWS rows
of a are done with a line of b before it is evicted, and need no copy.

The sums are added in the order of gemv.py.
"""

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from npgpt.arrays import LINE
from npgpt.kernels.cpu import BYTES
from npgpt.kernels.gemv import PARTS, add_rest, part_start
from npgpt.kernels.gemv_tile import EDGE, ROWS, VECTORS, multiply_tile
from npgpt.kernels.jit import inner
from npgpt.kernels.llvm import (
    broadcast,
    index,
    load,
    multiply_add,
    pointer_to,
    prefetch,
    store,
    vector,
    widen,
)

K_STREAMED = 4  # rows of b that are read together: eight of them could fill a set of the cache
ROWS_AHEAD = 16  # of b, between reading and prefetching
LONGER = 3  # rows of a part than K // PARTS, at most: whole pairs, and the last of an odd K


@inner
def multiply_copied(a, b, first, last, next_address, totals):
    """multiply_columns in gemv_batch.py, from a copy of each part of b.

    The lines of the next part are prefetched one per step of k, by as many tiles as it takes.
    """
    (K, N), width, row = b.shape, totals.shape[1], b.shape[1] * b.itemsize
    panels, vector, count = len(totals) // ROWS, BYTES // totals.itemsize, last - first
    tile, edge = VECTORS * vector, EDGE * vector
    tiles = count // tile
    edges = (count - tiles * tile) // edge
    calls, lines = panels * (tiles + edges), -(-count * b.itemsize // LINE)
    rest = tiles * tile + edges * edge
    b_flat, flat, sums = b.reshape(-1), totals.reshape(-1), np.empty(count - rest, totals.dtype)
    copied = np.empty((K // PARTS + LONGER) * rest, totals.dtype)
    totals[:] = 0
    for part in range(PARTS):
        k, end = part_start(part, K, b), part_start(part + 1, K, b)
        steps, ahead = end - k, next_address
        if part + 1 < PARTS:
            ahead = b.ctypes.data + end * row + first * b.itemsize
        for step in range(steps):
            at = (k + step) * N + first
            for piece in range(tiles):
                column = piece * tile
                copy_vectors(VECTORS, b_flat, at + column, copied, column * steps + step * tile)
            for piece in range(edges):
                column = tiles * tile + piece * edge
                copy_vectors(EDGE, b_flat, at + column, copied, column * steps + step * edge)
        call = 0
        for piece in range(tiles + edges):
            column = min(piece, tiles) * tile + max(0, piece - tiles) * edge
            for panel in range(panels):
                p, o = (panel * K + k) * ROWS, panel * ROWS * width + column
                done = call * lines // calls  # of the lines that are prefetched
                call += 1
                more = call * lines // calls > done
                if piece >= tiles:
                    multiply_tile(EDGE, a, p, copied, column * steps, edge, steps, 0, flat, o,
                                  width, 0, 0, 0)  # fmt: skip
                elif more:
                    multiply_tile(VECTORS, a, p, copied, column * steps, tile, steps, 0, flat, o,
                                  width, ahead + done * LINE, row, 1)  # fmt: skip
                else:
                    multiply_tile(VECTORS, a, p, copied, column * steps, tile, steps, 0, flat, o,
                                  width, 0, 0, 0)  # fmt: skip
        add_rests(a, b, k, end, first + rest, totals, rest, sums)


@inner
def multiply_streamed(a, b, first, last, next_address, totals):
    """multiply_columns in gemv_batch.py for two panels of a: they meet every line of b as it comes
    from memory. Sums of a part are in the first-level cache."""
    (K, N), width, row = b.shape, totals.shape[1], b.shape[1] * b.itemsize
    lines = (last - first) * b.itemsize // LINE
    rest = lines * (LINE // b.itemsize)
    b_flat, sums = b.reshape(-1), np.empty(last - first - rest, totals.dtype)
    flat, partial = totals.reshape(-1), np.empty(2 * ROWS * width, totals.dtype)
    totals[:] = 0
    for part in range(PARTS):
        k, end = part_start(part, K, b), part_start(part + 1, K, b)
        partial[:] = 0
        full = k + (end - k) // K_STREAMED * K_STREAMED
        for kk in range(k, full, K_STREAMED):
            following = kk + ROWS_AHEAD
            ahead = b.ctypes.data + following * row + first * b.itemsize
            if following >= K:
                ahead = next_address + (following - K) * row
            add_rows(K_STREAMED, a, kk * ROWS, K * ROWS, b_flat, kk * N + first, N, lines, ahead,
                     partial, width)  # fmt: skip
        for kk in range(full, end):
            add_rows(1, a, kk * ROWS, K * ROWS, b_flat, kk * N + first, N, lines, next_address,
                     partial, width)  # fmt: skip
        for n in range(len(partial)):
            flat[n] += partial[n]
        add_rests(a, b, k, end, first + rest, totals, rest, sums)


@inner
def add_rests(a, b, k, end, left, totals, rest, sums):
    """totals[:, rest:] += a[:, k:end] @ b[k:end, left:], in columns that fill no vector."""
    K = len(b)
    for i in range(len(totals) if len(sums) else 0):
        sums[:] = 0
        add_rest(a, (i // ROWS * K + k) * ROWS + i % ROWS, ROWS, b, k, end, left, sums)
        total = totals[i, rest:]
        for j in range(len(sums)):
            total[j] += sums[j]


@intrinsic(prefer_literal=True)
def copy_vectors(context, count, x, i, out, o):
    """out[o + n] = x[i + n] for n < `count` vectors of `out`, a constant; bfloat16 is widened."""
    signature = types.void(count, x, types.intp, out, types.intp)

    def generate(context, builder, signature, values):
        _, x, i, out, o = values
        count, kind, _, dst, _ = signature.args
        lanes = vector(dst).count
        for n in range(0, count.literal_value * lanes, lanes):
            value = load(
                builder, pointer_to(context, builder, kind, x, builder.add(i, index(n)), lanes)
            )
            store(builder, widen(builder, value),
                  pointer_to(context, builder, dst, out, builder.add(o, index(n))))  # fmt: skip
        return context.get_dummy_value()

    return signature, generate


@intrinsic(prefer_literal=True)
def add_rows(context, K, a, i, a_stride, b, j, stride, lines, ahead, out, width):
    """out[r width + n] += sum of k < K of a_r[k] * b[j + k stride + n], for r < 2 ROWS and all n in
    the first `lines` cache lines of b. a_r[k] is in a panel: a[i + r // ROWS a_stride + k ROWS +
    r % ROWS].

    As many lines are prefetched: `lines` of K rows, the first at the address `ahead`. b may be
    bfloat16 (its bits in uint16). `K` is a constant. Arrays are flat.
    """
    signature = types.void(
        K, a, types.intp, types.intp, b, types.intp, types.intp, types.intp, types.intp, out,
        types.intp,
    )  # fmt: skip

    def generate(context, builder, signature, values):
        _, a, i, a_stride, b, j, stride, lines, ahead, out, width = values
        K, *kinds = signature.args
        ks, lanes = range(K.literal_value), vector(kinds[8]).count
        itemsize = kinds[3].dtype.bitwidth // 8
        panels = [builder.add(i, builder.mul(index(p), a_stride)) for p in range(2)]
        rows = [builder.mul(index(k), stride) for k in ks]
        with cgutils.for_range(builder, lines) as loop:
            start = builder.mul(loop.index, index(LINE // itemsize))
            for row in rows:
                at = builder.add(ahead, builder.mul(builder.add(row, start), index(itemsize)))
                pointer = builder.inttoptr(at, ir.IntType(8).as_pointer())
                prefetch(builder, pointer, write=0, locality=2)
            for n in range(0, LINE // itemsize, lanes):
                column = builder.add(start, index(n))
                pointers = [
                    pointer_to(
                        context, builder, kinds[8], out,
                        builder.add(builder.mul(index(r), width), column),
                    )
                    for r in range(2 * ROWS)
                ]  # fmt: skip
                sums = [load(builder, pointer) for pointer in pointers]
                for k in ks:
                    at = builder.add(builder.add(j, rows[k]), column)
                    read = load(builder, pointer_to(context, builder, kinds[3], b, at, lanes))
                    read = widen(builder, read)
                    for r in range(2 * ROWS):
                        at = builder.add(panels[r // ROWS], index(k * ROWS + r % ROWS))
                        factor = broadcast(context, builder, kinds[0], a, at)
                        sums[r] = multiply_add(builder, factor, read, sums[r])
                for total, pointer in zip(sums, pointers, strict=True):
                    store(builder, total, pointer)
        return context.get_dummy_value()

    return signature, generate
