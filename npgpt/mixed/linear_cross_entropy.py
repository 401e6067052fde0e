"""Output head and cross-entropy: bfloat16 products, float32 softmax and loss.

The formula is in npgpt/ops/linear_cross_entropy.py.
"""

import numpy as np

from npgpt.arrays import Array
from npgpt.fused.linear_cross_entropy import (
    backward,
    evaluate_with,
    forward_with,
    log_probs_with,
)
from npgpt.kernels.gemm_bf16 import matmul
from npgpt.ops.linear_cross_entropy import Cache

__all__ = ["Cache", "backward", "evaluate", "forward", "log_probs"]


def forward(x: Array, weight: Array, targets: Array, *, chunk: int = 512,
            dweight: Array | None = None, frozen: bool = False):  # fmt: skip
    """(..., C), (V, C), (...) integers below V, or IGNORED -> scalar of x's dtype

    `dweight`: optional output for the gradient of `weight` at dloss = 1. Passing backward's `g`
    here avoids a second (V, C) array; the Cache can then be used once. `frozen`: without it.
    """
    return forward_with(matmul, np.uint16, x, weight, targets, chunk, dweight, frozen)


def evaluate(x: Array, weight: Array, targets: Array, *, chunk: int = 512):
    """Return the loss without a Cache for backward: a third of the work."""
    return evaluate_with(matmul, x, weight, targets, chunk)


def log_probs(x: Array, weight: Array, targets: Array, *, chunk: int = 512):
    """(..., C), (V, C), (...) -> (...), (...) bool: the log-probabilities of the targets, and True
    where no token is more likely. An ignored target has 0 and True."""
    return log_probs_with(matmul, x, weight, targets, chunk)
