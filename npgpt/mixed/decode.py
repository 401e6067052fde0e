"""One new position through all blocks, quantized ones too. See npgpt/ops/decode.py."""

from npgpt.arrays import Array
from npgpt.fused import decode
from npgpt.quantized_matrix import QuantizedMatrix


def forward(x: Array, blocks, *, n_head: int, past, out: Array | None = None):
    """(B, 1, C) -> (B, 1, C). `blocks`: the parameters of every block (npgpt/model/params.py).
    `past`: one cache per block (npgpt/model/kv_cache.py), extended by this position. Of rows of
    unequal length: one RowCaches per block."""
    return decode.forward_with(matrix, x, blocks, n_head, past, out)


def matrix(p) -> decode.Matrix:
    """Return a linear layer's parameters as a Matrix."""
    if not isinstance(p.weight, QuantizedMatrix):
        return decode.matrix(p)
    return decode.Matrix(p.weight.values, p.bias, p.weight.scale)
