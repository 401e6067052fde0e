"""Linear: the bias is added as the product is written. The formula is in npgpt/ops/linear.py."""

from npgpt.arrays import Array, rows
from npgpt.fused import lora
from npgpt.kernels import buffer_pool
from npgpt.kernels.gemm import matmul
from npgpt.kernels.jit import BLOCKS
from npgpt.kernels.sum_rows import sum_rows
from npgpt.ops.linear import Cache, Params


def forward(x: Array, p: Params, *, out: Array | None = None):
    """(..., I) -> (..., O)"""
    if isinstance(p, lora.Params):
        return lora.forward(x, p, out=out)
    return forward_with(matmul, x, p, out)


def backward(dout: Array, cache: Cache, g: Params, *, dx: Array | None = None):
    """(..., O) -> (..., I)"""
    if isinstance(cache, lora.Cache):
        return lora.backward(dout, cache, g, dx=dx)
    return backward_with(matmul, dout, cache, g, dx)


def forward_with(matmul, x: Array, p: Params, out: Array | None):
    """Run `forward` with this matrix product."""
    shape = (*x.shape[:-1], p.weight.shape[-1])
    out = buffer_pool.empty(shape, x.dtype) if out is None else out
    matmul(rows(x), p.weight, out=rows(out), bias=p.bias)
    return out, Cache(x, p)


def backward_with(matmul, dout: Array, cache: Cache, g: Params, dx: Array | None):
    """Run `backward` with this matrix product."""
    x, p = cache
    if g.weight is not None:  # None: frozen
        matmul(rows(x).T, rows(dout), out=g.weight)
    if g.bias is not None:
        sum_rows(rows(dout), BLOCKS, g.bias)
    dx = buffer_pool.empty(x.shape, dout.dtype) if dx is None else dx
    matmul(rows(dout), p.weight.T, out=rows(dx))
    return dx
