"""The same ops, with what is bound by memory or by exp as single-pass Numba kernels.

Same names, same signatures, same results as `npgpt.ops`: what an op computes, and why, is written
there. Matrix products stay with NumPy's BLAS.
"""

from npgpt.fused import (
    adamw,
    attention,
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
    "dropout",
    "embedding",
    "gelu",
    "layernorm",
    "linear",
    "linear_cross_entropy",
    "random",
]
