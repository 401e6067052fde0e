"""The Numba backend: the ops as kernels, each in as few passes over memory as possible.

The names, signatures and results are those of `npgpt.ops`, which documents what each op computes
and why. Matrix products are Numba kernels, too (kernels/gemm.py).
"""

from npgpt.fused import (
    adam,
    adamw,
    attention,
    decode,
    dropout,
    embedding,
    gelu,
    layernorm,
    linear,
    linear_cross_entropy,
    lora,
    muon,
    random,
    rmsprop,
    sgd,
)

__all__ = [
    "adam",
    "adamw",
    "attention",
    "decode",
    "dropout",
    "embedding",
    "gelu",
    "layernorm",
    "linear",
    "linear_cross_entropy",
    "lora",
    "muon",
    "random",
    "rmsprop",
    "sgd",
]
