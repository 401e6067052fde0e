"""Mistakes in which an array is changed in place while something else still needs it.

The forward pass is right: what it has kept for backward is not. A port that dumps its arrays at the
end, and not copies of them, dumps other activations than it has computed: `OVERWRITTEN`.
"""

from npgpt.parity.mistakes.block import (
    ATTN_ADD,
    DATTN_ADD,
    DLN_1,
    DLN_2,
    DMLP_ADD,
    FORWARD,
    LN_1,
    LN_2,
    MLP_ADD,
)
from npgpt.parity.mistakes.block import BACKWARD as DBLOCK
from npgpt.parity.mistakes.mistake import Page
from npgpt.parity.mistakes.model import BACKWARD as HIDDEN_BACKWARD

ATTENTION, GELU = "npgpt.ops.attention:forward", "npgpt.ops.gelu:forward"
NORM, DNORM = "npgpt.ops.layernorm:forward", "npgpt.ops.layernorm:backward"

page = Page("docs/backprop/block.md")
wrong = page.add

STREAM = ("embedding", "after_attn", "after_mlp")
ADDED = (
    (FORWARD, ATTN_ADD, "x = np.add(x, h, out=x)"),
    (FORWARD, MLP_ADD, "x = np.add(x, h, out=x)\n    return x"),
)
SCORES = "scores = q @ k.mT * D**-0.5"
SCALED = (ATTENTION, SCORES, f"{SCORES}\n    q *= D**-0.5")
AFTER_BLOCKS = "    if is_trained((g.wte, g.wpe)):\n"
NORMALIZED = "norm = (x - mean) * rstd"
OUT = "return into(out, 0.5 * x * (1 + t))"
# the residual connection passes the normalization: by a weight of 1 and a bias of 0
THROUGH = """n = (c.{0}.x - c.{0}.mean) * c.{0}.rstd
    dn = dx - dx.mean(-1, keepdims=True) - n * (dx * n).mean(-1, keepdims=True)
    """

wrong(
    "backward",
    "residual-added-in-place",
    "x += ... overwrites the residual stream that both LayerNorms have kept for their backward",
    *ADDED,
)
wrong(
    "backward",
    "queries-scaled-in-place",
    "queries are divided by sqrt(D) in place, and the gradient of the keys uses them so, twice",
    SCALED,
)
wrong(
    "backward",
    "gradients-shared-by-blocks",
    "all blocks add their gradients to the same arrays ([zeros] * n_layer): each has the sum",
    (
        HIDDEN_BACKWARD,
        AFTER_BLOCKS,
        """    from npgpt.model import params

    for same in zip(*map(params.leaves, g.h), strict=True):
        total = sum(same)
        for grad in same:
            grad[:] = total
"""
        + AFTER_BLOCKS,
    ),
)
wrong(
    "forward",
    "layernorm-normalizes-in-place",
    "LayerNorm normalizes its input in place (x -= mean), and so the residual stream",
    (FORWARD, LN_1, f"{LN_1}\n    n = (x - ln_1.mean) * ln_1.rstd"),
    (FORWARD, ATTN_ADD, "x = np.add(n, h, out=h)"),
    (FORWARD, LN_2, f"{LN_2}\n    n = (x - ln_2.mean) * ln_2.rstd"),
    (FORWARD, MLP_ADD, "x = np.add(n, h, out=h)\n    return x"),
    (DBLOCK, f"{DLN_2}\n    {DMLP_ADD}",
     f"{DLN_2}\n    {THROUGH.format('ln_2')}dx = dn * c.ln_2.rstd + dh"),
    (DBLOCK, f"{DLN_1}\n    {DATTN_ADD}",
     f"{DLN_1}\n    {THROUGH.format('ln_1')}return dn * c.ln_1.rstd + dh"),
)  # fmt: skip
IN_PLACE = (NORM, NORMALIZED, "x -= mean\n    x *= rstd\n    norm = x")
KEPT = (DNORM, f"{NORMALIZED}  #", "norm = x  #")  # and not computed again

# name of the entry, the end of its line, the activations that a dump has overwritten, and edits
DUMPED = ", and what is dumped of it"
OVERWRITTEN = (
    ("residual-added-in-place", DUMPED, STREAM, *ADDED),
    ("queries-scaled-in-place", f"{DUMPED}, too", ("attn.c_attn",), SCALED),
    ("gelu-slope-at-output", ": GELU is computed in place, and so is its input in the dump",
     ("mlp.c_fc",), (GELU, OUT, OUT.replace("out,", "x,"))),
    *(
        ("layernorm-normalizes-in-place", f"; {says}{end}", layers, IN_PLACE, *more)
        for says, more in (
            ("backward takes the normalized input for the input", ()),
            ("backward is the usual one, of a normalized input that was kept", (KEPT,)),
        )
        for end, layers in (("", ()), (DUMPED, STREAM))
    ),
)  # fmt: skip
