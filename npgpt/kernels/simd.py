"""Copies, transposes and prefetches of whole vectors: what packing needs in addition to loops."""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from npgpt.kernels.llvm import (
    index,
    int_vector,
    load,
    load_as,
    pointer_to,
    prefetch,
    round_to_bfloat16,
    store,
    transpose_square,
    vector,
)


@intrinsic
def copy(context, x, i, out, o):
    """Copy one vector: out[o + n] = x[i + n]. Arrays are flat.

    For an `out` of uint32, x is rounded to bfloat16, where this CPU multiplies no pairs of it.
    """

    def generate(context, builder, signature, values):
        x, i, out, o = values
        value = load_as(context, builder, signature.args[0], x, i, signature.args[2])
        store(builder, value, pointer_to(context, builder, signature.args[2], out, o))
        return context.get_dummy_value()

    return types.void(x, types.intp, out, types.intp), generate


@intrinsic
def copy_pairs(context, x, i, j, both, out, o):
    """Copy one vector of pairs as bfloat16: out[o + n] = x[i + n], x[j + n].

    With `both` 0, the pair is x[i + n] and 0. x is float32 or bfloat16 (its bits in uint16). Arrays
    are flat.
    """

    def generate(context, builder, signature, values):
        x, i, j, both, out, o = values
        kind, dst = signature.args[0], signature.args[4]
        lanes = vector(dst).count
        first, second = (
            load(builder, pointer_to(context, builder, kind, x, at, lanes)) for at in (i, j)
        )
        zero = ir.Constant(second.type, None)
        second = builder.select(builder.icmp_signed("!=", both, index(0)), second, zero)
        concatenated = int_vector(list(range(2 * lanes)))
        interleaved = int_vector([n // 2 + n % 2 * lanes for n in range(2 * lanes)])
        short = round_to_bfloat16(builder, builder.shuffle_vector(first, second, concatenated))
        pairs = builder.shuffle_vector(short, ir.Constant(short.type, ir.Undefined), interleaved)
        store(builder, builder.bitcast(pairs, vector(dst)),
              pointer_to(context, builder, dst, out, o))  # fmt: skip
        return context.get_dummy_value()

    return types.void(x, types.intp, types.intp, types.intp, out, types.intp), generate


@intrinsic
def prefetch_element(context, x, i):
    """Prefetch the cache line of x[i] for reading; i may lie beyond the end of x."""

    def generate(context, builder, signature, values):
        prefetch(builder, pointer_to(context, builder, signature.args[0], *values), write=0)
        return context.get_dummy_value()

    return types.void(x, types.intp), generate


@intrinsic
def fence(context):
    """Make everything this thread has written visible to the others, streamed vectors too."""

    def generate(context, builder, signature, values):
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), generate


@intrinsic
def transpose(context, x, i, stride, rows, out, o, out_stride):
    """Transpose n vectors of n elements: out[o + c out_stride + r] = x[i + r stride + c].

    For an `out` of uint32 the elements are bfloat16; pairs are columns 2c and 2c + 1 of x. Rows
    from `rows` on repeat the last one that exists. Arrays are flat.
    """
    signature = types.void(x, types.intp, types.intp, types.intp, out, types.intp, types.intp)

    def generate(context, builder, signature, values):
        x, i, stride, rows, out, o, out_stride = values
        kind, dst = signature.args[0], signature.args[4]
        n = vector(dst).count
        last = builder.sub(rows, index(1))
        square = []
        for r in range(n):
            row = builder.select(builder.icmp_signed("<", index(r), last), index(r), last)
            at = builder.add(i, builder.mul(row, stride))
            square.append(load_as(context, builder, kind, x, at, dst))
        square = transpose_square(builder, square)
        for c in range(n):
            at = builder.add(o, builder.mul(index(c), out_stride))
            store(builder, square[c], pointer_to(context, builder, dst, out, at))
        return context.get_dummy_value()

    return signature, generate
