"""Attention: bfloat16 products, float32 softmax. The formula is in npgpt/ops/attention.py.

The Cache holds queries, keys and values as backward's products round them, in half the memory.
"""

from npgpt.arrays import Array
from npgpt.fused.attention import Cache, backward_with, forward_with
from npgpt.kernels.bfloat16 import rounded
from npgpt.kernels.gemm_bf16 import PANELS

__all__ = ["Cache", "backward", "forward"]


def forward(qkv: Array, *, n_head: int, past=None, rate: float = 0.0, rng=None,
            out: Array | None = None):  # fmt: skip
    """(B, T, 3C) -> (B, T, C). With `past`, these T positions follow the cached ones; if there are
    any, products stay float32.

    The Cache is for backward of complete sequences: it cannot be used if `past` was not empty.
    """
    out, cache = forward_with(PANELS, qkv, n_head, past, rate, rng, out)
    return out, cache if past is not None else cache._replace(qkv=rounded(qkv))


def backward(dout: Array, cache: Cache, *, dx: Array | None = None):
    """(B, T, C) -> (B, T, 3C)"""
    return backward_with(PANELS, dout, cache, dx)
