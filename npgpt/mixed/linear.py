"""Linear with bfloat16 products. The formula is in npgpt/ops/linear.py.

The Cache holds `x` as backward's product rounds it, in half the memory.
"""

import numpy as np

from npgpt.arrays import Array
from npgpt.fused.linear import backward_with, forward_with
from npgpt.kernels.bfloat16 import rounded
from npgpt.kernels.gemm import FEW
from npgpt.kernels.gemm_bf16 import matmul
from npgpt.mixed import lora
from npgpt.ops.linear import Cache, Params


def forward(x: Array, p: Params, *, out: Array | None = None):
    """(..., I) -> (..., O)"""
    if isinstance(p, lora.Params):
        return lora.forward(x, p, out=out)
    out, cache = forward_with(matmul, x, p, out)
    # quantized weights have no gradient; FEW rows of x.T would not be rounded in their product
    if isinstance(p.weight, np.ndarray) and x.shape[-1] > FEW:
        cache = Cache(rounded(x), p)
    return out, cache


def backward(dout: Array, cache: Cache, g: Params, *, dx: Array | None = None):
    """(..., O) -> (..., I)"""
    if isinstance(cache, lora.Cache):
        return lora.backward(dout, cache, g, dx=dx)
    return backward_with(matmul, dout, cache, g, dx)
