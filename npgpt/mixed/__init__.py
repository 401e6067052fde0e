"""The bfloat16 backend: bfloat16 products with float32 sums, twice as many in the same time.

Same names, same signatures as `npgpt.fused`. Parameters, activations, gradients, LayerNorm, softmax
and loss stay float32 (that is what "mixed precision" means, Micikevicius et al. 2017,
arXiv:1710.03740); a matrix product rounds its two operands to bfloat16 as it packs them.
"""

from npgpt.fused import adamw, dropout, gelu, layernorm, random
from npgpt.mixed import attention, decode, embedding, linear, linear_cross_entropy

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
