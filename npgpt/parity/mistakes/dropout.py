"""Mistakes in dropout. They show in a dump with dropout and its masks."""

from npgpt.parity.mistakes.mistake import Page

FORWARD, BACKWARD = "npgpt.ops.dropout:forward", "npgpt.ops.dropout:backward"
DRAW = "npgpt.ops.dropout:draw"
ATTENTION, DATTENTION = "npgpt.ops.attention:forward", "npgpt.ops.attention:backward"
BLOCK, DBLOCK = "npgpt.model.block:forward", "npgpt.model.block:backward"
EMBEDDED, HIDDEN = (f"npgpt.model.transformer:{name}" for name in ("hidden_forward", "hidden"))

page = Page("docs/backprop/dropout.md")
wrong = page.add

OUT, DX = "x * (keep * scale)", "dout * (keep * scale)"
DROPPED = "dropped = dropout.backward(probs, drop)"
# a port has the dropped probabilities of forward; here they are computed again, by backward
KEPT = (
    DATTENTION,
    DROPPED,
    "dropped = probs if drop.keep is None else probs * (drop.keep * drop.scale)",
)
AFTER_ATTN = "h, attn_drop = ops.dropout.forward(h, rate=rate, rng=rng)"
AFTER_MLP = "h, mlp_drop = ops.dropout.forward(h, rate=rate, rng=rng)"

wrong(
    "forward",
    "dropout-not-scaled",
    "dropout does not scale up what it keeps",
    (FORWARD, OUT, "x * keep"),
    (BACKWARD, DX, "dout * keep"),
)
wrong(
    "forward",
    "dropout-scaled-by-rate",
    "dropout divides by the rate, not by 1 - rate",
    (DRAW, "one / dtype.type(1 - rate)", "one / dtype.type(rate)"),
)
wrong(
    "forward",
    "dropout-scaled-down",
    "dropout multiplies with 1 - rate instead of dividing",
    (DRAW, "one / dtype.type(1 - rate)", "dtype.type(1 - rate)"),
)
wrong(
    "forward",
    "dropout-inverted-mask",
    "dropout keeps what it should drop",
    (FORWARD, OUT, "x * (~keep * scale)"),
    (BACKWARD, DX, "dout * (~keep * scale)"),
)
wrong(
    "forward",
    "dropout-missing-on-embedding",
    "the embedding has no dropout",
    (
        EMBEDDED,
        "x, drop = ops.dropout.forward(x, rate=rate, rng=rng)",
        "ops.dropout.forward(x, rate=rate, rng=rng)\n    x, drop = ops.dropout.forward(x, rate=0)",
    ),
)
wrong(
    "forward",
    "dropout-missing-on-probs",
    "attention's probabilities have no dropout",
    (
        ATTENTION,
        "dropped, drop = dropout.forward(probs, rate=rate, rng=rng)",
        "dropout.forward(probs, rate=rate, rng=rng)\n"
        "    dropped, drop = dropout.forward(probs, rate=0)",
    ),
)
for name, says, line in (
    ("dropout-missing-after-attention", "attention's result has no dropout", AFTER_ATTN),
    ("dropout-missing-after-mlp", "the MLP's result has no dropout", AFTER_MLP),
):
    wrong(
        "forward",
        name,
        says,
        (
            BLOCK,
            line,
            "ops.dropout.forward(h, rate=rate, rng=rng)\n    "
            + line.replace("rate=rate, rng=rng", "rate=0"),
        ),
    )
