"""Vectors from one place to another: what packing needs beside loops."""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from npgpt.kernels.llvm import bfloat16, load, numbers, place, prefetch, read, store, vector, whole


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
