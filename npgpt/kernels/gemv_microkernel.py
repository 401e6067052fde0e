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
    pointer_to,
    prefetch_lines,
    store,
    vector,
    widen,
)

GROUP = 4  # rows of a that share one read of b, if there are as many
K_SINGLE, K_GROUP = 4, 8  # rows of b read together, for a single row of a and for a group
K_GROUPS = 8 if REGISTERS == 32 else 16  # for two groups or more
COLUMNS = 2  # vectors of b that a group adds up together: 4 x 2 sums fit into 16 registers
DOT_ROWS = 4 if REGISTERS == 32 else 2  # rows of a in `dots`, with four sums each


@intrinsic(prefer_literal=True)
def add_products(
    context, rows, K, groups, a, i, a_stride, b, j, b_stride, lines, ahead, out, o, stride
):  # fmt: skip
    """out[o + r stride + n] += sum of k < K of a[i + r a_stride + k] * b[j + k b_stride + n], for
    r < rows * groups and all n in the first `lines` cache lines of b.

    A line of each row of b is read, and all groups use it before the next line: b arrives from
    memory evenly, and is multiplied meanwhile. The elements of a single row of a stay in registers.
    b may be bfloat16 (its bits in uint16) or int8. `rows` and `K` are constants. Arrays are flat.

    From the address `ahead` on, as many lines are prefetched as are read. With K above K_GROUP, the
    prefetches come between the products, half in each of two groups: a processor has about twenty
    lines in flight, and products would wait for the last of them.
    """
    signature = types.void(
        rows, K, types.intp, a, types.intp, types.intp, b, types.intp, types.intp, types.intp,
        types.intp, out, types.intp, types.intp,
    )  # fmt: skip

    def generate(context, builder, signature, values):
        _, _, groups, a, i, a_stride, b, j, b_stride, lines, ahead, out, o, stride = values
        count, K, _, *kinds = signature.args
        rows, ks = range(count.literal_value), range(K.literal_value)
        lanes, line = vector(kinds[8]).count, LINE * 8 // kinds[3].dtype.bitwidth
        lefts = range(0, line, COLUMNS * lanes)
        single, ahead_too = len(rows) == 1, prefetches(len(rows), kinds[3])
        between = ahead_too and len(ks) > K_GROUP
        share = len(ks) // len(lefts) // 2  # lines that a group prefetches between its products

        def at(number, array, start, stride, times, more):
            position = builder.add(builder.add(start, builder.mul(times, stride)), more)
            return pointer_to(context, builder, kinds[number], array, position, lanes)

        def factor(r, k):
            position = builder.add(builder.add(i, builder.mul(r, a_stride)), index(k))
            return broadcast(context, builder, kinds[0], a, position)

        def due(line, turn, group, k):
            """Return the number of the line that is prefetched before the product of k."""
            before = builder.add(builder.mul(line, index(len(lefts))), index(turn))
            before = builder.add(builder.mul(before, index(2)), group)
            return builder.add(builder.mul(before, index(share)), index(k * share // len(ks)))

        held = [factor(index(0), k) for k in ks] if single else None
        with cgutils.for_range(builder, lines) as loop:
            if ahead_too and not between:
                prefetch_lines(builder, ahead, loop.index, len(ks))
            start = builder.mul(loop.index, index(line))
            for turn, left in enumerate(lefts):
                columns = range(left, min(line, left + COLUMNS * lanes), lanes)
                columns = [builder.add(start, index(n)) for n in columns]
                with cgutils.for_range(builder, groups) as group:
                    first = builder.mul(group.index, index(len(rows)))
                    numbers = [builder.add(first, index(r)) for r in rows]
                    pointers = [at(8, out, o, stride, r, n) for r in numbers for n in columns]
                    sums = [load(builder, pointer) for pointer in pointers]
                    for k in ks:
                        if between and k % (len(ks) // share) == 0:
                            number = due(loop.index, turn, group.index, k)
                            prefetch_lines(builder, ahead, number, 1)
                        read = [load(builder, at(3, b, j, b_stride, index(k), n)) for n in columns]
                        read = [widen(builder, value) for value in read]
                        for r, row in enumerate(numbers):
                            times = held[k] if single else factor(row, k)
                            for n, value in enumerate(read, r * len(columns)):
                                sums[n] = multiply_add(builder, times, value, sums[n])
                    for total, pointer in zip(sums, pointers, strict=True):
                        store(builder, total, pointer)
        return context.get_dummy_value()

    return signature, generate


@intrinsic(prefer_literal=True)
def dots(context, rows, a, i, a_stride, b, j, b_stride, lines, ahead, count, out, o, stride):
    """out[o + r stride + c] = sum of a[i + r a_stride + n] * b[j + c b_stride + n] over `lines`
    cache lines of b, for r < rows and c < 4: the same for a transposed b.

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

        def at(number, array, start, stride, times, more):
            position = builder.add(builder.add(start, builder.mul(index(times), stride)), more)
            return pointer_to(context, builder, kinds[number], array, position, kind.count)

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
            for lane in range(0, line, kind.count):
                n = builder.add(builder.mul(loop.index, index(line)), index(lane))
                factors = [load(builder, at(0, a, i, a_stride, r, n)) for r in rows]
                for c in four:
                    value = widen(builder, load(builder, at(3, b, j, b_stride, c, n)))
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
    four rows, bfloat16 and int8 are prefetched (docs/kernels.md#skinny-products).
    """
    return BYTES == LINE or rows > 1 or kind.dtype.bitwidth < 32
