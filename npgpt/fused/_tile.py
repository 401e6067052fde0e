"""The register block: the one small product that every large one is made of, in LLVM's own words.

    out = onto + sum over k of outer(left[k], right[k])        ROWS x (VECTORS vectors)

All of its sums stay in the processor's vector registers while k runs, and that is why it reaches
what the processor can do: 28 sums of 16 float32 with AVX-512, where one step of k loads two vectors
from `right`, ROWS numbers from `left`, and makes 28 vector FMAs of them. Numba's loops cannot say
"keep these in registers", LLVM's builder can; this module is all that is said to it.

`left` and `right` lie in panels (_panels.py): for every k, LEFT numbers of `left`, of which the
first ROWS count, and VECTORS vectors of `right`.

Panels of uint32 hold pairs of bfloat16 numbers, the upper halves of float32 ones: those of terms 2k
and 2k + 1. A step then adds two products to every float32 sum, in one instruction where the CPU has
AVX512_BF16, and so twice as many in the same time.

Beside it what packing needs: `copy`, `transpose` and `fetch`; and `barrier`.
"""

import numba
from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from npgpt.arrays import LINE


def cpu_features() -> frozenset[str]:
    """What the kernels may use: of this CPU, unless NUMBA_CPU_FEATURES says otherwise."""
    asked = numba.config.CPU_FEATURES
    text = binding.get_host_cpu_features().flatten() if asked is None else asked
    return frozenset(name[1:] for name in text.split(",") if name.startswith("+"))


FEATURES = cpu_features()
BYTES = 64 if "avx512f" in FEATURES else 32 if "avx" in FEATURES else 16  # of a vector register
VECTORS = 2
ROWS = 14 if FEATURES & {"avx512f", "neon"} else 6  # 32 registers there, 16 elsewhere
LEFT = 16 if ROWS > 8 else 8  # numbers of a left panel per k: ROWS, and up to a whole vector
AHEAD = 64  # terms of a left panel: what lies so far ahead is asked for, be it the next panel's
BFLOAT16 = FEATURES >= {"avx512f", "avx512bf16"}  # can it multiply pairs of bfloat16 numbers?
FMA = bool(FEATURES & {"fma", "neon"})  # without, LLVM would call a function for every one


@intrinsic
def tile(
    context, left, l, right, r, right_stride, terms, onto, t, onto_stride, adds, out, o, stride,
    streams,
):  # fmt: skip
    """out[o + i stride + j] = onto[t + i onto_stride + j] + sum of k < terms of
    left[l + k LEFT + i] * right[r + k right_stride + j], for i < ROWS and j < VECTORS
    vectors.

    Arrays are flat; what they are indexed with counts numbers. With `adds` 0, `onto` is not read;
    it may be `out` itself. With `streams` 1, the tile goes past the caches into memory, which then
    need not be read before: its rows must begin where cache lines do, and other threads see it
    after a `barrier`.
    """
    signature = types.void(
        left, types.intp, right, types.intp, types.intp, types.intp, onto, types.intp, types.intp,
        types.intp, out, types.intp, types.intp, types.intp,
    )  # fmt: skip

    def generate(context, builder, signature, values):
        left, l, right, r, right_stride, terms, onto, t, onto_stride = values[:9]
        adds, out, o, stride, streams = values[9:]
        adds, streams = (builder.icmp_signed("!=", flag, whole(0)) for flag in (adds, streams))
        kinds = signature.args
        lanes = vector(kinds[10]).count
        places = [(i, j) for i in range(ROWS) for j in range(VECTORS)]

        def spot(number, array, start, stride, i, j):
            at = builder.add(start, builder.mul(whole(i), stride))
            return place(context, builder, kinds[number], array, builder.add(at, whole(j * lanes)))

        blocks = "asking", "loop", "summed", "adding", "ending", "streaming", "writing", "end"
        begin, blocks = builder.block, [builder.append_basic_block(name) for name in blocks]
        asking, loop, summed, adding, ending, streaming, writing, end = blocks
        builder.cbranch(streams, loop, asking)

        builder.position_at_end(asking)
        for i, j in places:  # they are on their way while the loop runs
            prefetch(builder, spot(10, out, o, stride, i, j), write=1)
        builder.branch(loop)

        builder.position_at_end(loop)
        k = merged(builder, terms.type, {begin: whole(0), asking: whole(0)})
        none = ir.Constant(vector(kinds[10]), None)
        sums = [merged(builder, none.type, {begin: none, asking: none}) for _ in places]
        line = builder.add(l, builder.mul(k, whole(LEFT)))
        ahead = place(context, builder, kinds[0], left, builder.add(line, whole(AHEAD * LEFT)))
        prefetch(builder, ahead, write=0)
        row = builder.add(r, builder.mul(k, right_stride))
        factors = [load(builder, spot(2, right, row, whole(0), 0, j)) for j in range(VECTORS)]
        grown = []
        for i in range(ROWS):
            factor = broadcast(context, builder, kinds[0], left, builder.add(line, whole(i)))
            for j in range(VECTORS):
                grown.append(multiply_add(builder, factor, factors[j], sums[len(grown)]))
        following = builder.add(k, whole(1))
        k.add_incoming(following, loop)
        for total, new in zip(sums, grown, strict=True):
            total.add_incoming(new, loop)
        builder.cbranch(builder.icmp_signed("<", following, terms), loop, summed)

        builder.position_at_end(summed)
        builder.cbranch(adds, adding, ending)
        builder.position_at_end(adding)
        before = [load(builder, spot(6, onto, t, onto_stride, i, j)) for i, j in places]
        added = [builder.fadd(*both) for both in zip(before, grown, strict=True)]
        builder.branch(ending)
        builder.position_at_end(ending)
        totals = [
            merged(builder, none.type, {summed: new, adding: total})
            for new, total in zip(grown, added, strict=True)
        ]
        builder.cbranch(streams, streaming, writing)
        for block, put in (streaming, stream), (writing, store):
            builder.position_at_end(block)
            for total, (i, j) in zip(totals, places, strict=True):
                put(builder, total, spot(10, out, o, stride, i, j))
            builder.branch(end)
        builder.position_at_end(end)
        return context.get_dummy_value()

    return signature, generate


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


