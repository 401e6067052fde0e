"""The microkernel: a small product of which every large one is made (BLIS; Van Zee and van de Geijn
2015), written in LLVM's instructions.

    out = addend + sum over k of outer(left[k], right[k])        rows x (VECTORS vectors)

All sums stay in vector registers while k runs, so that it reaches the peak rate of the processor.
With AVX-512 these are 28 sums of 16 float32: one step of k loads two vectors from `right` and MR
elements from `left`, and makes 28 vector FMAs of them. Numba's loops cannot keep values in
registers; LLVM's builder can.

`left` and `right` are packed into panels (packing.py): for every k, LEFT elements of `left`, of
which MR are used, and VECTORS vectors of `right`. The last rows of `left` may fit a tile of
FEW_ROWS: 512 rows are 36 tiles of 14 and one of 8.

Panels of uint32 hold bfloat16 operands. With AVX512_BF16 these are pairs, the elements of k = 2i
and 2i + 1: a step adds two products to every float32 sum in one instruction, at twice the rate.
Without it, an element is the bits of a float32 whose lower half is 0: products of float32. A
product of two bfloat16 numbers is exact in float32.
"""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from npgpt.kernels.cpu import REGISTERS
from npgpt.kernels.llvm import (
    broadcast,
    index,
    load,
    multiply_add,
    phi,
    pointer_to,
    prefetch,
    store,
    stream,
    vector,
)

VECTORS = 2  # NR, in vectors
MR = 14 if REGISTERS == 32 else 6
FEW_ROWS = 8 if REGISTERS == 32 else 2  # of the last tile
LEFT = 16 if MR > 8 else 8  # elements of a left panel per k: MR, rounded up to a vector
STEPS = 1 if REGISTERS == 32 else 2  # of k in a loop: they read a line of a left panel
AHEAD = 64  # values of k by which a left panel is prefetched, past its end into the next panel


@intrinsic(prefer_literal=True)
def microkernel(
    context, rows, left, l, right, r, right_stride, K, addend, t, addend_stride, adds, out, o,
    stride, streams,
):  # fmt: skip
    """out[o + i stride + j] = addend[t + i addend_stride + j] + sum of k < K of
    left[l + k LEFT + i] * right[r + k right_stride + j], for i < rows and j < VECTORS vectors.

    `rows` is a constant. Arrays are flat, and indices count elements. With `adds` 0, `addend` is
    not read; it may be `out` itself. With `streams` 1, the tile is written past the caches, so that
    its lines are not read first: its rows must begin at cache lines, and other threads see it after
    a `fence`.
    """
    signature = types.void(
        rows, left, types.intp, right, types.intp, types.intp, types.intp, addend, types.intp,
        types.intp, types.intp, out, types.intp, types.intp, types.intp,
    )  # fmt: skip

    def generate(context, builder, signature, values):
        left, l, right, r, right_stride, K, addend, t, addend_stride = values[1:10]
        adds, out, o, stride, streams = values[10:]
        adds, streams = (builder.icmp_signed("!=", flag, index(0)) for flag in (adds, streams))
        height, *kinds = signature.args
        lanes = vector(kinds[10]).count
        tile = [(i, j) for i in range(height.literal_value) for j in range(VECTORS)]

        def at(number, array, start, stride, i, j):
            position = builder.add(start, builder.mul(index(i), stride))
            position = builder.add(position, index(j * lanes))
            return pointer_to(context, builder, kinds[number], array, position)

        def step(k, sums):
            """Return the sums after one step of k."""
            line = builder.add(l, builder.mul(k, index(LEFT)))
            row = builder.add(r, builder.mul(k, right_stride))
            factors = [load(builder, at(2, right, row, index(0), 0, j)) for j in range(VECTORS)]
            grown = []
            for i in range(height.literal_value):
                factor = broadcast(context, builder, kinds[0], left, builder.add(line, index(i)))
                for j in range(VECTORS):
                    grown.append(multiply_add(builder, factor, factors[j], sums[len(grown)]))
            return grown

        def phis(incoming):
            """Return one sum for each lane of the tile, from the blocks control may come from."""
            lists = zip(*incoming.values(), strict=True)
            return [phi(builder, zero.type, dict(zip(incoming, one, strict=True))) for one in lists]

        names = "prefetching", "entry", "loop", "rest", "odd", "summed", "adding", "ending"
        blocks = [builder.append_basic_block(name) for name in names]
        prefetching, entry, loop, rest, odd, summed, adding, ending = blocks
        streaming, writing, end = map(builder.append_basic_block, ("streaming", "writing", "end"))
        zero = ir.Constant(vector(kinds[10]), None)
        zeros = [zero for _ in tile]
        builder.cbranch(streams, entry, prefetching)

        builder.position_at_end(prefetching)
        for i, j in tile:  # they arrive while the loop runs
            prefetch(builder, at(10, out, o, stride, i, j), write=1)
        builder.branch(entry)

        builder.position_at_end(entry)
        whole = builder.and_(K, index(-STEPS))
        enough = builder.icmp_signed("<", index(0), whole)
        builder.cbranch(enough if STEPS > 1 else ir.Constant(ir.IntType(1), 1), loop, rest)

        builder.position_at_end(loop)
        k = phi(builder, K.type, {entry: index(0)})
        sums = phis({entry: zeros})
        ahead = builder.add(builder.add(l, builder.mul(k, index(LEFT))), index(AHEAD * LEFT))
        prefetch(builder, pointer_to(context, builder, kinds[0], left, ahead), write=0)
        grown = sums
        for n in range(STEPS):
            grown = step(builder.add(k, index(n)), grown)
        following = builder.add(k, index(STEPS))
        k.add_incoming(following, loop)
        for total, new in zip(sums, grown, strict=True):
            total.add_incoming(new, loop)
        builder.cbranch(builder.icmp_signed("<", following, whole), loop, rest)

        builder.position_at_end(rest)
        most = phis({entry: zeros, loop: grown})
        builder.cbranch(builder.icmp_signed("<", whole, K), odd, summed)
        builder.position_at_end(odd)
        last = step(whole, most)
        builder.branch(summed)

        builder.position_at_end(summed)
        grown = phis({rest: most, odd: last})
        builder.cbranch(adds, adding, ending)
        builder.position_at_end(adding)
        before = [load(builder, at(6, addend, t, addend_stride, i, j)) for i, j in tile]
        added = [builder.fadd(*both) for both in zip(before, grown, strict=True)]
        builder.branch(ending)
        builder.position_at_end(ending)
        totals = phis({summed: grown, adding: added})
        builder.cbranch(streams, streaming, writing)
        for block, write in (streaming, stream), (writing, store):
            builder.position_at_end(block)
            for total, (i, j) in zip(totals, tile, strict=True):
                write(builder, total, at(10, out, o, stride, i, j))
            builder.branch(end)
        builder.position_at_end(end)
        return context.get_dummy_value()

    return signature, generate
