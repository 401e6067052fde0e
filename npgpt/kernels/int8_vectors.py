"""Vectors of int8 products: quads, their products, and rows of weights that become quads."""

from llvmlite import ir
from numba.core import cgutils

from npgpt.kernels.cpu import BYTES, FEATURES, REGISTERS, VNNI
from npgpt.kernels.llvm import index, int_vector, load, pointer_to

QUAD = 4  # values of k in a lane
LANES = BYTES // QUAD
WIDTH = BYTES  # columns of a panel: a vector of weights as they are stored
VECTORS = 2  # of a tile's row; a panel has two tiles side by side
COLUMNS = 4  # rows of a transposed matrix that are read side by side
GROUPS = 16  # of k, each with scales of its own (packing_int8.py)
WORDS, FLOATS = (ir.VectorType(kind, LANES) for kind in (ir.IntType(32), ir.FloatType()))
SHORTS, OCTETS = ir.VectorType(ir.IntType(16), BYTES // 2), ir.VectorType(ir.IntType(8), BYTES)
SIGNED = BYTES == 32 and "avx2" in FEATURES and not VNNI  # weights in quads; else 128 is added
# of a tile: sums of integers fit registers, and of floats too, except with SIGNED
ROWS, FEW_ROWS = (7, 4) if REGISTERS == 32 else (4, 4) if SIGNED else (2, 2)
PAIR_PRODUCTS = {  # instructions that multiply int16 and add pairs of products
    64: ("avx512bw", "llvm.x86.avx512.pmaddw.d.512"),
    32: ("avx2", "llvm.x86.avx2.pmadd.wd"),
    16: ("sse2", "llvm.x86.sse2.pmadd.wd"),
}


def loop_blocks(builder):
    """Return the current block, and new ones for a loop and for what follows it."""
    return builder.block, builder.append_basic_block("loop"), builder.append_basic_block("done")


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
    """Return total + factor * sums, rounded twice, as if the products were stored first."""
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
    """Add 128 to int8, which then is unsigned: only the highest bit changes. SIGNED stays."""
    return value if SIGNED else builder.xor(value, constant(OCTETS, -128))


def quad_products(builder, quad):
    """Return a function of weights and sums: it adds the four products in each lane to the sums."""
    if VNNI:
        name = f"llvm.x86.avx512.vpdpbusd.{8 * BYTES}"
        return lambda weights, sums: call(builder, name, WORDS, sums, weights, quad)
    feature, name = PAIR_PRODUCTS[BYTES]
    if SIGNED:
        return signed_products(builder, name, quad)
    if feature in FEATURES:
        return pair_products(builder, name, quad)

    def add(weights, sums):
        for bits in range(0, 32, 8):
            weight = builder.and_(shift(builder.lshr, weights, bits), constant(WORDS, 255))
            factor = shift(builder.ashr, shift(builder.shl, quad, 24 - bits), 24)
            sums = builder.add(sums, builder.mul(weight, factor))
        return sums

    return add


def signed_products(builder, name, quad):
    """Return the same for signed weights.

    `pmaddubsw` adds pairs of products to int16, of an unsigned and a signed number: the magnitude
    of a weight, at most 128, and the activation, at most 127, with the weight's sign. Two products
    are at most 32512.
    """
    quad, ones = builder.bitcast(quad, OCTETS), constant(SHORTS, 1)

    def add(weights, sums):
        weights = builder.bitcast(weights, OCTETS)
        negative = builder.icmp_signed("<", weights, constant(OCTETS, 0))
        magnitudes = builder.select(negative, builder.neg(weights), weights)
        factors = call(builder, "llvm.x86.avx2.psign.b", OCTETS, quad, weights)
        pairs = call(builder, "llvm.x86.avx2.pmadd.ub.sw", SHORTS, magnitudes, factors)
        return builder.add(sums, call(builder, name, WORDS, pairs, ones))

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
