"""The register block for a few rows (gemv.py), which reads a matrix as it lies, once."""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from npgpt.arrays import LINE
from npgpt.kernels.cpu import BYTES, REGISTERS
from npgpt.kernels.llvm import (
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

GROUP = 4  # rows of a that share what is read of b, where there are as many
ALONE, SOME = 4, 8  # terms of a sum that are added at once: in a single row, in a group
MANY = 8 if REGISTERS == 32 else 16  # and where there are two groups or more
COLUMNS = 2  # vectors of b that a group adds up at once: 4 x 2 sums, where there are 16 registers
DOTTED = 4 if REGISTERS == 32 else 2  # rows of a in `dots`, which has four sums for each


@intrinsic(prefer_literal=True)
def add_products(
    context, rows, terms, groups, a, i, a_stride, b, j, b_stride, lines, soon, out, o, stride
):  # fmt: skip
    """out[o + r stride + n] += sum of k < terms of a[i + r a_stride + k]
    * b[j + k b_stride + n], for r < rows * groups and n < so many cache lines of b.

    b is read as it lies, a line of every term, and all groups take what they need of that before
    the next ones: it comes from memory evenly, and is multiplied meanwhile. The numbers of a single
    row of a stay in registers. b may be bfloat16 (its bits in uint16) or int8. `rows` and `terms`
    are constants. Arrays are flat.

    As many lines are asked for from the address `soon` on. With more than SOME terms, that is done
    between the products, a half by each of two groups: a processor has some twenty lines under way
    at most, and what is multiplied would have to wait for the last of them.
    """
    signature = types.void(
        rows, terms, types.intp, a, types.intp, types.intp, b, types.intp, types.intp, types.intp,
        types.intp, out, types.intp, types.intp,
    )  # fmt: skip

    def generate(context, builder, signature, values):
        _, _, groups, a, i, a_stride, b, j, b_stride, lines, soon, out, o, stride = values
        count, terms, _, *kinds = signature.args
        rows, terms = range(count.literal_value), range(terms.literal_value)
        lanes, line = vector(kinds[8]).count, LINE * 8 // kinds[3].dtype.bitwidth
        lefts = range(0, line, COLUMNS * lanes)
        alone, asks = len(rows) == 1, asked_for(len(rows), kinds[3])
        between = asks and len(terms) > SOME
        share = len(terms) // len(lefts) // 2  # lines that a group asks for between its products

        def spot(number, array, start, stride, times, more):
            at = builder.add(builder.add(start, builder.mul(times, stride)), more)
            return place(context, builder, kinds[number], array, at, lanes)

        def factor(r, k):
            at = builder.add(builder.add(i, builder.mul(r, a_stride)), whole(k))
            return broadcast(context, builder, kinds[0], a, at)

        def due(line, turn, group, k):
            """Which line is asked for before this term."""
            before = builder.add(builder.mul(line, whole(len(lefts))), whole(turn))
            before = builder.add(builder.mul(before, whole(2)), group)
            return builder.add(builder.mul(before, whole(share)), whole(k * share // len(terms)))

        held = [factor(whole(0), k) for k in terms] if alone else None
        with cgutils.for_range(builder, lines) as loop:
            if asks and not between:
                ask(builder, soon, loop.index, len(terms))
            start = builder.mul(loop.index, whole(line))
            for turn, left in enumerate(lefts):
                some = range(left, min(line, left + COLUMNS * lanes), lanes)
                some = [builder.add(start, whole(n)) for n in some]
                with cgutils.for_range(builder, groups) as group:
                    first = builder.mul(group.index, whole(len(rows)))
                    here = [builder.add(first, whole(r)) for r in rows]
                    homes = [spot(8, out, o, stride, r, n) for r in here for n in some]
                    sums = [load(builder, home) for home in homes]
                    for k in terms:
                        if between and k % (len(terms) // share) == 0:
                            ask(builder, soon, due(loop.index, turn, group.index, k), 1)
                        read = [load(builder, spot(3, b, j, b_stride, whole(k), n)) for n in some]
                        read = [widened(builder, value) for value in read]
                        for r, row in enumerate(here):
                            times = held[k] if alone else factor(row, k)
                            for n, value in enumerate(read, r * len(some)):
                                sums[n] = multiply_add(builder, times, value, sums[n])
                    for total, home in zip(sums, homes, strict=True):
                        store(builder, total, home)
        return context.get_dummy_value()

    return signature, generate


@intrinsic(prefer_literal=True)
def dots(context, rows, a, i, a_stride, b, j, b_stride, lines, soon, asked, out, o, stride):
    """out[o + r stride + c] = sum of a[i + r a_stride + n] * b[j + c b_stride + n] over so many
    cache lines of b, for r < rows and c < 4: the same for a transposed b. With every line of the
    four, so many are asked for, from `soon` on; `asked` may be a constant.
    """
    signature = types.void(
        rows, a, types.intp, types.intp, b, types.intp, types.intp, types.intp, types.intp,
        asked, out, types.intp, types.intp,
    )  # fmt: skip

    def generate(context, builder, signature, values):
        _, a, i, a_stride, b, j, b_stride, lines, soon, asked, out, o, stride = values
        count, *kinds = signature.args
        four, rows = range(4), range(count.literal_value)
        kind, line = vector(kinds[9]), LINE * 8 // kinds[3].dtype.bitwidth

        def spot(number, array, start, stride, times, more):
            at = builder.add(builder.add(start, builder.mul(whole(times), stride)), more)
            return place(context, builder, kinds[number], array, at, kind.count)

        nothing = ir.Constant(kind, None)
        sums = [cgutils.alloca_once_value(builder, nothing) for _ in (*rows, *rows, *rows, *rows)]
        for total in sums:
            builder.store(nothing, total)
        with cgutils.for_range(builder, lines) as loop:
            if asked_for(len(rows), kinds[3]):
                if isinstance(kinds[8], types.IntegerLiteral):
                    ask(builder, soon, loop.index, kinds[8].literal_value)
                else:
                    done = builder.mul(loop.index, asked)
                    with cgutils.for_range(builder, asked) as one:
                        ask(builder, soon, builder.add(done, one.index), 1)
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
                data = context.make_array(kinds[9])(context, builder, out).data
                builder.store(total_of(builder, builder.load(sums[4 * r + c])),
                              builder.gep(data, [at]))  # fmt: skip
        return context.get_dummy_value()

    return signature, generate


def asked_for(rows: int, kind) -> bool:
    """Are the numbers of b asked for? With AVX-512 always. Zen, with AVX2 alone, read float32 for
    one row a tenth slower when told what comes; with more to do for each byte it looks less far and
    needs to be told: for four rows, or of bfloat16 and int8, which came twice as fast."""
    return BYTES == LINE or rows > 1 or kind.dtype.bitwidth < 32
