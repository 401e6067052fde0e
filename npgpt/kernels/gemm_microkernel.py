"""The register block: the one small product that every large one is made of, in LLVM's own words.

    out = onto + sum over k of outer(left[k], right[k])        ROWS x (VECTORS vectors)

All of its sums stay in the processor's vector registers while k runs, and that is why it reaches
what the processor can do: 28 sums of 16 float32 with AVX-512, where one step of k loads two vectors
from `right`, ROWS numbers from `left`, and makes 28 vector FMAs of them. Numba's loops cannot say
"keep these in registers", LLVM's builder can.

`left` and `right` lie in panels (packing.py): for every k, LEFT numbers of `left`, of which the
first ROWS count, and VECTORS vectors of `right`.

Panels of uint32 hold pairs of bfloat16 numbers, the upper halves of float32 ones: those of terms 2k
and 2k + 1. A step then adds two products to every float32 sum, in one instruction where the CPU has
AVX512_BF16, and so twice as many in the same time.
"""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from npgpt.kernels.cpu import REGISTERS
from npgpt.kernels.llvm import (
    broadcast,
    load,
    merged,
    multiply_add,
    place,
    prefetch,
    store,
    stream,
    vector,
    whole,
)

VECTORS = 2
ROWS = 14 if REGISTERS == 32 else 6
LEFT = 16 if ROWS > 8 else 8  # numbers of a left panel per k: ROWS, and up to a whole vector
AHEAD = 64  # terms of a left panel: what lies so far ahead is asked for, be it the next panel's


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
