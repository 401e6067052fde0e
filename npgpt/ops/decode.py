"""One new position through all blocks: what generation does for every token it makes.

    x   = x + c_proj(attention(c_attn(ln_1(x))))
    out = x + c_proj(gelu(c_fc(ln_2(x))))

Nothing new: the ops of npgpt/block.py one after the other, without what training needs. It is an op
of its own because a single position is so little work that a fast shelf wants all of it at once.
"""

from npgpt.arrays import Array, into
from npgpt.ops import attention, gelu, layernorm, linear


def forward(x: Array, blocks, *, n_head: int, past, out: Array | None = None):
    """(B, 1, C) -> (B, 1, C). `blocks`: the parameters of all of them, npgpt/params.py; `past`:
    what the attention of each remembers, one position more afterwards."""
    for p, remembered in zip(blocks, past, strict=True):
        h, _ = layernorm.forward(x, p.ln_1)
        h, _ = linear.forward(h, p.attn.c_attn)
        h, _ = attention.forward(h, n_head=n_head, past=remembered)
        h, _ = linear.forward(h, p.attn.c_proj)
        x = x + h

        h, _ = layernorm.forward(x, p.ln_2)
        h, _ = linear.forward(h, p.mlp.c_fc)
        h, _ = gelu.forward(h)
        h, _ = linear.forward(h, p.mlp.c_proj)
        x = x + h
    return into(out, x)
