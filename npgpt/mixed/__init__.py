"""The bfloat16 backend: bfloat16 products with float32 sums, at twice the rate.

The names and signatures are those of `npgpt.fused`. A matrix product rounds its two operands to
bfloat16 as it packs them. Parameters, activations, gradients, LayerNorm, softmax and loss stay
float32: mixed precision (Micikevicius et al. 2017, arXiv:1710.03740). For backward, an activation
that is only multiplied is kept as bfloat16: in half the memory, with gradients of the same bits.
"""

from npgpt.fused import adam, adamw, dropout, gelu, layernorm, random, rmsprop, sgd
from npgpt.mixed import attention, decode, embedding, linear, linear_cross_entropy, lora, muon

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
