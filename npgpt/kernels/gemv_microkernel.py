"""The microkernels of skinny products (gemv.py), which read a matrix once, in the order in which it
is stored."""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from npgpt.arrays import LINE
from npgpt.kernels.cpu import BYTES, REGISTERS
from npgpt.kernels.llvm import (
    broadcast,
    horizontal_sum,
    index,
    load,
    multiply_add,
    pairs_in_order,
    pointer_to,
    prefetch_lines,
    store,
    vector,
    widen,
)

GROUP = 4  # rows of a that share one read of b, if there are as many
K_SINGLE, K_GROUP = 4, 8  # rows of b read together, for a single row of a and for a group
COLUMNS = 2  # vectors of b that a group adds up together: 4 x 2 sums fit into 16 registers
DOT_ROWS = 4 if REGISTERS == 32 else 2  # rows of a in `dots`, with four sums each


@intrinsic(prefer_literal=True)
def add_products(
    context, rows, K, a, i, a_stride, b, j, b_stride, last, lines, ahead, out, o, stride
):  # fmt: skip
    """out[o + r stride + n] += sum of k < K of a[i + r a_stride + k] * b[j + k b_stride + n], for
    r < rows and all n in the first `lines` cache lines of b.

    A line of each row of b is read before the next one: b arrives from memory evenly. The elements
    of a single row of a stay in registers. b may be bfloat16 (its bits in uint16). If a holds pairs
    (uint32), they are counted in a, those of k = 2i and 2i + 1 of b; and the last row of b is
    `last` behind the one before it. `rows` and `K` are constants. Arrays are flat.

    From the address `ahead` on, as many lines are prefetched as are read.
    """
    signature = types.void(
        rows, K, a, types.intp, types.intp, b, types.intp, types.intp, types.intp, types.intp,
        types.intp, out, types.intp, types.intp,
    )  # fmt: skip

    def generate(context, builder, signature, values):
        _, _, a, i, a_stride, b, j, b_stride, last, lines, ahead, out, o, stride = values
        count, K, *kinds = signature.args
        rows, pairs = range(count.literal_value), kinds[0].dtype == types.uint32
        ks = range(0, K.literal_value, 2 if pairs else 1)
        lanes, line = vector(kinds[9]).count, LINE * 8 // kinds[3].dtype.bitwidth
        lefts = range(0, line, COLUMNS * lanes)

        def at(number, array, start, stride, times, more, lanes=lanes):
            position = builder.add(builder.add(start, builder.mul(times, stride)), more)
            return pointer_to(context, builder, kinds[number], array, position, lanes)

        def factor(r, step):
            position = builder.add(builder.add(i, builder.mul(r, a_stride)), index(step))
            return broadcast(context, builder, kinds[0], a, position)

        def read_pairs(k, n):
            """Return the pairs of two rows, in two vectors."""
            first = builder.add(builder.add(j, builder.mul(index(k), b_stride)), n)
            second = builder.add(first, last if k == ks[-1] else b_stride)
            both = (
                pointer_to(context, builder, kinds[3], b, x, 2 * lanes) for x in (first, second)
            )
            return pairs_in_order(builder, *(load(builder, pointer) for pointer in both))

        held = [factor(index(0), step) for step in range(len(ks))] if len(rows) == 1 else None
        numbers = [index(r) for r in rows]
        with cgutils.for_range(builder, lines) as loop:
            if prefetches(len(rows), kinds[3]):
                prefetch_lines(builder, ahead, loop.index, K.literal_value)
            start = builder.mul(loop.index, index(line))
            for left in lefts:
                columns = range(left, min(line, left + COLUMNS * lanes), lanes)
                columns = [builder.add(start, index(n)) for n in columns]
                pointers = [at(9, out, o, stride, r, n) for r in numbers for n in columns]
                sums = [load(builder, pointer) for pointer in pointers]
                for step, k in enumerate(ks):
                    if pairs:
                        read = read_pairs(k, columns[0])
                    else:
                        read = [load(builder, at(3, b, j, b_stride, index(k), n)) for n in columns]
                        read = [widen(builder, value) for value in read]
                    for r, row in enumerate(numbers):
                        times = held[step] if held else factor(row, step)
                        for n, value in enumerate(read, r * len(columns)):
                            sums[n] = multiply_add(builder, times, value, sums[n])
                for total, pointer in zip(sums, pointers, strict=True):
                    store(builder, total, pointer)
        return context.get_dummy_value()

    return signature, generate


