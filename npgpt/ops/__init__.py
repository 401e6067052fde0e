"""The explicit maths, one module per op, NumPy only. Read this backend first.

A backend is passed around as an argument named `ops`; `npgpt.fused` is the other one, with the
same modules, signatures and results.
"""

from npgpt.ops import (
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
