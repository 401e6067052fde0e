"""LLVM instructions that Numba's loops cannot express: loads, stores, prefetches and products of
this CPU's vectors.

`kind` is Numba's type of an array. uint16 stands for bfloat16, the upper half of a float32; uint32
for pairs of bfloat16. A CPU that does not multiply pairs (AVX512_BF16) has one number in a uint32:
the bits of a float32 whose lower half is 0.
"""

from llvmlite import ir
from numba import types
from numba.core import cgutils

from npgpt.arrays import LINE
from npgpt.kernels.cpu import BFLOAT16, BYTES, FMA


class BFloat(ir.Type):
    """LLVM's bfloat, for which llvmlite has no class."""

    def _to_string(self):
        return "bfloat"

    def __eq__(self, other):
        return isinstance(other, BFloat)

    def __hash__(self):
        return hash(BFloat)


LLVM_TYPES = {  # of an array's elements
    types.float32: ir.FloatType(),
    types.float64: ir.DoubleType(),
    types.int32: ir.IntType(32),
    types.uint32: ir.IntType(32),  # bfloat16 operands, quads of int8
    types.uint16: ir.IntType(16),  # bfloat16
    types.int8: ir.IntType(8),
}


def vector(kind, lanes: int | None = None) -> ir.VectorType:
    """Return the type of a vector of this array's dtype: a full register, or `lanes` elements."""
    return ir.VectorType(LLVM_TYPES[kind.dtype], lanes or BYTES * 8 // kind.dtype.bitwidth)


def index(value: int):
    """Return a constant index."""
    return ir.Constant(ir.IntType(types.intp.bitwidth), value)


def int_vector(values: list[int]):
    """Return a constant vector of 32-bit integers."""
    return ir.Constant(ir.VectorType(ir.IntType(32), len(values)), values)


def phi(builder, kind, incoming):
    """Return the value that belongs to the block control came from."""
    value = builder.phi(kind)
    for block, one in incoming.items():
        value.add_incoming(one, block)
    return value


def pointer_to(context, builder, kind, array, i, lanes: int | None = None):
    """Return a pointer to the vector that begins at array[i]."""
    data = context.make_array(kind)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [i]), vector(kind, lanes).as_pointer())


def load(builder, pointer):
    """Load a vector, aligned or not."""
    return builder.load(pointer, align=1)


def store(builder, value, pointer):
    """Store a vector, aligned or not."""
    builder.store(value, pointer, align=1)


def stream(builder, value, pointer):
    """Store an aligned vector past the caches (a non-temporal store)."""
    once = builder.module.add_metadata([ir.Constant(ir.IntType(32), 1)])
    builder.store(value, pointer, align=BYTES).set_metadata("nontemporal", once)


def load_as(context, builder, kind, array, i, dst):
    """Load a vector for `dst`: of its dtype, or rounded to bfloat16 if that differs."""
    if kind.dtype == dst.dtype:
        return load(builder, pointer_to(context, builder, kind, array, i))
    lanes = (2 if BFLOAT16 else 1) * vector(dst).count
    values = load(builder, pointer_to(context, builder, kind, array, i, lanes))
    short = round_to_bfloat16(builder, values)
    if BFLOAT16:
        return builder.bitcast(short, vector(dst))
    return shift_up(builder, builder.zext(short, vector(dst)))


def round_to_bfloat16(builder, value):
    """Round to the bits of bfloat16, to nearest even; NaN stays NaN. uint16 is left as it is."""
    bits = ir.VectorType(ir.IntType(16), value.type.count)
    if value.type.element == ir.IntType(16):
        return value
    if BFLOAT16:
        return builder.bitcast(convert_to_bfloat(builder, value), bits)
    # add half of the part that is cut off, less one if the kept part is even; a NaN is made quiet
    word = builder.bitcast(value, ir.VectorType(ir.IntType(32), value.type.count))
    kept, one = builder.lshr(word, int_vector([16] * value.type.count)), [1] * value.type.count
    half = builder.add(builder.and_(kept, int_vector(one)), int_vector([0x7FFF] * value.type.count))
    rounded = builder.lshr(builder.add(word, half), int_vector([16] * value.type.count))
    quiet = builder.or_(kept, int_vector([64] * value.type.count))
    nan = builder.fcmp_unordered("uno", value, value)
    return builder.trunc(builder.select(nan, quiet, rounded), bits)


