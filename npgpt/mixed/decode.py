"""One new position through a block, of matrices in fewer bits too. See npgpt/ops/decode.py."""

from npgpt.arrays import Array
from npgpt.fused import decode
from npgpt.narrow import Narrow


def forward(x: Array, p, *, n_head: int, past, out: Array | None = None):
    """(B, 1, C) -> (B, 1, C). `p`: the parameters of a block, npgpt/params.py; `past`: what its
    attention remembers, one position more afterwards."""
    return decode.forward_with(matrix, x, p, n_head, past, out)


def matrix(p, dtype) -> decode.Matrix:
    """A linear layer's parameters as kernels take them."""
    if not isinstance(p.weight, Narrow):
        return decode.matrix(p, dtype)
    found = decode.matrix(p._replace(weight=p.weight.values), dtype)
    return found if p.weight.scale is None else found._replace(scale=p.weight.scale)
