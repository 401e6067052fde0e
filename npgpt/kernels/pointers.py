"""Arrays by their addresses: how one kernel reads the parameters of any number of blocks.

Numba compiles a kernel anew for every length of a tuple that it is given, and unpacking one takes
time for every array in it. A table of addresses is one array.
"""

from llvmlite import ir
from numba import carray, types
from numba.extending import intrinsic

from npgpt.arrays import Array
from npgpt.kernels.jit import inner
from npgpt.kernels.llvm import prefetch


def address(array: Array | None, dtype) -> int:
    """Where it begins; 0 of None. Whoever reads there has to keep the array meanwhile."""
    if array is None:
        return 0
    if array.dtype != dtype or not array.flags.c_contiguous:
        raise ValueError(
            f"a kernel wants contiguous {dtype} numbers, not {array.dtype} ones of strides "
            f"{array.strides} in an array {array.shape}"
        )
    return array.ctypes.data


@inner
def array_at(place, shape, like):
    """The array there, of the dtype of `like`."""
    return carray(pointer(place, like), shape)


@intrinsic
def pointer(context, place, like):
    """An address, as that of numbers like these."""

    def generate(context, builder, signature, values):
        kind = context.get_value_type(signature.return_type)
        return builder.inttoptr(values[0], kind)

    return types.CPointer(like.dtype)(types.intp, like), generate


@intrinsic
def fetch_at(context, place):
    """Asks for the cache line there, into the second cache. It need not be anybody's."""

    def generate(context, builder, signature, values):
        where = builder.inttoptr(values[0], ir.IntType(8).as_pointer())
        prefetch(builder, where, write=0, locality=2)
        return context.get_dummy_value()

    return types.void(types.intp), generate
