"""Arrays by their addresses: a kernel reads the parameters of any number of blocks.

Numba compiles a kernel again for every length of a tuple, and unpacking a tuple takes time for
every array in it. A table of addresses is one array.
"""

from llvmlite import ir
from numba import carray, types
from numba.extending import intrinsic

from npgpt.arrays import Array
from npgpt.kernels.jit import inner
from npgpt.kernels.llvm import prefetch


def address(array: Array | None, dtype) -> int:
    """Return the address of the array's first element, or 0 for None.

    The caller must keep the array alive while the address is in use.
    """
    if array is None:
        return 0
    if array.dtype != dtype or not array.flags.c_contiguous:
        raise ValueError(
            f"a kernel needs a contiguous array of {dtype}, not {array.dtype} of shape "
            f"{array.shape} with strides {array.strides}"
        )
    return array.ctypes.data


@inner
def array_at(address, shape, like):
    """Return the array at an address, with the dtype of `like`."""
    return carray(pointer(address, like), shape)


@intrinsic
def pointer(context, address, like):
    """Return an address as a pointer to elements of the dtype of `like`."""

    def generate(context, builder, signature, values):
        kind = context.get_value_type(signature.return_type)
        return builder.inttoptr(values[0], kind)

    return types.CPointer(like.dtype)(types.intp, like), generate


@intrinsic
def prefetch_at(context, address):
    """Prefetch the cache line at an address into the second-level cache; it need not be valid."""

    def generate(context, builder, signature, values):
        pointer = builder.inttoptr(values[0], ir.IntType(8).as_pointer())
        prefetch(builder, pointer, write=0, locality=2)
        return context.get_dummy_value()

    return types.void(types.intp), generate