@intrinsic(prefer_literal=True)
def dots(context, rows, a, i, a_stride, b, j, b_stride, lines, ahead, count, out, o, stride):
    """out[o + r stride + c] = sum of a[i + r a_stride + n] * b[j + c b_stride + n] over `lines`
    cache lines of b, for r < rows and c < 4: the same for a transposed b. Pairs (uint32) of a are
    multiplied with pairs of b.

    With every line of the four rows, `count` lines are prefetched from the address `ahead` on;
    `count` may be a constant.
    """
    signature = types.void(
        rows, a, types.intp, types.intp, b, types.intp, types.intp, types.intp, types.intp,
        count, out, types.intp, types.intp,
    )  # fmt: skip

    def generate(context, builder, signature, values):
        _, a, i, a_stride, b, j, b_stride, lines, ahead, count, out, o, stride = values
        row_count, *kinds = signature.args
        four, rows = range(4), range(row_count.literal_value)
        kind, line = vector(kinds[9]), LINE * 8 // kinds[3].dtype.bitwidth
        pairs = kinds[0].dtype == types.uint32
        span = kind.count * (2 if pairs else 1)  # numbers of b in a vector

        def at(number, array, start, stride, times, more, lanes):
            position = builder.add(builder.add(start, builder.mul(index(times), stride)), more)
            return pointer_to(context, builder, kinds[number], array, position, lanes)

        def read_b(c, n):
            value = load(builder, at(3, b, j, b_stride, c, n, span))
            return builder.bitcast(value, vector(kinds[0])) if pairs else widen(builder, value)

        zero = ir.Constant(kind, None)
        sums = [cgutils.alloca_once_value(builder, zero) for _ in (*rows, *rows, *rows, *rows)]
        for total in sums:
            builder.store(zero, total)
        with cgutils.for_range(builder, lines) as loop:
            if prefetches(len(rows), kinds[3]):
                if isinstance(kinds[8], types.IntegerLiteral):
                    prefetch_lines(builder, ahead, loop.index, kinds[8].literal_value)
                else:
                    done = builder.mul(loop.index, count)
                    with cgutils.for_range(builder, count) as one:
                        prefetch_lines(builder, ahead, builder.add(done, one.index), 1)
            for lane in range(0, line, span):
                n = builder.add(builder.mul(loop.index, index(line)), index(lane))
                step = builder.udiv(n, index(span // kind.count))
                factors = [load(builder, at(0, a, i, a_stride, r, step, kind.count)) for r in rows]
                for c in four:
                    value = read_b(c, n)
                    for r in rows:
                        total = sums[4 * r + c]
                        more = multiply_add(builder, factors[r], value, builder.load(total))
                        builder.store(more, total)
        for r in rows:
            for c in four:
                position = builder.add(builder.add(o, builder.mul(index(r), stride)), index(c))
                data = context.make_array(kinds[9])(context, builder, out).data
                builder.store(horizontal_sum(builder, builder.load(sums[4 * r + c])),
                              builder.gep(data, [position]))  # fmt: skip
        return context.get_dummy_value()

    return signature, generate


def prefetches(rows: int, kind) -> bool:
    """Return True if b is prefetched: with AVX-512 always, with AVX2 not float32 for one row.

    Zen's own prefetchers are faster there. With more work per byte they look less far ahead, so
    four rows and bfloat16 are prefetched (docs/kernels.md#skinny-products).
    """
    return BYTES == LINE or rows > 1 or kind.dtype.bitwidth < 32