@intrinsic
def copy(context, x, i, out, o):
    """One vector: out[o + n] = x[i + n]. Arrays are flat."""

    def generate(context, builder, signature, values):
        x, i, out, o = values
        moved = load(builder, place(context, builder, signature.args[0], x, i))
        store(builder, moved, place(context, builder, signature.args[2], out, o))
        return context.get_dummy_value()

    return types.void(x, types.intp, out, types.intp), generate


@intrinsic
def copy_pairs(context, x, i, j, both, out, o):
    """One vector of pairs, as bfloat16: out[o + n] = x[i + n], x[j + n]; with `both` 0, a pair of
    x[i + n] and 0. x is float32, bfloat16 (its bits in uint16) or int8. Arrays are flat."""

    def generate(context, builder, signature, values):
        x, i, j, both, out, o = values
        kind, home = signature.args[0], signature.args[4]
        lanes = vector(home).count
        first, second = (
            load(builder, place(context, builder, kind, x, at, lanes)) for at in (i, j)
        )
        none = ir.Constant(second.type, None)
        second = builder.select(builder.icmp_signed("!=", both, whole(0)), second, none)
        one_after_the_other = numbers(list(range(2 * lanes)))
        in_turns = numbers([n // 2 + n % 2 * lanes for n in range(2 * lanes)])
        short = bfloat16(builder, builder.shuffle_vector(first, second, one_after_the_other))
        pairs = builder.shuffle_vector(short, ir.Constant(short.type, ir.Undefined), in_turns)
        store(builder, builder.bitcast(pairs, vector(home)),
              place(context, builder, home, out, o))  # fmt: skip
        return context.get_dummy_value()

    return types.void(x, types.intp, types.intp, types.intp, out, types.intp), generate


@intrinsic
def fetch(context, x, i):
    """Asks for the cache line of x[i], which will soon be read. It may lie beyond the end of x."""

    def generate(context, builder, signature, values):
        prefetch(builder, place(context, builder, signature.args[0], *values), write=0)
        return context.get_dummy_value()

    return types.void(x, types.intp), generate


@intrinsic
def barrier(context):
    """What this thread has written until now, streamed too, can be read by all others."""

    def generate(context, builder, signature, values):
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), generate


@intrinsic
def transpose(context, x, i, stride, rows, out, o, out_stride):
    """A square of n vectors of n numbers: out[o + c out_stride + r] = x[i + r stride + c].

    Into uint32 go pairs: columns 2c and 2c + 1 of x, as bfloat16. Of the rows from `rows` on, the
    last one that is there is read again. Arrays are flat. The square's quarters change places, then
    the quarters' quarters, log2(n) times.
    """
    signature = types.void(x, types.intp, types.intp, types.intp, out, types.intp, types.intp)

    def generate(context, builder, signature, values):
        x, i, stride, rows, out, o, out_stride = values
        kind, home = signature.args[0], signature.args[4]
        n = vector(home).count
        last = builder.sub(rows, whole(1))
        square = []
        for r in range(n):
            row = builder.select(builder.icmp_signed("<", whole(r), last), whole(r), last)
            at = builder.add(i, builder.mul(row, stride))
            square.append(read(context, builder, kind, x, at, home))
        step = n // 2
        while step:
            # of the lanes of two rows side by side, 0..2n: what each of the two takes
            upper = numbers([j if not j & step else n + j - step for j in range(n)])
            lower = numbers([j + step if not j & step else n + j for j in range(n)])
            for r in range(n):
                if not r & step:
                    a, b = square[r], square[r + step]
                    square[r] = builder.shuffle_vector(a, b, upper)
                    square[r + step] = builder.shuffle_vector(a, b, lower)
            step //= 2
        for c in range(n):
            at = builder.add(o, builder.mul(whole(c), out_stride))
            store(builder, square[c], place(context, builder, home, out, at))
        return context.get_dummy_value()

    return signature, generate


# A few words of LLVM. `kind` is Numba's type of an array.


class BFloat(ir.Type):
    """LLVM's bfloat, which llvmlite has no name for."""

    def _to_string(self):
        return "bfloat"

    def __eq__(self, other):
        return isinstance(other, BFloat)

    def __hash__(self):
        return hash(BFloat)


WORDS = {  # the numbers of an array, and what stands for them in LLVM
    types.float32: ir.FloatType(),
    types.float64: ir.DoubleType(),
    types.uint32: ir.IntType(32),  # pairs of bfloat16
    types.uint16: ir.IntType(16),  # bfloat16
    types.int8: ir.IntType(8),
}


def vector(kind, lanes: int | None = None) -> ir.VectorType:
    """A register of numbers of this array's dtype, or so many lanes."""
    return ir.VectorType(WORDS[kind.dtype], lanes or BYTES * 8 // kind.dtype.bitwidth)


def whole(number: int):
    """An index that is known now."""
    return ir.Constant(ir.IntType(types.intp.bitwidth), number)


def numbers(values: list[int]):
    """A vector of 32-bit whole numbers that are known now."""
    return ir.Constant(ir.VectorType(ir.IntType(32), len(values)), values)


def merged(builder, kind, incoming):
    """What is one value or another, by the block one comes from."""
    value = builder.phi(kind)
    for block, one in incoming.items():
        value.add_incoming(one, block)
    return value


def place(context, builder, kind, array, index, lanes: int | None = None):
    """The address of the vector that begins at array[index]."""
    data = context.make_array(kind)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), vector(kind, lanes).as_pointer())


