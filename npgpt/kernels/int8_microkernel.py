"""The microkernels of int8 products: integers are multiplied and added without rounding.

Four values of k are a *quad*, in the 32 bits of one lane. A step multiplies the four numbers of two
quads and adds the products to an int32 sum: one instruction with VNNI (`vpdpbusd`), which takes
unsigned numbers on one side. So 128 is added to each weight, and a sum begins at -128 times the sum
of the activations. In `starts` are these beginnings (0 with SIGNED weights, int8_vectors.py), in
`scales` the factors of the sums.
"""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from npgpt.arrays import LINE
from npgpt.kernels.cpu import BYTES
from npgpt.kernels.int8_vectors import (
    FLOATS,
    LANES,
    QUAD,
    VECTORS,
    WIDTH,
    WORDS,
    add_scaled,
    call,
    constant,
    element_of,
    fill,
    interleaved,
    loop_blocks,
    quad_products,
    row_starts,
)
from npgpt.kernels.llvm import (
    index,
    load,
    phi,
    pointer_to,
    prefetch_lines,
    store,
)


@intrinsic(prefer_literal=True)
def multiply_panels(
    context, rows, left, l, left_stride, starts, scales, s, right, r, groups, quads, scale, bias, c,
    finishes, ahead, row, count, out, o, stride,
):  # fmt: skip
    """out[o + i stride + n] = sum over g < groups of scales[s + i groups + g] * (starts[likewise] +
    sum of the products of `quads` quads), for i < rows and n < a tile.

    The quads of group g begin at left[l + i left_stride + 4 g quads] and right[r + g quads WIDTH +
    n], the next ones 4 numbers and WIDTH quads further. `left` is int8, `right` uint32. With
    `finishes`, columns are multiplied by scale[c + n], and bias[c + n] is added. `rows` is a
    constant. Arrays are flat. Sums of both kinds stay in registers.

    With every group, `count` lines are prefetched, `row` bytes apart, from the address `ahead` on.
    """
    signature = types.void(
        rows, left, types.intp, types.intp, starts, scales, types.intp, right, types.intp,
        types.intp, types.intp, scale, bias, types.intp, types.boolean, types.intp, types.intp,
        types.intp, out, types.intp, types.intp,
    )  # fmt: skip

    def generate(context, builder, signature, values):
        _, left, l, left_stride, starts, scales, s, right, r, groups, quads = values[:11]
        scale, bias, c, finishes, ahead, row, count, out, o, stride = values[11:]
        height, *kinds = signature.args
        numbers = range(height.literal_value)
        tile = [(i, j) for i in numbers for j in range(VECTORS)]

        def element(number, array, first, i, step, more, kind=None):
            at = builder.add(builder.add(first, builder.mul(index(i), step)), more)
            return element_of(context, builder, kinds[number], array, at, kind)

        names = "group", "quads", "scaled", "ending", "finishing", "writing"
        before, blocks = builder.block, [builder.append_basic_block(name) for name in names]
        group, loop, scaled, ending, finishing, writing = blocks
        builder.branch(group)
        builder.position_at_end(group)
        g = phi(builder, groups.type, {before: index(0)})
        totals = [phi(builder, FLOATS, {before: ir.Constant(FLOATS, None)}) for _ in tile]
        initial = [element(3, starts, s, i, groups, g) for i in numbers]
        begin, first = builder.mul(g, quads), builder.mul(g, count)
        with cgutils.for_range(builder, count) as one:
            line = builder.mul(builder.add(first, one.index), row)
            prefetch_lines(builder, builder.add(ahead, line), index(0), 1)
        started = builder.block
        builder.branch(loop)

        builder.position_at_end(loop)
        k = phi(builder, quads.type, {started: begin})
        sums = [phi(builder, WORDS, {started: initial[i]}) for i, _ in tile]
        panel = builder.add(r, builder.mul(k, index(WIDTH)))
        weights = [builder.add(panel, index(j * LANES)) for j in range(VECTORS)]
        weights = [
            load(builder, pointer_to(context, builder, kinds[6], right, at)) for at in weights
        ]
        byte, grown = builder.mul(k, index(QUAD)), []
        for i in numbers:
            quad = element(0, left, l, i, left_stride, byte, WORDS.element)
            add = quad_products(builder, quad)
            grown += [add(weights[j], sums[i * VECTORS + j]) for j in range(VECTORS)]
        k_next = builder.add(k, index(1))
        k.add_incoming(k_next, loop)
        for total, new in zip(sums, grown, strict=True):
            total.add_incoming(new, loop)
        end = builder.add(begin, quads)
        builder.cbranch(builder.icmp_signed("<", k_next, end), loop, scaled)

        builder.position_at_end(scaled)
        factors = [element(4, scales, s, i, groups, g) for i in numbers]
        added = [
            add_scaled(builder, new, factors[i], total)
            for new, total, (i, _) in zip(grown, totals, tile, strict=True)
        ]
        g_next = builder.add(g, index(1))
        g.add_incoming(g_next, scaled)
        for total, new in zip(totals, added, strict=True):
            total.add_incoming(new, scaled)
        builder.cbranch(builder.icmp_signed("<", g_next, groups), group, ending)

        builder.position_at_end(ending)
        builder.cbranch(finishes, finishing, writing)
        builder.position_at_end(finishing)
        positions = [builder.add(c, index(j * LANES)) for j in range(VECTORS)]
        factors, biases = (
            [load(builder, pointer_to(context, builder, kinds[n], array, at)) for at in positions]
            for n, array in ((10, scale), (11, bias))
        )
        finished = [
            builder.fadd(builder.fmul(new, factors[j]), biases[j])
            for new, (_, j) in zip(added, tile, strict=True)
        ]
        builder.branch(writing)
        builder.position_at_end(writing)
        added = [
            phi(builder, FLOATS, {ending: new, finishing: done})
            for new, done in zip(added, finished, strict=True)
        ]
        for new, (i, j) in zip(added, tile, strict=True):
            at = builder.add(builder.add(o, builder.mul(index(i), stride)), index(j * LANES))
            store(builder, new, pointer_to(context, builder, kinds[17], out, at))
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def add_products(context, quad, b, j, stride, rows, lines, ahead, sums):
    """sums[n] += quad * b[j + k stride + n], for k < 4 and all n in the first `lines` vectors of b.

    Rows from `rows` on are not read. As much as is read is prefetched from the address `ahead` on.
    """
    intp = types.intp
    signature = types.void(types.uint32, b, intp, intp, intp, intp, intp, sums)

    def generate(context, builder, signature, values):
        quad, b, j, stride, rows, lines, ahead, sums = values
        kinds = signature.args
        starts = row_starts(builder, j, stride, rows, QUAD)
        add = quad_products(builder, fill(builder, quad))
        with cgutils.for_range(builder, lines) as loop:
            prefetch_lines(builder, ahead, loop.index, QUAD * BYTES // LINE or 1)
            at = builder.mul(loop.index, index(WIDTH))
            for i, weights in enumerate(interleaved(context, builder, kinds[1], b, starts, at)):
                pointer = builder.add(at, index(i * LANES))
                pointer = pointer_to(context, builder, kinds[7], sums, pointer)
                store(builder, add(weights, load(builder, pointer)), pointer)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def pack_quads(context, b, j, stride, rows, packed, p):
    """packed[p + n] = the quad of b[j + k stride + n] for k < 4, for n < WIDTH; `rows` as above."""
    signature = types.void(b, types.intp, types.intp, types.intp, packed, types.intp)

    def generate(context, builder, signature, values):
        b, j, stride, rows, packed, p = values
        kinds = signature.args
        starts = row_starts(builder, j, stride, rows, QUAD)
        for i, quads in enumerate(interleaved(context, builder, kinds[0], b, starts, index(0))):
            at = builder.add(p, index(i * LANES))
            store(builder, quads, pointer_to(context, builder, kinds[4], packed, at))
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def largest_bits(context, x, i, vectors):
    """Return the bits of the largest magnitude in x[i:], `vectors` long: as integers, they have the
    same order, and nan is largest."""

    def generate(context, builder, signature, values):
        x, i, vectors = values
        before, loop, done = loop_blocks(builder)
        builder.branch(loop)
        builder.position_at_end(loop)
        n = phi(builder, vectors.type, {before: index(0)})
        top = phi(builder, WORDS, {before: constant(WORDS, 0)})
        at = builder.add(i, builder.mul(n, index(LANES)))
        bits = load(builder, pointer_to(context, builder, signature.args[0], x, at))
        bits = builder.and_(builder.bitcast(bits, WORDS), constant(WORDS, 0x7FFFFFFF))
        higher = builder.select(builder.icmp_signed(">", bits, top), bits, top)
        following = builder.add(n, index(1))
        n.add_incoming(following, loop)
        top.add_incoming(higher, loop)
        builder.cbranch(builder.icmp_signed("<", following, vectors), loop, done)
        builder.position_at_end(done)
        return call(builder, f"llvm.vector.reduce.smax.v{LANES}i32", WORDS.element, higher)

    return types.int32(x, types.intp, types.intp), generate


@intrinsic
def round_vectors(context, x, i, vectors, factor, out, o):
    """out[o + n] = x[i + n] * factor, rounded to the nearest integer. Return the sum of these.

    Ties go to the even integer. `x` is float32, `out` int8.
    """
    signature = types.int32(x, types.intp, types.intp, types.float32, out, types.intp)

    def generate(context, builder, signature, values):
        x, i, vectors, factor, out, o = values
        kinds, octets = signature.args, ir.VectorType(ir.IntType(8), LANES)
        factors = fill(builder, factor)
        # added to a small number, it leaves the integer in the last bits
        magic = ir.Constant(FLOATS, [float(3 << 22)] * LANES)
        before, loop, done = loop_blocks(builder)
        builder.branch(loop)
        builder.position_at_end(loop)
        n = phi(builder, vectors.type, {before: index(0)})
        total = phi(builder, WORDS, {before: constant(WORDS, 0)})
        at = builder.mul(n, index(LANES))
        value = load(builder, pointer_to(context, builder, kinds[0], x, builder.add(i, at)))
        moved = builder.fadd(builder.fmul(value, factors), magic)
        integers = builder.trunc(builder.bitcast(moved, WORDS), octets)
        pointer = pointer_to(context, builder, kinds[4], out, builder.add(o, at), LANES)
        store(builder, integers, pointer)
        grown = builder.add(total, builder.sext(integers, WORDS))
        following = builder.add(n, index(1))
        n.add_incoming(following, loop)
        total.add_incoming(grown, loop)
        builder.cbranch(builder.icmp_signed("<", following, vectors), loop, done)
        builder.position_at_end(done)
        return call(builder, f"llvm.vector.reduce.add.v{LANES}i32", WORDS.element, grown)

    return signature, generate
