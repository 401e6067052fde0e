"""Mistakes in the branches that are added to the residual stream: scales, biases, layer numbers."""

from npgpt.parity.mistakes.block import (
    ATTN_ADD,
    ATTN_PROJ,
    BACKWARD,
    C_ATTN,
    C_FC,
    DATTN_ADD,
    DATTN_DROP,
    DMLP_ADD,
    DMLP_DROP,
    DMLP_PROJ,
    FORWARD,
    MLP_ADD,
    MLP_PROJ,
)
from npgpt.parity.mistakes.mistake import Page
from npgpt.parity.mistakes.model import FORWARD as HIDDEN_FORWARD
from npgpt.parity.mistakes.model import HIDDEN

page = Page("docs/backprop/block.md")
wrong = page.add

DATTN_PROJ = "dh = ops.linear.backward(dh, c.attn_proj, g.attn.c_proj)"
DC_ATTN = "dh = ops.linear.backward(dh, c.c_attn, g.attn.c_attn)"
DC_FC = "dh = ops.linear.backward(dh, c.c_fc, g.mlp.c_fc)"
START = "start = past[0].length if past else 0"
N_LAYER = (  # the blocks learn how many there are
    (HIDDEN_FORWARD, "rate = config.dropout", "rate, ops.n_layer = config.dropout, config.n_layer"),
    (HIDDEN, START, f"{START}\n    ops.n_layer = config.n_layer"),
)
LAYER = (  # and which one they are, from 0; in decoding, npgpt.parity.port tells them
    (HIDDEN_FORWARD, "for p_block in p.h:", "for ops.layer, p_block in enumerate(p.h):"),
    (HIDDEN, "for i, (p_block, layer) in enumerate(blocks, 1):",
     "for i, (p_block, layer) in enumerate(blocks, 1):\n            ops.layer = i - 1"),
)  # fmt: skip
BRANCHES = {  # edits that multiply a branch with a factor, in forward and in backward
    "attention": ((FORWARD, ATTN_PROJ, ATTN_PROJ + "\n    h *= {0}"),
                  (BACKWARD, DATTN_PROJ, "dh = dh * {0}\n    " + DATTN_PROJ)),
    "mlp": ((FORWARD, MLP_PROJ, MLP_PROJ + "\n    h *= {0}"),
            (BACKWARD, DMLP_PROJ, "dh = dh * {0}\n    " + DMLP_PROJ)),
}  # fmt: skip


def scaled(branches: tuple[str, ...], factor: str) -> list[tuple[str, str, str]]:
    """Return the edits that multiply branches with a factor."""
    edits = [edit for branch in branches for edit in BRANCHES[branch]]
    return [(where, right, text.format(factor)) for where, right, text in edits]


for name, says, branches in (
    ("branches", "attention's and the MLP's results are", ("attention", "mlp")),
    ("attention", "attention's result is", ("attention",)),
    ("mlp", "the MLP's result is", ("mlp",)),
):
    for size, number, factor in (
        ("sqrt-2l", "sqrt(2L)", "(2 * ops.n_layer) ** -0.5"),
        ("sqrt-l", "sqrt(L)", "ops.n_layer**-0.5"),
        ("2l", "2L", "(1 / (2 * ops.n_layer))"),
    ):
        end = ", which GPT-2 does to initial weights alone" if size == "sqrt-2l" else ""
        wrong(
            "forward",
            f"{name}-divided-by-{size}",
            f"{says} divided by {number}{end}",
            *N_LAYER,
            *scaled(branches, factor),
        )
for name, number, factor in (("sqrt-2", "sqrt(2)", "2**-0.5"), ("2", "2", "0.5")):
    wrong(
        "forward",
        f"residual-sums-divided-by-{name}",
        f"both sums of the residual stream are divided by {number}",
        (FORWARD, ATTN_ADD, f"x = (x + h) * {factor}"),
        (FORWARD, MLP_ADD, f"x = (x + h) * {factor}\n    return x"),
        (BACKWARD, DMLP_DROP, DMLP_DROP.replace("(dx,", f"(dx * {factor},")),
        (BACKWARD, DMLP_ADD, f"dx = dx * {factor} + dh"),
        (BACKWARD, DATTN_DROP, DATTN_DROP.replace("(dx,", f"(dx * {factor},")),
        (BACKWARD, DATTN_ADD, f"return dx * {factor} + dh"),
    )
LAST_LINE = (BACKWARD, DATTN_ADD, f"ops.layer -= 1\n    {DATTN_ADD}")  # the next is the one before
QUERIES = "[..., : {0}.shape[-1] // 3] /= ops.layer + 1"
wrong(
    "forward",
    "scores-divided-by-layer",
    "scores are divided by the layer's number too (scale_attn_by_inverse_layer_idx)",
    *LAYER,
    (FORWARD, C_ATTN, f"{C_ATTN}\n    h{QUERIES.format('h')}"),
    (BACKWARD, DC_ATTN, f"dh{QUERIES.format('dh')}\n    {DC_ATTN}"),
    LAST_LINE,
)
for name, number, power in (("", "number", ""), ("sqrt-", "number's root", "**0.5")):
    factor = f"(1 / (ops.layer + 1){power})"
    wrong(
        "forward",
        f"branches-divided-by-{name}layer",
        f"attention's and the MLP's results are divided by the layer's {number}",
        *LAYER,
        *scaled(("attention", "mlp"), factor),
        LAST_LINE,
    )
AGAIN = []  # the bias is added again, after the layer, and the edits: see variants.OTHERS
for layer, says, line, back in (
    ("attn.c_attn", "the bias of queries, keys and values", C_ATTN, DC_ATTN),
    ("attn.c_proj", "the bias of attention's output projection", ATTN_PROJ, DATTN_PROJ),
    ("mlp.c_fc", "the bias of the MLP's first layer", C_FC, DC_FC),
    ("mlp.c_proj", "the bias of the MLP's second layer", MLP_PROJ, DMLP_PROJ),
):
    name = f"{layer.replace('.', '-').replace('_', '-')}-bias-twice"
    double = (BACKWARD, back, f"{back}\n    g.{layer}.bias[:] *= 2")
    wrong(
        "forward",
        name,
        f"{says} is added twice",
        (FORWARD, line, f"{line[:-1]}._replace(bias=2 * p.{layer}.bias))"),
        double,
    )
    again = (FORWARD, line, f"{line}\n    h += p.{layer}.bias")
    AGAIN += [
        (name, ", the second time after the layer", again, double),
        (name, ", the second time after the layer, and its gradient is right", again),
    ]
