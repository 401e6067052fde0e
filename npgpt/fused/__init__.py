"""The same ops as Numba kernels, each in as few passes over memory as it can do with.

Same names, same signatures, same results as `npgpt.ops`: what an op computes, and why, is written
there. Matrix products are Numba's too (gemm.py).
"""

from npgpt.fused import (
    adamw,
    attention,
    decode,
    dropout,
    embedding,
    gelu,
    layernorm,
    linear,
    linear_cross_entropy,
    random,
)

__all__ = [
    "adamw",
    "attention",
    "decode",
    "dropout",
    "embedding",
    "gelu",
    "layernorm",
    "linear",
    "linear_cross_entropy",
    "random",
]
