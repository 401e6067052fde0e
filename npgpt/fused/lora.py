"""A linear layer with a low-rank adapter. The formula is in npgpt/ops/lora.py."""

from npgpt.arrays import Array, rows
from npgpt.kernels import buffer_pool
from npgpt.kernels.gemm import matmul
from npgpt.kernels.jit import BLOCKS
from npgpt.kernels.sum_rows import sum_rows
from npgpt.ops.lora import Cache, Params


def forward(x: Array, p: Params, *, out: Array | None = None):
    """(..., I) -> (..., O)"""
    return forward_with(matmul, x, p, out)


def backward(dout: Array, cache: Cache, g: Params, *, dx: Array | None = None):
    """(..., O) -> (..., I)"""
    return backward_with(matmul, dout, cache, g, dx)


def forward_with(matmul, x: Array, p: Params, out: Array | None):
    """Run `forward` with this matrix product."""
    low = times(matmul, x, p.lora_a, p.scale)
    shape = (*x.shape[:-1], p.weight.shape[-1])
    out = buffer_pool.empty(shape, x.dtype) if out is None else out
    matmul(rows(x), p.weight, out=rows(out), bias=p.bias)
    matmul(rows(low), p.lora_b, out=rows(out), beta=1)
    return out, Cache(x, low, p)


def backward_with(matmul, dout: Array, cache: Cache, g: Params, dx: Array | None):
    """Run `backward` with this matrix product."""
    x, low, p = cache
    dlow = times(matmul, dout, p.lora_b.T, p.scale)
    for grad, a, b in ((g.weight, x, dout), (g.lora_a, x, dlow), (g.lora_b, low, dout)):
        if grad is not None:  # None: frozen
            matmul(rows(a).T, rows(b), out=grad)
    if g.bias is not None:
        sum_rows(rows(dout), BLOCKS, g.bias)
    dx = buffer_pool.empty_like(x) if dx is None else dx
    matmul(rows(dout), p.weight.T, out=rows(dx))
    matmul(rows(dlow), p.lora_a.T, out=rows(dx), beta=1)
    return dx


def times(matmul, x: Array, matrix: Array, scale: float) -> Array:
    """(..., I), (I, R) -> (..., R): scale * x @ matrix"""
    out = buffer_pool.empty((*x.shape[:-1], matrix.shape[1]), x.dtype)
    matmul(rows(x), matrix, out=rows(out))
    out *= x.dtype.type(scale)
    return out