def convert_to_bfloat(builder, value):
    """Convert float32 to LLVM's bfloat: two full vectors with one instruction of the CPU."""
    count = value.type.count
    if count != BYTES // 2:  # the lanes of two vectors of float32
        return builder.fptrunc(value, ir.VectorType(BFloat(), count))
    halves = [
        builder.shuffle_vector(value, value, int_vector(list(range(first, first + count // 2))))
        for first in (0, count // 2)
    ]
    kind = halves[0].type
    function = ir.FunctionType(ir.VectorType(BFloat(), count), [kind, kind])
    name = "llvm.x86.avx512bf16.cvtne2ps2bf16.512"  # takes the upper half first
    function = cgutils.get_or_insert_function(builder.module, function, name)
    return builder.call(function, halves[::-1])


def widen(builder, value):
    """Convert bfloat16 (its bits) to float32; float32 and float64 are left as they are."""
    wide = ir.VectorType(ir.FloatType(), value.type.count)
    if value.type.element == ir.IntType(16):
        bits = ir.VectorType(ir.IntType(32), value.type.count)
        return builder.bitcast(shift_up(builder, builder.zext(value, bits)), wide)
    return value


def shift_up(builder, bits):
    """Move the lower 16 of 32 bits up."""
    return builder.shl(bits, int_vector([16] * bits.type.count))


def prefetch(builder, pointer, *, write, locality=3):
    """Prefetch a cache line, to be written or only read; the pointer need not be valid.

    `locality` 3: into all caches. 2: not into the first-level cache.
    """
    pointer, number = builder.bitcast(pointer, ir.IntType(8).as_pointer()), ir.IntType(32)
    kind = ir.FunctionType(ir.VoidType(), [pointer.type, number, number, number])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    builder.call(function, [pointer, *(ir.Constant(number, n) for n in (write, locality, 1))])


def prefetch_lines(builder, address, step, count):
    """Prefetch the lines from step * count to (step + 1) * count after an address.

    They go into the second-level cache, which is large enough for data that is needed later.
    """
    first = builder.add(address, builder.mul(step, index(count * LINE)))
    for line in range(count):
        at = builder.add(first, index(line * LINE))
        prefetch(builder, builder.inttoptr(at, ir.IntType(8).as_pointer()), write=0, locality=2)


def horizontal_sum(builder, value):
    """Return the sum of a vector's lanes: halves are added until one lane is left."""
    count = value.type.count
    while count > 1:
        count //= 2
        halves = (
            builder.shuffle_vector(value, value, int_vector(list(range(first, first + count))))
            for first in (0, count)
        )
        value = builder.fadd(*halves)
    return builder.extract_element(value, ir.Constant(ir.IntType(32), 0))


def pairs_in_order(builder, first, second):
    """Return two vectors of pairs (uint32) of two rows of bfloat16: first[n], second[n]."""
    count = first.type.count
    return interleave(builder, first, second, [range(count // 2), range(count // 2, count)])


def pairs_in_lanes(builder, first, second):
    """The same with one cheap instruction each, in the order of `restore_lanes`: of each 8 numbers,
    4 pairs are in one vector and 4 in the other."""
    starts = range(0, first.type.count, 8)
    halves = ([n for start in starts for n in range(start + h, start + h + 4)] for h in (0, 4))
    return interleave(builder, first, second, halves)


def interleave(builder, first, second, halves):
    """Return a vector of pairs for each of the lists of lanes."""
    count = first.type.count
    kind = ir.VectorType(ir.IntType(32), count // 2)
    orders = [int_vector([i for n in lanes for i in (n, n + count)]) for lanes in halves]
    mixed = (builder.shuffle_vector(first, second, order) for order in orders)
    return [builder.bitcast(value, kind) for value in mixed]


def restore_lanes(builder, first, second):
    """Return the sums of `pairs_in_lanes` in the order of the columns, two vectors."""
    count = first.type.count
    order = [n for start in range(0, count, 4) for half in (start, start + count)
             for n in range(half, half + 4)]  # fmt: skip
    orders = int_vector(order[:count]), int_vector(order[count:])
    return [builder.shuffle_vector(first, second, part) for part in orders]


def transpose_square(builder, square: list) -> list:
    """Transpose n vectors of n elements.

    The quarters of the square change places, then the quarters of the quarters, log2(n) times.
    """
    square, n = list(square), len(square)
    step = n // 2
    while step:
        # of the lanes 0..2n of two rows side by side: the ones that each of the two receives
        upper = int_vector([j if not j & step else n + j - step for j in range(n)])
        lower = int_vector([j + step if not j & step else n + j for j in range(n)])
        for r in range(n):
            if not r & step:
                a, b = square[r], square[r + step]
                square[r] = builder.shuffle_vector(a, b, upper)
                square[r + step] = builder.shuffle_vector(a, b, lower)
        step //= 2
    return square


def broadcast(context, builder, kind, array, i):
    """Return a vector with array[i] in every lane."""
    data = context.make_array(kind)(context, builder, array).data
    one = builder.load(builder.gep(data, [i]))
    undefined = ir.Constant(vector(kind), ir.Undefined)
    first = builder.insert_element(undefined, one, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(first, undefined, int_vector([0] * vector(kind).count))


def multiply_add(builder, a, b, total):
    """a * b + total; for pairs, both products are added."""
    if a.type.element == ir.IntType(32):
        if BFLOAT16:
            return add_pairs(builder, a, b, total)
        a, b = (builder.bitcast(x, total.type) for x in (a, b))
    if not FMA:
        return builder.fadd(builder.fmul(a, b), total)
    kind = a.type  # with one rounding
    name = f"llvm.fma.v{kind.count}f{64 if kind.element == ir.DoubleType() else 32}"
    function = ir.FunctionType(kind, [kind] * 3)
    return builder.call(
        cgutils.get_or_insert_function(builder.module, function, name), [a, b, total]
    )


def add_pairs(builder, a, b, total):
    """Add the two products of bfloat16 pairs to float32 sums."""
    pairs = ir.VectorType(BFloat(), 2 * a.type.count)
    function = ir.FunctionType(total.type, [total.type, pairs, pairs])
    name = "llvm.x86.avx512bf16.dpbf16ps.512"
    a, b = builder.bitcast(a, pairs), builder.bitcast(b, pairs)
    function = cgutils.get_or_insert_function(builder.module, function, name)
    return builder.call(function, [total, a, b])
