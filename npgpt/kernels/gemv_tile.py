"""The register block of products with a batch: ROWS rows of a times a few vectors of b's columns.

    total += sum over k of outer(a[:, k], b[k, :])        ROWS x (`vectors` vectors)

All sums stay in registers while k runs, as in gemm_microkernel.py, but b is read where it is
stored: a batch multiplies every number of it too few times to pay for packing.
"""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from npgpt.arrays import LINE
from npgpt.kernels.cpu import REGISTERS
from npgpt.kernels.llvm import (
    broadcast,
    index,
    load,
    multiply_add,
    pairs_in_lanes,
    pointer_to,
    prefetch,
    restore_lanes,
    store,
    vector,
    widen,
)

ROWS = 8 if REGISTERS == 32 else 4
VECTORS = 3  # 8 x 3 sums, 3 vectors of b and a factor: 28 registers
EDGE = 2  # vectors of the smaller tile at the end of a row of b, and of all tiles of pairs


@intrinsic(prefer_literal=True)
def multiply_tile(
    context, vectors, a, i, b, j, stride, K, zeros, out, o, width, ahead, ahead_stride, lines
):
    """out[o + r width + n] += sum of k < K of a[i + k ROWS + r] * b[j + k stride + n], for
    r < ROWS and n < `vectors` vectors. The sum begins with 0, and is then added to `out`.

    b may be bfloat16 (its bits in uint16). If a holds pairs (uint32), those of k = 2i and 2i + 1, b
    is bfloat16, and for an odd K the last pair's second row is at b[zeros], as if it were the row
    before it plus `zeros`. `vectors` is a constant, with pairs at most EDGE. Arrays are flat.

    With every row of b, `lines` cache lines are prefetched at the address `ahead`, which moves on
    by `ahead_stride` bytes; `lines` may be a constant.
    """
    signature = types.void(
        vectors, a, types.intp, b, types.intp, types.intp, types.intp, types.intp, out, types.intp,
        types.intp, types.intp, types.intp, lines,
    )  # fmt: skip

    def generate(context, builder, signature, values):
        _, a, i, b, j, stride, K, zeros, out, o, width, ahead, ahead_stride, lines = values
        count, *kinds = signature.args
        pairs = kinds[0].dtype == types.uint32
        vectors = range(min(EDGE, count.literal_value) if pairs else count.literal_value)
        kind = vector(kinds[7])
        lanes, rows_read = kind.count, 2 if pairs else 1
        zero = ir.Constant(kind, None)
        sums = [cgutils.alloca_once(builder, kind) for _ in range(ROWS) for _ in vectors]
        for total in sums:
            builder.store(zero, total)

        def line_of(row, n, lanes):
            return load(
                builder, pointer_to(context, builder, kinds[2], b, builder.add(row, n), lanes)
            )

        def prefetch_rows(at):
            for _ in range(rows_read):
                address = builder.inttoptr(at, ir.IntType(8).as_pointer())
                prefetch(builder, address, write=0, locality=2)
                at = builder.add(at, ahead_stride)

        steps = builder.udiv(builder.add(K, index(rows_read - 1)), index(rows_read))
        with cgutils.for_range(builder, steps) as loop:
            k = builder.mul(loop.index, index(rows_read))
            row = builder.add(j, builder.mul(k, stride))
            next_line = builder.add(ahead, builder.mul(k, ahead_stride))
            if isinstance(kinds[-1], types.IntegerLiteral):
                for one in range(kinds[-1].literal_value):
                    prefetch_rows(builder.add(next_line, index(one * LINE)))
            else:
                with cgutils.for_range(builder, lines) as one:
                    prefetch_rows(builder.add(next_line, builder.mul(one.index, index(LINE))))
            if pairs:
                is_pair = builder.icmp_signed("<", builder.add(k, index(1)), K)
                second = builder.add(row, builder.select(is_pair, stride, zeros))
                read = []
                for v in vectors[::2]:
                    both = (line_of(x, index(v * lanes), 2 * lanes) for x in (row, second))
                    read += pairs_in_lanes(builder, *both)
            else:
                read = [line_of(row, index(v * lanes), lanes) for v in vectors]
                read = [widen(builder, value) for value in read]
            first = builder.add(i, builder.mul(loop.index, index(ROWS)))
            for r in range(ROWS):
                factor = broadcast(context, builder, kinds[0], a, builder.add(first, index(r)))
                for total, value in zip(sums[r * len(vectors) :], read, strict=False):
                    more = multiply_add(builder, factor, value, builder.load(total))
                    builder.store(more, total)
        for r in range(ROWS):
            found = [builder.load(x) for x in sums[r * len(vectors) : (r + 1) * len(vectors)]]
            if pairs:
                found = [x for v in vectors[::2] for x in restore_lanes(builder, *found[v : v + 2])]
            for v, value in zip(vectors, found, strict=True):
                at = builder.add(builder.add(o, builder.mul(index(r), width)), index(v * lanes))
                pointer = pointer_to(context, builder, kinds[7], out, at)
                store(builder, builder.fadd(load(builder, pointer), value), pointer)
        return context.get_dummy_value()

    return signature, generate