wrong(
    "forward",
    "dropout-after-residual",
    "dropout follows the residual addition instead of preceding it",
    (
        BLOCK,
        f"{AFTER_ATTN}\n    x = np.add(x, h, out=h)  # h has no other reference",
        "x, attn_drop = ops.dropout.forward(np.add(x, h), rate=rate, rng=rng)",
    ),
    (
        BLOCK,
        f"{AFTER_MLP}\n    x = np.add(x, h, out=h)",
        "x, mlp_drop = ops.dropout.forward(np.add(x, h), rate=rate, rng=rng)",
    ),
    (
        DBLOCK,
        "dh = ops.dropout.backward(dx, c.mlp_drop)",
        "dsum = dh = ops.dropout.backward(dx, c.mlp_drop)",
    ),
    (DBLOCK, "dx = np.add(dx, dh, out=dh)", "dx = np.add(dsum, dh)"),
    (
        DBLOCK,
        "dh = ops.dropout.backward(dx, c.attn_drop)",
        "dsum = dh = ops.dropout.backward(dx, c.attn_drop)",
    ),
    (DBLOCK, "return np.add(dx, dh, out=dh)", "return np.add(dsum, dh)"),
)
wrong(
    "forward",
    "dropout-on-scores",
    "attention's dropout is on the scores, before the mask and softmax",
    (
        ATTENTION,
        "scores = q @ k.mT * D**-0.5",
        "scores, drop = dropout.forward(q @ k.mT * D**-0.5, rate=rate, rng=rng)",
    ),
    (ATTENTION, "dropped, drop = dropout.forward(probs, rate=rate, rng=rng)", "dropped = probs"),
    (DATTENTION, DROPPED, "dropped = probs"),
    (DATTENTION, "dprobs = dropout.backward(dy @ v.mT, drop)", "dprobs = dy @ v.mT"),
    (
        DATTENTION,
        "dq = dscores @ k",
        "dscores = dropout.backward(dscores, drop)\n    dq = dscores @ k",
    ),
)
wrong(
    "forward",
    "dropout-in-evaluation",
    "dropout is active when the model is evaluated (no model.eval())",
    (
        "npgpt.parity.steps:logits",
        "return model.logits(p, tokens, config, ops=ops)",
        """_, cache = model.loss(p, tokens, tokens, config, rng=rng, ops=ops)
    x, _ = ops.layernorm.forward(cache.hidden.ln_f.x, p.ln_f)
    return model.scores(p, x, ops=ops)""",
    ),
    seen=("ipolharvard/ethos-ares#20",),
)
wrong(
    "backward",
    "dropout-backward-missing",
    "the gradient passes dropout unchanged: neither masked nor scaled",
    (BACKWARD, DX, "dout"),
    KEPT,
)
wrong(
    "backward",
    "dropout-backward-not-scaled",
    "the gradient of dropout is masked but not scaled up",
    (BACKWARD, DX, "dout * keep"),
    KEPT,
)
wrong(
    "backward",
    "dropout-backward-not-masked",
    "the gradient of dropout is scaled up but not masked",
    (BACKWARD, DX, "dout * scale"),
    KEPT,
)
wrong(
    "backward",
    "dv-of-undropped-probs",
    "dv is computed with the probabilities before dropout",
    (DATTENTION, DROPPED, "dropped = probs"),
)
wrong(
    "backward",
    "dprobs-without-dropout",
    "the gradient of the probabilities skips dropout",
    (DATTENTION, "dprobs = dropout.backward(dy @ v.mT, drop)", "dprobs = dy @ v.mT"),
)
wrong(
    "backward",
    "softmax-backward-of-dropped-probs",
    "the backward of softmax uses the probabilities after dropout",
    (DATTENTION, "dscores = probs * (dprobs - (dprobs * probs)",
     "dscores = dropped * (dprobs - (dprobs * dropped)"),
)  # fmt: skip
for name, says, where, right, text in (
    ("dropout-backward-missing-after-attention", "the gradient skips dropout after attention",
     DBLOCK, "ops.dropout.backward(dx, c.attn_drop)", "dx"),
    ("dropout-backward-missing-after-mlp", "the gradient skips dropout after the MLP",
     DBLOCK, "ops.dropout.backward(dx, c.mlp_drop)", "dx"),
    ("dropout-backward-missing-on-embedding", "the gradient skips dropout of the embedding",
     "npgpt.model.transformer:hidden_backward", "        dx = ops.dropout.backward(dx, c.drop)\n",
     ""),
):  # fmt: skip
    wrong("backward", name, says, (where, right, text))
