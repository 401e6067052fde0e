"""One new position through all blocks: the forward pass for each token that is generated.

    x   = x + c_proj(attention(c_attn(ln_1(x))))
    out = x + c_proj(gelu(c_fc(ln_2(x))))

The ops of npgpt/model/block.py in the same order, without dropout and caches for backward. It is an
op of its own because one position is little work: a fast backend computes all blocks in one loop.
"""

import numpy as np

from npgpt.arrays import Array, into
from npgpt.ops import attention, gelu, layernorm, linear


def forward(x: Array, blocks, *, n_head: int, past, out: Array | None = None):
    """(B, 1, C) -> (B, 1, C). `blocks`: the parameters of every block (npgpt/model/params.py).
    `past`: one cache per block (npgpt/model/kv_cache.py), extended by this position. Of rows of
    unequal length: one RowCaches per block."""
    for p, remembered in zip(blocks, past, strict=True):
        h, _ = layernorm.forward(x, p.ln_1)
        h, _ = linear.forward(h, p.attn.c_attn)
        h = attend(h, n_head, remembered)
        h, _ = linear.forward(h, p.attn.c_proj)
        x = x + h

        h, _ = layernorm.forward(x, p.ln_2)
        h, _ = linear.forward(h, p.mlp.c_fc)
        h, _ = gelu.forward(h)
        h, _ = linear.forward(h, p.mlp.c_proj)
        x = x + h
    return into(out, x)


def attend(qkv: Array, n_head: int, past) -> Array:
    """(B, 1, 3C) -> (B, 1, C). Rows of unequal length attend one by one."""
    if not hasattr(past, "rows"):
        return attention.forward(qkv, n_head=n_head, past=past)[0]
    rows = zip(qkv[:, None], past.rows, strict=True)
    return np.concatenate([attention.forward(x, n_head=n_head, past=one)[0] for x, one in rows])
