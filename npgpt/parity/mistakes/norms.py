"""Mistakes in one of the LayerNorms of the model: its weight or its bias is left out."""

from npgpt.parity.mistakes import block, model
from npgpt.parity.mistakes.mistake import Page

page = Page("docs/backprop/layernorm.md")
wrong = page.add

LEAVES = {  # the expression of a LayerNorm's weight or bias that changes nothing
    "weight": "np.ones_like(p.{0}.weight)",
    "bias": "np.zeros_like(p.{0}.bias)",
}
PLACES = {  # where each stands, its lines in forward and in backward, and in decoding
    "ln_1": ((block.FORWARD, block.LN_1), (block.BACKWARD, block.DLN_1), None),
    "ln_2": ((block.FORWARD, block.LN_2), (block.BACKWARD, block.DLN_2), None),
    "ln_f": ((model.FORWARD, "x, ln_f = ops.layernorm.forward(x, p.ln_f)"),
             (model.BACKWARD, model.DLN_F),
             (model.HIDDEN, "x, _ = ops.layernorm.forward(x, p.ln_f)")),
}  # fmt: skip

for layer, (forward, backward, decoding) in PLACES.items():
    for leaves in (("weight",), ("bias",), ("weight", "bias")):
        if leaves == ("weight", "bias") and layer == "ln_f":  # ln-f-without-parameters
            continue
        every = ", ".join(f"{leaf}={LEAVES[leaf].format(layer)}" for leaf in leaves)
        zeros = " = ".join(f"g.{layer}.{leaf}[:]" for leaf in leaves)
        edits = [
            (where, line, line.replace(f"p.{layer})", f"p.{layer}._replace({every}))"))
            for where, line in filter(None, (forward, decoding))
        ]
        kind = " nor ".join(leaves)
        wrong(
            "forward",
            f"{layer.replace('_', '-')}-without-{'-or-'.join(leaves)}",
            f"{layer} has {'neither' if len(leaves) > 1 else 'no'} {kind}",
            *edits,
            (*backward, f"{backward[1]}\n    {zeros} = 0"),
        )
