"""What kernels say to LLVM itself, where Numba's loops cannot: this CPU's vectors, and how they are
read, written, asked for and multiplied.

`kind` is Numba's type of an array. Numbers of uint16 are the bits of bfloat16 ones, the upper
halves of float32 numbers; of uint32, pairs of them.
"""

from llvmlite import ir
from numba import types
from numba.core import cgutils

from npgpt.arrays import LINE
from npgpt.kernels.cpu import BFLOAT16, BYTES, FMA


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
