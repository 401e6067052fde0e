"""The NumPy backend: forward and backward of every op, written out. Read this one first.

A backend is an argument of the model, named `ops`. Three exist: this one, `npgpt.fused` (Numba)
and `npgpt.mixed` (Numba, with bfloat16 operands in matrix products). All have the same modules and
signatures.
"""

from npgpt.ops import (
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
