"""Mistakes in the model around the blocks: the last LayerNorm, the head, the number of blocks."""

from npgpt.parity.mistakes.mistake import Page

FORWARD, BACKWARD = (f"npgpt.model.transformer:hidden_{way}" for way in ("forward", "backward"))
LOSS_BACKWARD = "npgpt.model.transformer:backward"
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
    (FORWARD, "x, ln_f = ops.layernorm.forward(x, p.ln_f)", "ln_f = None"),
    (BACKWARD, "    dx = ops.layernorm.backward(dx, c.ln_f, g.ln_f)\n", ""),
    (HIDDEN, "x, _ = ops.layernorm.forward(x, p.ln_f)", "pass"),
)
wrong(
    "forward",
    "last-block-missing",
    "the last block is left out",
    (FORWARD, "for p_block in p.h:", "for p_block in p.h[:-1]:"),
    (BACKWARD, "reversed(g.h)", "reversed(g.h[:-1])"),
    (HIDDEN, "x = ops.decode.forward(x, p.h, n_head=config.n_head, past=past)",
     "x = ops.decode.forward(x, p.h[:-1], n_head=config.n_head, past=past[:-1])"),
    (HIDDEN, "past or [None] * config.n_layer", "(past or [None] * config.n_layer)[:-1]"),
    (HIDDEN, "zip(p.h, layers", "zip(p.h[:-1], layers"),
)  # fmt: skip
wrong(
    "forward",
    "first-block-missing",
    "the first block is left out",
    (FORWARD, "for p_block in p.h:", "for p_block in p.h[1:]:"),
    (BACKWARD, "reversed(g.h)", "reversed(g.h[1:])"),
    (HIDDEN, "x = ops.decode.forward(x, p.h, n_head=config.n_head, past=past)",
     "x = ops.decode.forward(x, p.h[1:], n_head=config.n_head, past=past[1:])"),
    (HIDDEN, "past or [None] * config.n_layer", "(past or [None] * config.n_layer)[1:]"),
    (HIDDEN, "zip(p.h, layers", "zip(p.h[1:], layers"),
)  # fmt: skip
wrong(
    "forward",
    "blocks-in-reverse-order",
    "the blocks are in reverse order",
    (FORWARD, "for p_block in p.h:", "for p_block in p.h[::-1]:"),
    (BACKWARD, "reversed(g.h)", "g.h"),
    (HIDDEN, "x, p.h, n_head", "x, p.h[::-1], n_head"),
    (HIDDEN, "zip(p.h, layers", "zip(p.h[::-1], layers"),
)
ADD_UP = """        dx = block.backward(dx, cache, g_block, ops=ops)
    first, *others = g.h
    for one in others:
        for total, grad in zip(params.leaves(first), params.leaves(one), strict=True):
            total += grad
            grad.fill(0)"""
wrong(
    "forward",
    "first-block-in-all-places",
    "all blocks are the first one ([block] * n_layer)",
    (FORWARD, "for p_block in p.h:", "for p_block in p.h[:1] * len(p.h):"),
    (BACKWARD, "        dx = block.backward(dx, cache, g_block, ops=ops)",
     f"        from npgpt.model import params\n\n{ADD_UP}"),
    (HIDDEN, "x, p.h, n_head", "x, p.h[:1] * len(p.h), n_head"),
    (HIDDEN, "zip(p.h, layers", "zip(p.h[:1] * len(p.h), layers"),
)  # fmt: skip
wrong(
    "forward",
    "ln-f-without-parameters",
    "the last LayerNorm, ln_f, has neither weight nor bias",
    (FORWARD, "ops.layernorm.forward(x, p.ln_f)",
     "ops.layernorm.forward(x, type(p.ln_f)(p.ln_f.weight * 0 + 1, p.ln_f.bias * 0))"),
    (BACKWARD, "dx = ops.layernorm.backward(dx, c.ln_f, g.ln_f)",
     "dx = ops.layernorm.backward(dx, c.ln_f, g.ln_f)\n"
     "    g.ln_f.weight[:] = g.ln_f.bias[:] = 0"),
    (HIDDEN, "ops.layernorm.forward(x, p.ln_f)",
     "ops.layernorm.forward(x, type(p.ln_f)(p.ln_f.weight * 0 + 1, p.ln_f.bias * 0))"),
)  # fmt: skip
wrong(
    "forward",
    "ln-f-twice",
    "the last LayerNorm, ln_f, is applied twice",
    (FORWARD, "x, ln_f = ops.layernorm.forward(x, p.ln_f)",
     "x, first = ops.layernorm.forward(x, p.ln_f)\n"
     "    x, ln_f = ops.layernorm.forward(x, p.ln_f)"),
    (FORWARD, "h, ln_f)", "h, (first, ln_f))"),
    (BACKWARD, "dx = ops.layernorm.backward(dx, c.ln_f, g.ln_f)",
     "dx = ops.layernorm.backward(dx, c.ln_f[1], g.ln_f)\n"
     "    second = [grad.copy() for grad in g.ln_f]\n"
     "    dx = ops.layernorm.backward(dx, c.ln_f[0], g.ln_f)\n"
     "    for grad, more in zip(g.ln_f, second, strict=True):\n        grad += more"),
    (HIDDEN, "x, _ = ops.layernorm.forward(x, p.ln_f)",
     "for _ in range(2):\n        x, _ = ops.layernorm.forward(x, p.ln_f)"),
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
    (LOSS_BACKWARD, "if g.lm_head is not None and", "if"),
)
wrong(
    "backward",
    "head-gradient-doubled",
    "the gradient of the tied wte has the head's part twice",
    (LOSS_BACKWARD, "c.loss, head(g))", "c.loss, head(g))\n    head(g)[:] *= 2"),
)
wrong(
    "backward",
    "ln-f-backward-missing",
    "backward leaves out ln_f",
    (BACKWARD, "    dx = ops.layernorm.backward(dx, c.ln_f, g.ln_f)\n", ""),
)
BLOCKS = "zip(reversed(c.h), reversed(g.h), strict=True)"
DLN_F = "dx = ops.layernorm.backward(dx, c.ln_f, g.ln_f)"
for name, says, right, text in (
    ("blocks-backward-in-order", "backward goes through the blocks from the first to the last",
     BLOCKS, "zip(c.h, g.h, strict=True)"),
    ("ln-f-gradient-missing", "weight and bias of ln_f have no gradient, and its input has one",
     DLN_F, f"{DLN_F}\n    g.ln_f.weight[:] = g.ln_f.bias[:] = 0"),
    ("tied-gradient-averaged", "the two gradients of the tied wte are averaged, not added",
     "Embedding(g.wte.weight, g.wpe.weight))",
     "Embedding(g.wte.weight, g.wpe.weight))\n    g.wte.weight[:] /= 1 if g.lm_head else 2"),
    ("dloss-missing-of-head", "only the head has a gradient: that of its input is not propagated",
     DLN_F, "dx = np.zeros_like(dx)\n    " + DLN_F),
    ("embedding-dx-missing", "the embeddings have no gradient: backward ends at the first block",
     "    ops.embedding.backward(dx, c", "    ops.embedding.backward(dx * 0, c"),
):  # fmt: skip
    wrong("backward", name, says, (BACKWARD, right, text))