wrong(
    "forward",
    "dropout-scaled-twice",
    "dropout scales up twice what it keeps",
    (FORWARD, OUT, "x * (keep * scale * scale)"),
    (BACKWARD, DX, "dout * (keep * scale * scale)"),
)

# In evaluation: GPT-2's rate, unless the dump has another one. A mask keeps everything, so that the
# right backward has the factor too.
IN_TRAINING = {  # where dropout is, and its lines: function, line, mask, input, output
    "embedding": ((EMBEDDED, "x, drop = ops.dropout.forward(x, rate=rate, rng=rng)", "drop", "x",
                   "x"),),
    "probs": ((ATTENTION, "dropped, drop = dropout.forward(probs, rate=rate, rng=rng)", "drop",
               "probs", "dropped"),),
    "branches": ((BLOCK, AFTER_ATTN, "attn_drop", "h", "h"),
                 (BLOCK, AFTER_MLP, "mlp_drop", "h", "h")),
}  # fmt: skip
START = "x, _ = ops.embedding.forward(tokens, Embedding(p.wte.weight, p.wpe.weight), start=start)"
BLOCKS = (  # of the passes without backward: they learn the rate, decoding too
    (HIDDEN, "past=layer,", "past=layer, rate=config.dropout,"),
    (HIDDEN, "if past and tokens.shape[1] == 1:", "if False:"),
)


def in_evaluation(parts: tuple[str, ...], factor: str, rate: str) -> list[tuple[str, str, str]]:
    """Return the edits by which dropout multiplies with a factor of the rate in evaluation."""
    edits = [
        (where, line, f"""{line}
    if rng is None:
        {drop} = {drop}._replace(
            keep=np.ones({x}.shape, bool), scale={x}.dtype.type({factor.format(rate)})
        )
        {out} = {x} * {drop}.scale""")
        for part in parts
        for where, line, drop, x, out in IN_TRAINING[part]
    ]  # fmt: skip
    if "embedding" in parts:
        of_config = factor.format(rate.replace("rate", "config.dropout"))
        edits.append((HIDDEN, START, f"{START}\n    x = x * x.dtype.type({of_config})"))
    return [*edits, *(BLOCKS if parts != ("embedding",) else ())]


DOWN, UP = "1 - {}", "1 / (1 - {})"
OTHER_RATES = []  # see variants.OTHERS
for name, says, parts, factor in (
    ("dropout-scales-evaluation", "in evaluation, dropout multiplies with 1 - rate",
     ("embedding", "probs", "branches"), DOWN),
    ("dropout-scales-evaluation-of-stream",
     "in evaluation, dropout multiplies with 1 - rate, but for attention's probabilities",
     ("embedding", "branches"), DOWN),
    ("dropout-scales-evaluation-of-embedding",
     "in evaluation, dropout multiplies the embedding with 1 - rate", ("embedding",), DOWN),
    ("dropout-scales-evaluation-of-probs",
     "in evaluation, dropout multiplies attention's probabilities with 1 - rate",
     ("probs",), DOWN),
    ("dropout-scales-evaluation-of-branches",
     "in evaluation, dropout multiplies attention's and the MLP's results with 1 - rate",
     ("branches",), DOWN),
    ("dropout-scales-evaluation-up", "in evaluation, dropout divides by 1 - rate",
     ("embedding", "probs", "branches"), UP),
):  # fmt: skip
    wrong("forward", name, says, *in_evaluation(parts, factor, "(rate or 0.1)"))
    for rate in ("0.2", "0.5"):
        OTHER_RATES.append((name, f", of {rate}", *in_evaluation(parts, factor, rate)))
WITHOUT_MASKS = {one[0] for one in OTHER_RATES}  # the mistakes that show without masks too
wrong(
    "forward",
    "dropout-not-inverted",
    "dropout multiplies with 1 - rate in evaluation, in place of dividing by it in training",
    (FORWARD, OUT, "x * keep"),
    (BACKWARD, DX, "dout * keep"),
    *in_evaluation(("embedding", "probs", "branches"), DOWN, "rate"),
)
