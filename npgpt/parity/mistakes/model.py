"""Mistakes in the model around the blocks: the last LayerNorm, the head, the number of blocks."""

from npgpt.parity.mistakes.mistake import Page

LOSS, BACKWARD = "npgpt.model.transformer:loss", "npgpt.model.transformer:backward"
HIDDEN, SCORES = "npgpt.model.transformer:hidden", "npgpt.model.transformer:scores"
HEAD = "npgpt.ops.linear_cross_entropy:forward"
LOSSES = "npgpt.ops.linear_cross_entropy:losses"
TIE = "npgpt.parity.steps:tie"

page = Page("docs/backprop/model.md")
wrong = page.add

wrong(
    "forward",
    "ln-f-missing",
    "the last LayerNorm, ln_f, is missing",
    (LOSS, "x, ln_f = ops.layernorm.forward(x, p.ln_f)", "ln_f = None"),
    (BACKWARD, "    dx = ops.layernorm.backward(dx, c.ln_f, g.ln_f)\n", ""),
    (HIDDEN, "x, _ = ops.layernorm.forward(x, p.ln_f)", "pass"),
)
wrong(
    "forward",
    "last-block-missing",
    "the last block is left out",
    (LOSS, "for p_block in p.h:", "for p_block in p.h[:-1]:"),
    (BACKWARD, "reversed(g.h)", "reversed(g.h[:-1])"),
    (HIDDEN, "x = ops.decode.forward(x, p.h, n_head=config.n_head, past=past)",
     "x = ops.decode.forward(x, p.h[:-1], n_head=config.n_head, past=past[:-1])"),
    (HIDDEN, "past or [None] * config.n_layer", "(past or [None] * config.n_layer)[:-1]"),
    (HIDDEN, "zip(p.h, layers", "zip(p.h[:-1], layers"),
)  # fmt: skip
wrong(
    "forward",
    "logits-scaled",
    "logits are divided by sqrt(C)",
    (LOSSES, "logits = x @ weight.T", "logits = x @ weight.T * x.shape[-1] ** -0.5"),
    (HEAD, "dlogits /= N", "dlogits /= N * x.shape[-1] ** 0.5"),
    (SCORES, "return out", "return out * x.shape[-1] ** -0.5"),
)
wrong(
    "forward",
    "head-tied",
    "the head is wte, although the model has a head of its own",
    (TIE, "return p", "return p._replace(lm_head=None)"),
)
wrong(
    "backward",
    "head-untied",
    "the head is a copy of wte with gradients and steps of its own, not the same matrix",
    (
        TIE,
        "return p",
        "lm_head = params.Matrix(p.wte.weight.copy()) if p.lm_head is None else p.lm_head\n"
        "    return p._replace(lm_head=lm_head)",
    ),
    seen=("karpathy/nanoGPT#21",),
)
wrong(
    "backward",
    "head-gradient-missing",
    "the tied wte has no gradient from the head, only that of the embedding",
    (BACKWARD, "if g.lm_head is not None:\n        g.wte", "if True:\n        g.wte"),
)
wrong(
    "backward",
    "head-gradient-doubled",
    "the gradient of the tied wte has the head's part twice",
    (BACKWARD, "c.loss, head(g))", "c.loss, head(g))\n    head(g)[:] *= 2"),
)
wrong(
    "backward",
    "ln-f-backward-missing",
    "backward leaves out ln_f",
    (BACKWARD, "    dx = ops.layernorm.backward(dx, c.ln_f, g.ln_f)\n", ""),
)
