"""Token plus position embedding. The formula is in npgpt/ops/embedding.py."""

import numpy as np

from npgpt.arrays import Array, rows
from npgpt.kernels import buffer_pool
from npgpt.kernels.jit import BLOCKS, inner, njit
from npgpt.kernels.parallel import in_parallel
from npgpt.ops import embedding
from npgpt.ops.embedding import Cache, Params, check


def forward(tokens: Array, p: Params, *, start: int | Array = 0, out: Array | None = None):
    """(B, T) integers below V -> (B, T, C). `start`: the position of the first token, or (B,)."""
    check(tokens, p, start)
    out = buffer_pool.empty((*tokens.shape, p.wte.shape[-1]), p.wte.dtype) if out is None else out
    starts = np.full(len(tokens), start, np.int64)
    _forward(tokens.ravel(), p.wte, p.wpe, starts, tokens.shape[-1], rows(out))
    return out, Cache(tokens)


def backward(dout: Array, cache: Cache, g: Params) -> None:
    """(B, T, C). Writes g.wpe and *adds* to g.wte: see npgpt/ops/embedding.py."""
    (tokens,) = cache
    if g.wte is None or g.wpe is None:  # frozen
        return embedding.backward(dout, cache, g)
    _backward(rows(dout), tokens.ravel(), tokens.shape[-1], g.wte, g.wpe, BLOCKS)


@njit
def _forward(tokens, wte, wpe, starts, T, out):
    in_parallel(len(tokens), _forward_row, (tokens, wte, wpe, starts, T, out))


@inner
def _forward_row(n, tokens, wte, wpe, starts, T, out):
    token, position, out_row = wte[tokens[n]], wpe[starts[n // T] + n % T], out[n]
    for c in range(len(out_row)):
        out_row[c] = token[c] + position[c]


@njit
def _backward(dout, tokens, T, dwte, dwpe, blocks):
    in_parallel(blocks, _backward_columns, (dout, tokens, T, dwte, dwpe, blocks))


@inner
def _backward_columns(block, dout, tokens, T, dwte, dwpe, blocks):
    """Compute a block of columns: two threads may have the same token, but not the same column."""
    N, C = dout.shape
    first, last = block * C // blocks, (block + 1) * C // blocks
    dwpe[:, first:last] = 0
    for n in range(N):
        row = dout[n, first:last]
        token, position = dwte[tokens[n], first:last], dwpe[n % T, first:last]
        for c in range(last - first):
            token[c] += row[c]
            position[c] += row[c]
