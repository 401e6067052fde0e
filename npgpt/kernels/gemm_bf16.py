"""Matrix products with bfloat16 operands and float32 sums: gemm.py with panels of bfloat16."""

import numpy as np

from npgpt.arrays import Array
from npgpt.kernels import gemm, gemm_int8
from npgpt.quantized_matrix import QuantizedMatrix

PANELS = np.uint32  # bfloat16 numbers: pairs of them if the CPU multiplies pairs


def matmul(a: Array, b, *, out: Array, bias: Array | None = None, beta: int = 0) -> Array:
    """out = a @ b + bias + beta * out: (M, K), (K, N), (N,) -> (M, N)

    Both operands are rounded to bfloat16. With at most gemm.FEW rows, a float32 `b` is not:
    it is read in place. `b` may be a QuantizedMatrix with one scale per column; then beta is 0.
    int8 is multiplied in integers (gemm_int8.py).
    """
    if not isinstance(b, QuantizedMatrix):
        return gemm.matmul(a, b, out=out, bias=bias, beta=beta, panels=PANELS)
    values = b.values.T if b.transposed else b.values
    if b.scale is None:
        return gemm.matmul(a, values, out=out, bias=bias, panels=PANELS)
    if b.axis == int(b.transposed):
        raise ValueError(
            f"a QuantizedMatrix {b.shape} with one scale per row cannot be the right operand: it "
            "must have one per column"
        )
    multiply = gemm_int8.matmul_transposed if b.transposed else gemm_int8.matmul
    multiply(a, b.values, b.scale, bias, out)
    return out
