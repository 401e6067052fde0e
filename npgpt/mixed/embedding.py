"""Token plus position embedding, with quantized ones too. See npgpt/ops/embedding.py."""

import numpy as np

from npgpt.arrays import Array, into
from npgpt.fused import embedding
from npgpt.fused.embedding import backward as backward
from npgpt.ops.embedding import Cache, Params, check
from npgpt.quantized_matrix import QuantizedMatrix


def forward(tokens: Array, p: Params, *, start: int | Array = 0, out: Array | None = None):
    """(B, T) integers below V -> (B, T, C). `start`: the position of the first token, or (B,)."""
    if not isinstance(p.wte, QuantizedMatrix):
        return embedding.forward(tokens, p, start=start, out=out)
    check(tokens, p, start)
    x = p.wte.rows(tokens)
    x += p.wpe[np.add.outer(start, np.arange(tokens.shape[-1]))]
    return into(out, x), Cache(tokens)