def load(builder, address):
    """The vector there; it need not begin at a multiple of its size."""
    return builder.load(address, align=1)


def store(builder, value, address):
    """A vector to where it need not be aligned."""
    builder.store(value, address, align=1)


def stream(builder, value, address):
    """A vector to where it is aligned, past the caches."""
    once = builder.module.add_metadata([ir.Constant(ir.IntType(32), 1)])
    builder.store(value, address, align=BYTES).set_metadata("nontemporal", once)


def read(context, builder, kind, array, index, home):
    """A vector for `home`, of as many bytes: numbers of its dtype, or bfloat16 pairs of others."""
    if kind.dtype == home.dtype:
        return load(builder, place(context, builder, kind, array, index))
    lanes = 2 * vector(home).count
    some = load(builder, place(context, builder, kind, array, index, lanes))
    return builder.bitcast(bfloat16(builder, some), vector(home))


def bfloat16(builder, value):
    """Numbers as the bits of bfloat16, rounded to nearest even; NaN stays NaN."""
    bits = ir.VectorType(ir.IntType(16), value.type.count)
    if value.type.element == ir.IntType(16):
        return value
    if value.type.element == ir.IntType(8):
        value = widened(builder, value)
    if BFLOAT16:
        return builder.bitcast(shortened(builder, value), bits)
    # half of what is cut off is added, less one where what stays is even; a NaN is made quiet
    word = builder.bitcast(value, ir.VectorType(ir.IntType(32), value.type.count))
    kept, one = builder.lshr(word, numbers([16] * value.type.count)), [1] * value.type.count
    half = builder.add(builder.and_(kept, numbers(one)), numbers([0x7FFF] * value.type.count))
    rounded = builder.lshr(builder.add(word, half), numbers([16] * value.type.count))
    quiet = builder.or_(kept, numbers([64] * value.type.count))
    nan = builder.fcmp_unordered("uno", value, value)
    return builder.trunc(builder.select(nan, quiet, rounded), bits)


