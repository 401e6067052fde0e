"""Output head and cross-entropy, products of bfloat16 numbers, softmax and loss in float32. What it
computes is in npgpt/ops/linear_cross_entropy.py."""

from npgpt.arrays import Array
from npgpt.fused.linear_cross_entropy import backward, evaluate_with, forward_with
from npgpt.kernels.gemm_bf16 import matmul
from npgpt.ops.linear_cross_entropy import Cache

__all__ = ["Cache", "backward", "evaluate", "forward"]


def forward(x: Array, weight: Array, targets: Array, *, chunk: int = 512,
            dweight: Array | None = None):  # fmt: skip
    """(..., C), (V, C), (...) integers below V -> scalar of x's dtype

    `dweight`: where backward's `g` is known already, the gradient of the head goes straight there,
    for dloss = 1; such a Cache is good for one backward.
    """
    return forward_with(matmul, x, weight, targets, chunk, dweight)


def evaluate(x: Array, weight: Array, targets: Array, *, chunk: int = 512):
    """The loss alone, for whoever does not go backward: a third of the work."""
    return evaluate_with(matmul, x, weight, targets, chunk)
