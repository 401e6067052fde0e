"""The register block for a few rows (_rows.py), which reads a matrix as it lies, once."""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from npgpt.arrays import LINE
from npgpt.fused._llvm import (
    BYTES,
    ask,
    broadcast,
    load,
    multiply_add,
    place,
    store,
    total_of,
    vector,
    whole,
    widened,
)


@intrinsic(prefer_literal=True)
def add_products(context, rows, a, i, a_stride, b, j, b_stride, lines, soon, out, o, stride):
    """out[o + r stride + n] += sum of k < 4 of a[i + r a_stride + k] * b[j + k b_stride + n], for
    r < rows and n < so many cache lines of b: the register block for few rows, which reads b as it
    lies.

    The numbers of a stay in registers; b is loaded once for all rows, and a sum once for four
    terms. b may be bfloat16 (its bits in uint16) or int8. `rows` is a constant. Arrays are flat.
    As many lines are asked for from the address `soon` on.
    """
    signature = few_rows(rows, a, b, out)

    def generate(context, builder, signature, values):
        _, a, i, a_stride, b, j, b_stride, lines, soon, out, o, stride = values
        count, *kinds = signature.args
        four, rows = range(4), range(count.literal_value)
        lanes, line = vector(kinds[8]).count, LINE * 8 // kinds[3].dtype.bitwidth

        def spot(number, array, start, stride, times, more):
            at = builder.add(builder.add(start, builder.mul(whole(times), stride)), more)
            return place(context, builder, kinds[number], array, at, lanes)

        factors = []
        for r in rows:
            row = builder.add(i, builder.mul(whole(r), a_stride))
            places = (builder.add(row, whole(k)) for k in four)
            factors.append([broadcast(context, builder, kinds[0], a, at) for at in places])
        with cgutils.for_range(builder, lines) as loop:
            if asked_for(len(rows), kinds[3]):
                ask(builder, soon, loop.index, 4)
            for lane in range(0, line, lanes):
                n = builder.add(builder.mul(loop.index, whole(line)), whole(lane))
                some = (load(builder, spot(3, b, j, b_stride, k, n)) for k in four)
                some = [widened(builder, value) for value in some]
                for r in rows:
                    home = spot(8, out, o, stride, r, n)
                    total = load(builder, home)
                    for k in four:
                        total = multiply_add(builder, factors[r][k], some[k], total)
                    store(builder, total, home)
        return context.get_dummy_value()

    return signature, generate


@intrinsic(prefer_literal=True)
def dots(context, rows, a, i, a_stride, b, j, b_stride, lines, soon, out, o, stride):
    """out[o + r stride + c] = sum of a[i + r a_stride + n] * b[j + c b_stride + n] over so many
    cache lines of b, for r < rows and c < 4: the same for a transposed b.
    """
    signature = few_rows(rows, a, b, out)

    def generate(context, builder, signature, values):
        _, a, i, a_stride, b, j, b_stride, lines, soon, out, o, stride = values
        count, *kinds = signature.args
        four, rows = range(4), range(count.literal_value)
        kind, line = vector(kinds[8]), LINE * 8 // kinds[3].dtype.bitwidth

        def spot(number, array, start, stride, times, more):
            at = builder.add(builder.add(start, builder.mul(whole(times), stride)), more)
            return place(context, builder, kinds[number], array, at, kind.count)

        nothing = ir.Constant(kind, None)
        sums = [cgutils.alloca_once_value(builder, nothing) for _ in (*rows, *rows, *rows, *rows)]
        for total in sums:
            builder.store(nothing, total)
        with cgutils.for_range(builder, lines) as loop:
            if asked_for(len(rows), kinds[3]):
                ask(builder, soon, loop.index, 4)
            for lane in range(0, line, kind.count):
                n = builder.add(builder.mul(loop.index, whole(line)), whole(lane))
                factors = [load(builder, spot(0, a, i, a_stride, r, n)) for r in rows]
                for c in four:
                    some = widened(builder, load(builder, spot(3, b, j, b_stride, c, n)))
                    for r in rows:
                        total = sums[4 * r + c]
                        more = multiply_add(builder, factors[r], some, builder.load(total))
                        builder.store(more, total)
        for r in rows:
            for c in four:
                at = builder.add(builder.add(o, builder.mul(whole(r), stride)), whole(c))
                data = context.make_array(kinds[8])(context, builder, out).data
                builder.store(total_of(builder, builder.load(sums[4 * r + c])),
                              builder.gep(data, [at]))  # fmt: skip
        return context.get_dummy_value()

    return signature, generate


def few_rows(rows, a, b, out):
    """The signature of both."""
    return types.void(
        rows, a, types.intp, types.intp, b, types.intp, types.intp, types.intp, types.intp, out,
        types.intp, types.intp,
    )  # fmt: skip


def asked_for(rows: int, kind) -> bool:
    """Are the numbers of b asked for? With AVX-512 always. Zen, with AVX2 alone, read float32 for
    one row a tenth slower when told what comes; with more to do for each byte it looks less far and
    needs to be told: for four rows, or of bfloat16 and int8, which came twice as fast."""
    return BYTES == LINE or rows > 1 or kind.dtype.bitwidth < 32
