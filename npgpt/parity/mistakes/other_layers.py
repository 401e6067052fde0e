"""Mistakes in which a layer reads what belongs to another one, or backward passes it by."""

from npgpt.parity.mistakes.block import BACKWARD, DLN_1, DLN_2
from npgpt.parity.mistakes.mistake import Page
from npgpt.parity.mistakes.model import BACKWARD as HIDDEN_BACKWARD
from npgpt.parity.mistakes.model import DLN_F, HIDDEN
from npgpt.parity.mistakes.model import FORWARD as HIDDEN_FORWARD
from npgpt.parity.mistakes.residuals import DATTN_PROJ

page = Page("docs/backprop/block.md")
wrong = page.add

ENDS = (("first", 0), ("last", -1))
CALL = "        dx = block.backward(dx, cache, g_block, ops=ops)"
LAYERS = {  # by the name in a block's cache
    "c_attn": "attn.c_attn", "attn_proj": "attn.c_proj", "c_fc": "mlp.c_fc",
    "mlp_proj": "mlp.c_proj", "ln_1": "ln_1", "ln_2": "ln_2",
}  # fmt: skip
OTHERS = """    {0}, *others = g.h{1}
    for one in others:
        for total, grad in zip(params.leaves({0}.{2}), params.leaves(one.{2}), strict=True):
            total += grad
            grad.fill(0)"""


def cached(kept: str, index: int, *fields: str) -> str:
    """Return the expression of a layer's cache with fields of another block's."""
    every = ", ".join(f"{field}=c.h[{index}].{kept}.{field}" for field in fields)
    return f"{kept}=cache.{kept}._replace({every})"


for end, index in ENDS:
    for kept, layer in LAYERS.items():
        statistics = ("x", "mean", "rstd") if layer.startswith("ln_") else ("x",)
        for name, noun, fields in (("weight", "weight", ("p",)), ("input", "input", statistics)):
            wrong(
                "backward",
                f"{layer.replace('.', '-').replace('_', '-')}-backward-with-{end}-{name}",
                f"in every block, the backward of {layer} uses the {noun} of the {end} block's",
                (
                    HIDDEN_BACKWARD,
                    CALL,
                    f"        cache = cache._replace({cached(kept, index, *fields)})\n{CALL}",
                ),
            )
    for kept, says in (("gelu", "GELU uses the input"), ("attn", "attention uses q, k, v")):
        wrong(
            "backward",
            f"{kept}-backward-with-{end}-input",
            f"in every block, the backward of {says} of the {end} block's",
            (
                HIDDEN_BACKWARD,
                CALL,
                f"        cache = cache._replace({kept}=c.h[{index}].{kept})\n{CALL}",
            ),
        )
    every = ",\n            ".join(
        cached(kept, index, "p") for kept, layer in LAYERS.items() if layer[:3] != "ln_"
    )
    wrong(
        "backward",
        f"backward-with-{end}-weights",
        f"in every block, backward uses the linear layers' weights of the {end} block",
        (
            HIDDEN_BACKWARD,
            CALL,
            f"        cache = cache._replace(\n            {every},\n        )\n{CALL}",
        ),
    )
    for part, says in (
        ("ln_1", "ln_1 is that"), ("ln_2", "ln_2 is that"), ("attn", "attention is that"),
        ("mlp", "the MLP is that"),
    ):  # fmt: skip
        blocks = f"[one._replace({part}=p.h[{index}].{part}) for one in p.h]"
        add_up = OTHERS.format(end, "" if end == "first" else "[::-1]", part)
        wrong(
            "forward",
            f"{end}-{part.replace('_', '-')}-in-all-blocks",
            f"in every block, {says} of the {end} one",
            (HIDDEN_FORWARD, "for p_block in p.h:", f"for p_block in {blocks}:"),
            (HIDDEN_BACKWARD, CALL,
             f"        from npgpt.model import params\n\n{CALL}\n{add_up}"),
            (HIDDEN, "x, p.h, n_head", f"x, {blocks}, n_head"),
            (HIDDEN, "zip(p.h, layers", f"zip({blocks}, layers"),
        )  # fmt: skip


def last_block(end: str, order: str) -> tuple[tuple[str, str, str], ...]:
    """Return the edits by which all blocks are the last one, and one of them has all gradients."""
    add_up = OTHERS.format(end, order, "X").replace(".X", "")
    return (
        (HIDDEN_FORWARD, "for p_block in p.h:", "for p_block in p.h[-1:] * len(p.h):"),
        (HIDDEN_BACKWARD, CALL, f"        from npgpt.model import params\n\n{CALL}\n{add_up}"),
        (HIDDEN, "x, p.h, n_head", "x, p.h[-1:] * len(p.h), n_head"),
        (HIDDEN, "zip(p.h, layers", "zip(p.h[-1:] * len(p.h), layers"),
    )


wrong(
    "forward",
    "last-block-in-all-places",
    "all blocks are the last one",
    *last_block("last", "[::-1]"),
)
SHARED = last_block(
    "first", ""
)  # a module that is loaded for each block has the last one's weights
for one, other, line in (("ln_1", "ln_2", DLN_1), ("ln_2", "ln_1", DLN_2)):
    for name, says, field in (("weight", "weight", "p"), ("rstd", "standard deviation", "rstd")):
        wrong(
            "backward",
            f"{one.replace('_', '-')}-backward-with-{name}-of-{other.replace('_', '-')}",
            f"the backward of {one} uses the {says} of {other}",
            (
                BACKWARD,
                line,
                line.replace(f"c.{one}", f"c.{one}._replace({field}=c.{other}.{field})"),
            ),
        )
for layer, where, line in (
    ("ln_1", BACKWARD, DLN_1),
    ("ln_2", BACKWARD, DLN_2),
    ("ln_f", HIDDEN_BACKWARD, DLN_F),
    ("attn.c_proj", BACKWARD, DATTN_PROJ),
):
    call = line.partition(" = ")[2].replace(", dx=dh", "")
    wrong(
        "backward",
        f"{layer.replace('.', '-').replace('_', '-')}-dx-missing",
        f"the gradient passes {layer} by: those of its weight and bias are right",
        (where, line, call),
    )
