"""The microkernel of int8 products with a transposed matrix, as the output head is.

Both operands are contiguous in k and read where they are. Every GROUPS-th quad of a row is of one
group (packing_int8.py), so that a lane of a sum belongs to one. A group's sum is multiplied by its
scale. Then the groups are added by halves: 0 and 8, 1 and 9; of these 0 and 4, and so on.
"""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from npgpt.kernels.int8_vectors import (
    COLUMNS,
    FLOATS,
    GROUPS,
    LANES,
    QUAD,
    WORDS,
    flip,
    loop_blocks,
    quad_products,
    row_starts,
)
from npgpt.kernels.llvm import index, int_vector, load, phi, pointer_to, prefetch_lines, store

BLOCKS = LANES // COLUMNS  # of columns that are multiplied side by side
LINES = COLUMNS * LANES // GROUPS  # that are prefetched with a vector of COLUMNS rows of b, by all


@intrinsic(prefer_literal=True)
def dots(
    context, rows, x, i, x_stride, some, starts, scales, s, b, j, b_stride, steps, ahead, count,
    out, o, stride,
):  # fmt: skip
    """out[o + r stride + n] = sum over g of scales[s + r GROUPS + g] * (starts[likewise] + sum of
    x[i + r x_stride + k] * b[j + n b_stride + k] over the quads of group g).

    For r < rows and n < LANES. `x` and `b` are int8, steps * GROUPS quads long. `rows` is a
    constant; from `some` on, rows repeat the last one. With every vector of COLUMNS rows of b,
    `count` lines are prefetched from the address `ahead` on. Arrays are flat.
    """
    intp = types.intp
    signature = types.void(
        rows, x, intp, intp, intp, starts, scales, intp, b, intp, intp, intp, intp, intp, out, intp,
        intp,
    )  # fmt: skip

    def generate(context, builder, signature, values):
        _, x, i, x_stride, some, starts, scales, s, b, j, b_stride, steps = values[:12]
        ahead, count, out, o, stride = values[12:]
        height, *kinds = signature.args
        R = height.literal_value
        xs, groups = row_starts(builder, i, x_stride, some, R), index(GROUPS)
        groups = row_starts(builder, s, groups, some, R)

        def vector_at(number, array, at):
            return load(builder, pointer_to(context, builder, kinds[number], array, at))

        def group_sums(block, part):
            """Return the sums of LANES groups from `part` on: of each row, of each column."""
            first = [vector_at(4, starts, builder.add(at, index(part))) for at in groups]
            before, loop, done = loop_blocks(builder)
            builder.branch(loop)
            builder.position_at_end(loop)
            step = phi(builder, steps.type, {before: index(0)})
            sums = [phi(builder, WORDS, {before: first[r]}) for r in range(R) for _ in columns]
            k = builder.add(builder.mul(step, index(GROUPS * QUAD)), index(part * QUAD))
            begin = builder.add(j, builder.mul(builder.mul(block, index(COLUMNS)), b_stride))
            begin, weights = builder.add(begin, k), []
            for n in columns:
                at = builder.add(begin, builder.mul(index(n), b_stride))
                weights.append(builder.bitcast(flip(builder, vector_at(7, b, at)), WORDS))
            grown = []
            for r, at in enumerate(xs):
                quads = builder.bitcast(vector_at(0, x, builder.add(at, k)), WORDS)
                add = quad_products(builder, quads)
                grown += [add(weights[n], sums[r * COLUMNS + n]) for n in columns]
            turn = builder.add(builder.mul(block, index(GROUPS // LANES)), index(part // LANES))
            turn = builder.add(builder.mul(turn, steps), step)
            with cgutils.for_range(builder, count) as one:
                line = builder.add(builder.mul(turn, count), one.index)
                prefetch_lines(builder, ahead, line, 1)
            following = builder.add(step, index(1))
            for value, new in zip((step, *sums), (following, *grown), strict=True):
                value.add_incoming(new, builder.block)
            builder.cbranch(builder.icmp_signed("<", following, steps), loop, done)
            builder.position_at_end(done)
            return grown

        def scaled(sums, part):
            """Return the same in float32, multiplied by the scales of the groups."""
            factors = [vector_at(5, scales, builder.add(at, index(part))) for at in groups]
            floats = (builder.sitofp(value, FLOATS) for value in sums)
            return [builder.fmul(x, factors[n // COLUMNS]) for n, x in enumerate(floats)]

        columns = range(COLUMNS)
        found = cgutils.alloca_once(builder, FLOATS, size=ir.Constant(ir.IntType(32), R * BLOCKS))
        with cgutils.for_range(builder, index(BLOCKS)) as loop:
            parts = [scaled(group_sums(loop.index, part), part) for part in range(0, GROUPS, LANES)]
            while len(parts) > 1:
                half = len(parts) // 2
                pairs = zip(parts[:half], parts[half:], strict=True)
                parts = [list(map(builder.fadd, *pair)) for pair in pairs]
            for r in range(R):
                of_row = parts[0][r * COLUMNS : (r + 1) * COLUMNS]
                at = builder.add(builder.mul(index(r), index(BLOCKS)), loop.index)
                builder.store(add_halves(builder, of_row, LANES), builder.gep(found, [at]))
        for r, at in enumerate(row_starts(builder, o, stride, some, R)):
            blocks = (builder.gep(found, [index(r * BLOCKS + n)]) for n in range(BLOCKS))
            total = add_halves(builder, list(map(builder.load, blocks)), LANES // COLUMNS)
            store(builder, total, pointer_to(context, builder, kinds[13], out, at))
        return context.get_dummy_value()

    return signature, generate


def add_halves(builder, vectors: list, width: int):
    """Return one vector of several, with all of their columns in order.

    A column has `width` lanes of a vector, one after the other. The second half of them is added to
    the first, until as many columns as there are vectors fit into one.
    """
    while len(vectors) > 1:
        width //= 2
        first = [n for n in range(2 * LANES) if not n & width]
        halves = int_vector(first), int_vector([n + width for n in first])
        vectors = [
            builder.fadd(*(builder.shuffle_vector(a, b, half) for half in halves))
            for a, b in zip(vectors[::2], vectors[1::2], strict=True)
        ]
    return vectors[0]
