"""A low-rank adapter with bfloat16 products. The formula is in npgpt/ops/lora.py."""

from npgpt.arrays import Array
from npgpt.fused.lora import backward_with, forward_with
from npgpt.kernels.gemm_bf16 import matmul
from npgpt.ops.lora import Cache, Params


def forward(x: Array, p: Params, *, out: Array | None = None):
    """(..., I) -> (..., O)"""
    return forward_with(matmul, x, p, out)


def backward(dout: Array, cache: Cache, g: Params, *, dx: Array | None = None):
    """(..., O) -> (..., I)"""
    return backward_with(matmul, dout, cache, g, dx)
