"""The microkernels of int8 products: integers are multiplied and added without rounding.

Four values of k are a *quad*, in the 32 bits of one lane. A step multiplies the four numbers of two
quads and adds the products to an int32 sum: one instruction with VNNI (`vpdpbusd`), which takes
unsigned numbers on one side. So 128 is added to every weight, and a sum begins at -128 times the sum
of the activations. In `starts` are these beginnings, in `scales` the factors of the sums.
"""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from npgpt.arrays import LINE
from npgpt.kernels.cpu import BYTES, FEATURES, REGISTERS, VNNI
from npgpt.kernels.llvm import (
    index,
    int_vector,
    load,
    phi,
    pointer_to,
    prefetch_lines,
    store,
    transpose_square,
)

QUAD = 4  # values of k in a lane
LANES = BYTES // QUAD
WIDTH = BYTES  # columns of a panel: a vector of weights as they are stored
VECTORS = 2  # of a tile's row; a panel has two tiles side by side
ROWS, FEW_ROWS = (7, 4) if REGISTERS == 32 else (2, 2)  # of a tile; integers, floats fit registers
COLUMNS = 4  # rows of a transposed matrix that are read side by side
GROUPS = 16  # of k, each with scales of its own (packing_int8.py)
WORDS, FLOATS = (ir.VectorType(kind, LANES) for kind in (ir.IntType(32), ir.FloatType()))
SHORTS, OCTETS = ir.VectorType(ir.IntType(16), BYTES // 2), ir.VectorType(ir.IntType(8), BYTES)
PAIR_PRODUCTS = {  # instructions that multiply int16 and add pairs of products
    64: ("avx512bw", "llvm.x86.avx512.pmaddw.d.512"),
    32: ("avx2", "llvm.x86.avx2.pmadd.wd"),
    16: ("sse2", "llvm.x86.sse2.pmadd.wd"),
}


@intrinsic(prefer_literal=True)
def multiply_panels(
    context, rows, left, l, left_stride, starts, scales, s, right, r, groups, quads, scale, bias, c,
    finishes, out, o, stride,
):  # fmt: skip
    """out[o + i stride + n] = sum over g < groups of scales[s + i groups + g] * (starts[likewise] +
    sum of the products of `quads` quads), for i < rows and n < a tile.

    The quads of group g begin at left[l + i left_stride + 4 g quads] and right[r + g quads WIDTH +
    n], the next ones 4 numbers and WIDTH quads further. `left` is int8, `right` uint32. With
    `finishes`, columns are multiplied by scale[c + n], and bias[c + n] is added. `rows` is a
    constant. Arrays are flat. Sums of both kinds stay in registers.
    """
    signature = types.void(
        rows, left, types.intp, types.intp, starts, scales, types.intp, right, types.intp,
        types.intp, types.intp, scale, bias, types.intp, types.boolean, out, types.intp, types.intp,
    )  # fmt: skip

    def generate(context, builder, signature, values):
        _, left, l, left_stride, starts, scales, s, right, r, groups, quads = values[:11]
        scale, bias, c, finishes, out, o, stride = values[11:]
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
        begun = [element(3, starts, s, i, groups, g) for i in numbers]
        begin = builder.mul(g, quads)
        builder.branch(loop)

        builder.position_at_end(loop)
        k = phi(builder, quads.type, {group: begin})
        sums = [phi(builder, WORDS, {group: begun[i]}) for i, _ in tile]
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
        places = [builder.add(c, index(j * LANES)) for j in range(VECTORS)]
        factors, terms = (
            [load(builder, pointer_to(context, builder, kinds[n], array, at)) for at in places]
            for n, array in ((10, scale), (11, bias))
        )
        finished = [
            builder.fadd(builder.fmul(new, factors[j]), terms[j])
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
            store(builder, new, pointer_to(context, builder, kinds[14], out, at))
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
                place = builder.add(at, index(i * LANES))
                place = pointer_to(context, builder, kinds[7], sums, place)
                store(builder, add(weights, load(builder, place)), place)
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
        before, loop, done = builder.block, *map(builder.append_basic_block, ("loop", "done"))
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
        before, loop, done = builder.block, *map(builder.append_basic_block, ("loop", "done"))
        builder.branch(loop)
        builder.position_at_end(loop)
        n = phi(builder, vectors.type, {before: index(0)})
        total = phi(builder, WORDS, {before: constant(WORDS, 0)})
        at = builder.mul(n, index(LANES))
        value = load(builder, pointer_to(context, builder, kinds[0], x, builder.add(i, at)))
        moved = builder.fadd(builder.fmul(value, factors), magic)
        integers = builder.trunc(builder.bitcast(moved, WORDS), octets)
        place = pointer_to(context, builder, kinds[4], out, builder.add(o, at), LANES)
        store(builder, integers, place)
        grown = builder.add(total, builder.sext(integers, WORDS))
        following = builder.add(n, index(1))
        n.add_incoming(following, loop)
        total.add_incoming(grown, loop)
        builder.cbranch(builder.icmp_signed("<", following, vectors), loop, done)
        builder.position_at_end(done)
        return call(builder, f"llvm.vector.reduce.add.v{LANES}i32", WORDS.element, grown)

    return signature, generate


@intrinsic
def multiply_columns(
    context, x, i, starts, scales, s, b, j, stride, steps, ahead, count, scale, bias, c, finishes,
    out, o,
):  # fmt: skip
    """out[o + n] = sum over g of scales[s + g] * (starts[s + g] + sum of x[i + k] * b[j + n stride +
    k] over the quads of group g), for n < LANES.

    `x` and `b` are int8, steps * GROUPS quads long: every GROUPS-th quad is of one group. COLUMNS
    rows are read at a time, and with every vector of them `count` lines are prefetched from the
    address `ahead` on. `scale`, `bias`, `c` and `finishes` are those of `multiply_panels`.
    """
    intp = types.intp
    signature = types.void(
        x, intp, starts, scales, intp, b, intp, intp, intp, intp, intp, scale, bias, intp,
        types.boolean, out, intp,
    )  # fmt: skip

    def generate(context, builder, signature, values):
        x, i, starts, scales, s, b, j, stride, steps, ahead, count = values[:11]
        scale, bias, c, finishes, out, o = values[11:]
        kinds, total = signature.args, ir.Constant(FLOATS, None)

        def add_column_sums(columns, begun, part, ahead):
            """Return the sums of a few columns: LANES groups from `part` on, one in each lane."""
            before, loop, done = builder.block, *map(builder.append_basic_block, ("loop", "done"))
            builder.branch(loop)
            builder.position_at_end(loop)
            step = phi(builder, steps.type, {before: index(0)})
            sums = [phi(builder, WORDS, {before: begun}) for _ in columns]
            k = builder.add(builder.mul(step, index(GROUPS * QUAD)), index(part * QUAD))
            quads = load(builder, pointer_to(context, builder, kinds[0], x, builder.add(i, k)))
            add, start = quad_products(builder, builder.bitcast(quads, WORDS)), builder.add(j, k)
            grown = []
            for n, column in zip(columns, sums, strict=True):
                place = builder.add(start, builder.mul(index(n), stride))
                weights = load(builder, pointer_to(context, builder, kinds[5], b, place))
                grown.append(add(builder.bitcast(flip(builder, weights), WORDS), column))
            with cgutils.for_range(builder, count) as one:
                line = builder.add(builder.mul(step, count), one.index)
                prefetch_lines(builder, ahead, line, 1)
            step_next = builder.add(step, index(1))
            for value, new in zip((step, *sums), (step_next, *grown), strict=True):
                value.add_incoming(new, builder.block)
            builder.cbranch(builder.icmp_signed("<", step_next, steps), loop, done)
            builder.position_at_end(done)
            return grown

        for part in range(0, GROUPS, LANES):
            at = builder.add(s, index(part))
            begun, sums = load(builder, pointer_to(context, builder, kinds[2], starts, at)), []
            for first in range(0, LANES, COLUMNS):
                columns = range(first, first + COLUMNS)
                sums += add_column_sums(columns, begun, part, ahead)
                more = builder.mul(builder.mul(steps, count), index(LINE))
                ahead = builder.add(ahead, more)
            for g, new in enumerate(transpose_square(builder, sums), part):
                at = builder.add(s, index(g))
                factor = element_of(context, builder, kinds[3], scales, at)
                total = add_scaled(builder, new, factor, total)
        before = builder.block
        with builder.if_then(finishes):
            factor = load(builder, pointer_to(context, builder, kinds[11], scale, c))
            term = load(builder, pointer_to(context, builder, kinds[12], bias, c))
            finished = builder.fadd(builder.fmul(total, factor), term)
            then = builder.block
        total = phi(builder, FLOATS, {before: total, then: finished})
        store(builder, total, pointer_to(context, builder, kinds[15], out, o))
        return context.get_dummy_value()

    return signature, generate


def element_of(context, builder, kind, array, at, element=None):
    """Return array[at] in every lane, read as `element` if that is given."""
    pointer = builder.gep(context.make_array(kind)(context, builder, array).data, [at])
    if element is not None:
        pointer = builder.bitcast(pointer, element.as_pointer())
    return fill(builder, builder.load(pointer, align=1))


def fill(builder, number):
    """Return a vector with this number in every lane."""
    undefined = ir.Constant(ir.VectorType(number.type, LANES), ir.Undefined)
    first = builder.insert_element(undefined, number, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(first, undefined, int_vector([0] * LANES))


def add_scaled(builder, sums, factor, total):
    """Return total + factor * sums, rounded twice: as where the products are stored and then added."""
    return builder.fadd(total, builder.fmul(builder.sitofp(sums, FLOATS), factor))


def row_starts(builder, j, stride, rows, count: int):
    """Return where `count` rows begin; from `rows` on it is the last one that exists."""
    last = builder.sub(rows, index(1))
    numbers = [
        builder.select(builder.icmp_signed("<", index(k), last), index(k), last)
        for k in range(count)
    ]
    return [builder.add(j, builder.mul(number, stride)) for number in numbers]


def interleaved(context, builder, kind, b, starts, at):
    """Return the quads of four rows, for WIDTH columns: four vectors."""
    four = [
        flip(builder, load(builder, pointer_to(context, builder, kind, b, builder.add(start, at))))
        for start in starts
    ]
    pairs = [zip_lanes(builder, *four[:2]), zip_lanes(builder, *four[2:])]
    pairs = [[builder.bitcast(half, SHORTS) for half in halves] for halves in pairs]
    quads = [quad for halves in zip(*pairs, strict=True) for quad in zip_lanes(builder, *halves)]
    return [builder.bitcast(quad, WORDS) for quad in quads]


def zip_lanes(builder, a, b):
    """Return a[0], b[0], a[1], b[1] and so on, in two vectors."""
    half = a.type.count
    lanes = [n // 2 + n % 2 * half for n in range(2 * half)]
    return [builder.shuffle_vector(a, b, int_vector(part)) for part in (lanes[:half], lanes[half:])]


def flip(builder, value):
    """Add 128 to int8, which then is unsigned: only the highest bit changes."""
    return builder.xor(value, constant(OCTETS, -128))


def quad_products(builder, quad):
    """Return a function of weights and sums: it adds the four products in each lane to the sums."""
    if VNNI:
        name = f"llvm.x86.avx512.vpdpbusd.{8 * BYTES}"
        return lambda weights, sums: call(builder, name, WORDS, sums, weights, quad)
    feature, name = PAIR_PRODUCTS[BYTES]
    if feature in FEATURES:
        return pair_products(builder, name, quad)

    def add(weights, sums):
        for bits in range(0, 32, 8):
            weight = builder.and_(shift(builder.lshr, weights, bits), constant(WORDS, 255))
            factor = shift(builder.ashr, shift(builder.shl, quad, 24 - bits), 24)
            sums = builder.add(sums, builder.mul(weight, factor))
        return sums

    return add


def pair_products(builder, name, quad):
    """Return the same by an instruction that multiplies int16 and adds pairs of products."""
    quad = builder.bitcast(quad, SHORTS)
    even, odd = shift(builder.ashr, shift(builder.shl, quad, 8), 8), shift(builder.ashr, quad, 8)

    def add(weights, sums):
        weights = builder.bitcast(weights, SHORTS)
        for some, factor in (
            (builder.and_(weights, constant(SHORTS, 255)), even),
            (shift(builder.lshr, weights, 8), odd),
        ):
            sums = builder.add(sums, call(builder, name, WORDS, some, factor))
        return sums

    return add


def call(builder, name, kind, *values):
    """Call an instruction by its name in LLVM."""
    function = ir.FunctionType(kind, [value.type for value in values])
    return builder.call(cgutils.get_or_insert_function(builder.module, function, name), values)


def constant(kind, value: int):
    """Return a vector with this integer in every lane."""
    return ir.Constant(kind, [value] * kind.count)


def shift(operation, value, bits: int):
    """Shift every lane by a constant number of bits."""
    return operation(value, constant(value.type, bits)) if bits else value
