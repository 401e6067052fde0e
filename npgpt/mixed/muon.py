"""Muon with bfloat16 products. The formula is in npgpt/ops/muon.py."""

from npgpt.arrays import Array
from npgpt.fused.muon import orthogonalize_with, update_with
from npgpt.kernels.gemm_bf16 import matmul


def update(
    p: Array,
    grad: Array,
    m: Array,
    *,
    lr: float,
    momentum: float,
    weight_decay: float,
    match_rms_adamw: bool = True,
    parts: int = 1,
    scale: float = 1.0,
) -> None:
    """Update the matrices `p` and `m` in place by one step; `grad` is only read: (I, parts * O).

    `parts` matrices (I, O) side by side are orthogonalized one by one: queries, keys and values.
    `scale` multiplies the gradient as it is read.
    """
    update_with(matmul, p, grad, m, lr, momentum, weight_decay, match_rms_adamw, parts, scale)


def orthogonalize(u: Array) -> Array:
    """(I, O) -> (I, O)"""
    return orthogonalize_with(matmul, u.copy())
