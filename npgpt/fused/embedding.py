"""Token plus position embedding. What it computes is in npgpt/ops/embedding.py."""

from npgpt.arrays import Array, rows
from npgpt.fused import _buffers
from npgpt.fused._jit import BLOCKS, njit, prange
from npgpt.ops.embedding import Cache, Params, check


def forward(tokens: Array, p: Params, *, start: int = 0, out: Array | None = None):
    """(B, T) integers below V -> (B, T, C). Position `start` is that of the first token."""
    check(tokens, p, start)
    out = _buffers.empty((*tokens.shape, p.wte.shape[-1]), p.wte.dtype) if out is None else out
    _forward(tokens.ravel(), p.wte, p.wpe, start, tokens.shape[-1], rows(out))
    return out, Cache(tokens)


def backward(dout: Array, cache: Cache, g: Params) -> None:
    """(B, T, C). Writes g.wpe and *adds* to g.wte: see npgpt/ops/embedding.py."""
    (tokens,) = cache
    _backward(rows(dout), tokens.ravel(), tokens.shape[-1], g.wte, g.wpe, BLOCKS)


@njit(parallel=True)
def _forward(tokens, wte, wpe, start, T, out):
    for n in prange(len(tokens)):
        t = start + n % T
        for c in range(out.shape[1]):
            out[n, c] = wte[tokens[n], c] + wpe[t, c]


@njit(parallel=True)
def _backward(dout, tokens, T, dwte, dwpe, blocks):
    N, C = dout.shape
    for block in prange(blocks):  # each thread its own columns: tokens repeat, columns do not
        first, last = block * C // blocks, (block + 1) * C // blocks
        dwpe[:, first:last] = 0
        for n in range(N):
            for c in range(first, last):
                dwte[tokens[n], c] += dout[n, c]
                dwpe[n % T, c] += dout[n, c]
