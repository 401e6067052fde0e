"""Matrix products of bfloat16 numbers with float32 sums: npgpt/kernels/gemm.py, other panels."""

import numpy as np

from npgpt.arrays import Array
from npgpt.kernels import gemm
from npgpt.quantized_matrix import QuantizedMatrix

PAIRS = np.uint32  # two bfloat16 numbers: terms 2k and 2k + 1 of a sum


def matmul(a: Array, b, *, out: Array, bias: Array | None = None, beta: int = 0) -> Array:
    """out = a @ b + bias + beta * out: (M, K), (K, N), (N,) -> (M, N)

    As the fused one, both operands rounded to bfloat16 where they are packed; a few rows, which are
    not, keep their float32. `b` may be a QuantizedMatrix; beta is 0 then,
    and a scale belongs to a column.
    """
    if not isinstance(b, QuantizedMatrix):
        return gemm.matmul(a, b, out=out, bias=bias, beta=beta, panels=PAIRS)
    values = b.values.T if b.transposed else b.values
    if b.scale is None:
        return gemm.matmul(a, values, out=out, bias=bias, panels=PAIRS)
    if b.axis == int(b.transposed):
        raise ValueError(f"a matrix {b.shape} with a scale for every row cannot multiply from here")
    gemm.matmul(a, values, out=out, panels=PAIRS)  # int8 is exact in bfloat16
    out *= b.scale
    if bias is not None:
        out += bias
    return out