def shortened(builder, value):
    """float32 as LLVM's bfloat, by the CPU's instruction: one for two vectors, where there are."""
    count = value.type.count
    if count != BYTES // 2:  # lanes of two vectors of float32
        return builder.fptrunc(value, ir.VectorType(BFloat(), count))
    halves = [
        builder.shuffle_vector(value, value, numbers(list(range(first, first + count // 2))))
        for first in (0, count // 2)
    ]
    kind = halves[0].type
    function = ir.FunctionType(ir.VectorType(BFloat(), count), [kind, kind])
    name = "llvm.x86.avx512bf16.cvtne2ps2bf16.512"  # the one that comes later first
    function = cgutils.get_or_insert_function(builder.module, function, name)
    return builder.call(function, halves[::-1])


def widened(builder, value):
    """bfloat16 (its bits) and int8 as float32; float32 and float64 as they are."""
    wide = ir.VectorType(ir.FloatType(), value.type.count)
    if value.type.element == ir.IntType(8):
        return builder.sitofp(value, wide)
    if value.type.element == ir.IntType(16):
        bits = ir.VectorType(ir.IntType(32), value.type.count)
        return builder.bitcast(upper(builder, builder.zext(value, bits)), wide)
    return value


def upper(builder, bits):
    """Moves the lower half of 32 bits up."""
    return builder.shl(bits, numbers([16] * bits.type.count))


def prefetch(builder, address, *, write, locality=3):
    """Asks for what lies there, to be written or only read: into all caches, with locality 2 not
    into the first one. It need not be anybody's."""
    address, number = builder.bitcast(address, ir.IntType(8).as_pointer()), ir.IntType(32)
    kind = ir.FunctionType(ir.VoidType(), [address.type, number, number, number])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    builder.call(function, [address, *(ir.Constant(number, n) for n in (write, locality, 1))])


def ask(builder, address, step, count):
    """Asks for lines step * count to (step + 1) * count from there on: into the second cache, which
    has room for what is needed later."""
    first = builder.add(address, builder.mul(step, whole(count * LINE)))
    for line in range(count):
        at = builder.add(first, whole(line * LINE))
        prefetch(builder, builder.inttoptr(at, ir.IntType(8).as_pointer()), write=0, locality=2)


def asked_for(rows: int, kind) -> bool:
    """Are the numbers of b asked for? With AVX-512 always. Zen, with AVX2 alone, read float32 for
    one row a tenth slower when told what comes; with more to do for each byte it looks less far and
    needs to be told: for four rows, or of bfloat16 and int8, which came twice as fast."""
    return BYTES == LINE or rows > 1 or kind.dtype.bitwidth < 32


def total_of(builder, value):
    """The sum of a vector's numbers: of both halves, until one is left."""
    count = value.type.count
    while count > 1:
        count //= 2
        halves = (
            builder.shuffle_vector(value, value, numbers(list(range(first, first + count))))
            for first in (0, count)
        )
        value = builder.fadd(*halves)
    return builder.extract_element(value, ir.Constant(ir.IntType(32), 0))


def broadcast(context, builder, kind, array, index):
    """array[index] in every lane."""
    data = context.make_array(kind)(context, builder, array).data
    one = builder.load(builder.gep(data, [index]))
    nothing = ir.Constant(vector(kind), ir.Undefined)
    first = builder.insert_element(nothing, one, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(first, nothing, numbers([0] * vector(kind).count))


def multiply_add(builder, a, b, total):
    """a * b + total; of pairs, both products."""
    if a.type.element == ir.IntType(32):
        return add_pairs(builder, a, b, total)
    if not FMA:
        return builder.fadd(builder.fmul(a, b), total)
    kind = a.type  # with one rounding
    name = f"llvm.fma.v{kind.count}f{64 if kind.element == ir.DoubleType() else 32}"
    function = ir.FunctionType(kind, [kind] * 3)
    return builder.call(
        cgutils.get_or_insert_function(builder.module, function, name), [a, b, total]
    )


def add_pairs(builder, a, b, total):
    """The two products of bfloat16 pairs, added to float32 sums."""
    if BFLOAT16:
        pairs = ir.VectorType(BFloat(), 2 * a.type.count)
        function = ir.FunctionType(total.type, [total.type, pairs, pairs])
        name = "llvm.x86.avx512bf16.dpbf16ps.512"
        a, b = builder.bitcast(a, pairs), builder.bitcast(b, pairs)
        function = cgutils.get_or_insert_function(builder.module, function, name)
        return builder.call(function, [total, a, b])
    # a product of two bfloat16 numbers is exact in float32: nothing but the time differs
    mask = numbers([0xFFFF0000] * a.type.count)
    for half in (upper, lambda builder, bits: builder.and_(bits, mask)):
        a_half, b_half = (builder.bitcast(half(builder, x), total.type) for x in (a, b))
        total = multiply_add(builder, a_half, b_half, total)
    return total
