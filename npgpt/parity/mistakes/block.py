"""Mistakes in a block: norms, residual connections, layers left out."""

from npgpt.parity.mistakes.mistake import Page

FORWARD, BACKWARD = "npgpt.model.block:forward", "npgpt.model.block:backward"

page = Page("docs/backprop/block.md")
wrong = page.add

GELU = "h, gelu = ops.gelu.forward(h)"
MLP_PROJ = "h, mlp_proj = ops.linear.forward(h, p.mlp.c_proj)"
DMLP_PROJ = "dh = ops.linear.backward(dh, c.mlp_proj, g.mlp.c_proj)"
DGELU = "dh = ops.gelu.backward(dh, c.gelu, dx=dh)"
LN_1 = "h, ln_1 = ops.layernorm.forward(x, p.ln_1)"
LN_2 = "h, ln_2 = ops.layernorm.forward(x, p.ln_2)"
C_ATTN = "h, c_attn = ops.linear.forward(h, p.attn.c_attn)"
C_FC = "h, c_fc = ops.linear.forward(h, p.mlp.c_fc)"
ATTN_PROJ = "h, attn_proj = ops.linear.forward(h, p.attn.c_proj)"
ATTN_ADD = "x = np.add(x, h, out=h)  # h has no other reference"
MLP_ADD = "x = np.add(x, h, out=h)\n    return x"
DMLP_DROP = "dh = ops.dropout.backward(dx, c.mlp_drop)"
DATTN_DROP = "dh = ops.dropout.backward(dx, c.attn_drop)"
DLN_2 = "dh = ops.layernorm.backward(dh, c.ln_2, g.ln_2, dx=dh)"
DLN_1 = "dh = ops.layernorm.backward(dh, c.ln_1, g.ln_1, dx=dh)"
DMLP_ADD = "dx = np.add(dx, dh, out=dh)  # x went into the MLP and around it: the two add"
DATTN_ADD = "return np.add(dx, dh, out=dh)  # and into attention and around it"

wrong(
    "forward",
    "post-norm",
    "LayerNorm follows the residual addition (post-norm, as in GPT-1 and BERT)",
    (FORWARD, f"{LN_1}\n    {C_ATTN}", C_ATTN.replace("(h,", "(x,")),
    (FORWARD, ATTN_ADD, "x, ln_1 = ops.layernorm.forward(np.add(x, h), p.ln_1)"),
    (FORWARD, f"{LN_2}\n    {C_FC}", C_FC.replace("(h,", "(x,")),
    (FORWARD, MLP_ADD, "x, ln_2 = ops.layernorm.forward(np.add(x, h), p.ln_2)\n    return x"),
    (
        BACKWARD,
        DMLP_DROP,
        "dsum = ops.layernorm.backward(dx, c.ln_2, g.ln_2)\n"
        "    dh = ops.dropout.backward(dsum, c.mlp_drop)",
    ),
    (BACKWARD, f"{DLN_2}\n    {DMLP_ADD}", "dx = np.add(dsum, dh, out=dh)"),
    (
        BACKWARD,
        DATTN_DROP,
        "dsum = ops.layernorm.backward(dx, c.ln_1, g.ln_1)\n"
        "    dh = ops.dropout.backward(dsum, c.attn_drop)",
    ),
    (BACKWARD, f"{DLN_1}\n    {DATTN_ADD}", "return np.add(dsum, dh, out=dh)"),
)
wrong(
    "forward",
    "residual-after-norm",
    "the residual connection begins after LayerNorm: ln(x) + layer(ln(x))",
    (FORWARD, LN_1, "n, ln_1 = ops.layernorm.forward(x, p.ln_1)\n    h = n"),
    (FORWARD, ATTN_ADD, "x = np.add(n, h, out=h)"),
    (FORWARD, LN_2, "n, ln_2 = ops.layernorm.forward(x, p.ln_2)\n    h = n"),
    (FORWARD, MLP_ADD, "x = np.add(n, h, out=h)\n    return x"),
    (
        BACKWARD,
        f"{DLN_2}\n    {DMLP_ADD}",
        "dx = ops.layernorm.backward(np.add(dx, dh), c.ln_2, g.ln_2)",
    ),
    (
        BACKWARD,
        f"{DLN_1}\n    {DATTN_ADD}",
        "return ops.layernorm.backward(np.add(dx, dh), c.ln_1, g.ln_1)",
    ),
)
wrong(
    "forward",
    "attention-added-to-norm",
    "attention's output is added to the normalized stream, not to the stream",
    (FORWARD, LN_1, "n, ln_1 = ops.layernorm.forward(x, p.ln_1)\n    h = n"),
    (FORWARD, ATTN_ADD, "x = np.add(n, h, out=h)"),
    (
        BACKWARD,
        f"{DLN_1}\n    {DATTN_ADD}",
        "return ops.layernorm.backward(np.add(dx, dh), c.ln_1, g.ln_1)",
    ),
)
wrong(
    "forward",
    "mlp-added-to-norm",
    "the MLP's output is added to the normalized stream, not to the stream",
    (FORWARD, LN_2, "n, ln_2 = ops.layernorm.forward(x, p.ln_2)\n    h = n"),
    (FORWARD, MLP_ADD, "x = np.add(n, h, out=h)\n    return x"),
    (
        BACKWARD,
        f"{DLN_2}\n    {DMLP_ADD}",
        "dx = ops.layernorm.backward(np.add(dx, dh), c.ln_2, g.ln_2)",
    ),
)
wrong(
    "forward",
    "mlp-added-to-block-input",
    "the MLP's output is added to the block's input: attention's result enters the MLP alone",
    (FORWARD, LN_1, f"start = x\n    {LN_1}"),
    (FORWARD, MLP_ADD, "x = np.add(start, h, out=h)\n    return x"),
    (BACKWARD, DMLP_ADD, "dstart, dx = dx, dh"),
    (BACKWARD, DATTN_ADD, "return dx + dh + dstart"),
)
wrong(
    "forward",
    "mlp-reads-attention-alone",
    "the MLP reads attention's output without the residual stream",
    (FORWARD, ATTN_ADD, "x, branch = x + h, h"),
    (FORWARD, LN_2, LN_2.replace("(x,", "(branch,")),
    (BACKWARD, DMLP_ADD, "dx, dbranch = dx.copy(), dh.copy()"),
    (BACKWARD, DATTN_DROP, DATTN_DROP.replace("(dx,", "(dx + dbranch,")),
)
wrong(
    "forward",
    "gelu-after-c-proj",
    "GELU follows the MLP's second layer, not the first",
    (FORWARD, f"{GELU}\n    {MLP_PROJ}", f"{MLP_PROJ}\n    {GELU}"),
    (BACKWARD, f"{DMLP_PROJ}\n    {DGELU}", f"dh = ops.gelu.backward(dh, c.gelu)\n    {DMLP_PROJ}"),
)
wrong(
    "forward",
    "gelu-twice",
    "GELU follows both layers of the MLP",
    (FORWARD, MLP_PROJ, f"{MLP_PROJ}\n    h, gelu_2 = ops.gelu.forward(h)"),
    (FORWARD, "gelu, mlp_proj", "(gelu, gelu_2), mlp_proj"),
    (BACKWARD, f"{DMLP_PROJ}\n    {DGELU}",
     f"dh = ops.gelu.backward(dh, c.gelu[1])\n    {DMLP_PROJ}\n    "
     + DGELU.replace("c.gelu", "c.gelu[0]")),
)  # fmt: skip
wrong(
    "forward",
    "residual-around-attention-missing",
    "attention's output replaces the residual stream instead of being added to it",
    (FORWARD, ATTN_ADD, "x = h"),
    (BACKWARD, DATTN_ADD, "return dh"),
)
wrong(
    "forward",
    "residual-around-mlp-missing",
    "the MLP's output replaces the residual stream instead of being added to it",
    (FORWARD, MLP_ADD, "x = h\n    return x"),
    (BACKWARD, DMLP_ADD, "dx = dh"),
)
wrong(
    "forward",
    "parallel-block",
    "the MLP reads the block's input, not attention's result (parallel, as in GPT-J)",
    (FORWARD, LN_1, f"start = x\n    {LN_1}"),
    (FORWARD, LN_2, LN_2.replace("(x,", "(start,")),
    (BACKWARD, DMLP_ADD, "dstart, dx = dh, dx.copy()"),
    (BACKWARD, DATTN_ADD, "return dx + dh + dstart"),
)
wrong(
    "forward",
    "ln-1-missing",
    "attention has no LayerNorm before it",
    (FORWARD, LN_1, "h, ln_1 = x, None"),
    (BACKWARD, f"    {DLN_1}\n", ""),
)
wrong(
    "forward",
    "ln-2-missing",
    "the MLP has no LayerNorm before it",
    (FORWARD, LN_2, "h, ln_2 = x, None"),
    (BACKWARD, f"    {DLN_2}\n", ""),
)
wrong(
    "forward",
    "ln-1-used-twice",
    "ln_1 stands before the MLP too, in the place of ln_2",
    (FORWARD, LN_2, LN_2.replace("p.ln_2", "p.ln_1")),
    (
        BACKWARD,
        DATTN_ADD,
        """for first, second in zip(g.ln_1, g.ln_2, strict=True):
        first += second
        second.fill(0)
    """
        + DATTN_ADD,
    ),
    seen=("ml-explore/mlx#1636",),
)
wrong(
    "forward",
    "ln-1-and-ln-2-exchanged",
    "ln_1 and ln_2 are exchanged",
    (FORWARD, LN_1, LN_1.replace("p.ln_1", "p.ln_2")),
    (FORWARD, LN_2, LN_2.replace("p.ln_2", "p.ln_1")),
    (BACKWARD, DLN_2, DLN_2.replace("g.ln_2", "g.ln_1")),
    (BACKWARD, DLN_1, DLN_1.replace("g.ln_1", "g.ln_2")),
)
wrong(
    "forward",
    "attention-projection-missing",
    "attention has no output projection",
    (FORWARD, f"    {ATTN_PROJ}\n", "    attn_proj = None\n"),
    (BACKWARD, "    dh = ops.linear.backward(dh, c.attn_proj, g.attn.c_proj)\n", ""),
)
wrong(
    "backward",
    "gradient-around-attention-missing",
    "backward of attention's residual connection lacks the path around it",
    (BACKWARD, DATTN_ADD, "return dh"),
)
wrong(
    "backward",
    "gradient-around-mlp-missing",
    "backward of the MLP's residual connection lacks the path around it",
    (BACKWARD, DMLP_ADD, "dx = dh"),
)
wrong(
    "backward",
    "gradients-around-both-missing",
    "backward of both residual connections lacks the path around the layer",
    (BACKWARD, DMLP_ADD, "dx = dh"),
    (BACKWARD, DATTN_ADD, "return dh"),
)
wrong(
    "backward",
    "gradients-around-both-doubled",
    "backward of both residual connections adds the path around the layer twice",
    (BACKWARD, DMLP_ADD, "dx = 2 * dx + dh"),
    (BACKWARD, DATTN_ADD, "return 2 * dx + dh"),
)
wrong(
    "backward",
    "gradient-around-attention-stale",
    "the path around attention has the gradient of before the MLP: what came through it is lost",
    (BACKWARD, DMLP_ADD, "start = dx\n    dx = dx + dh"),
    (BACKWARD, DATTN_ADD, "return start + dh"),
)
wrong(
    "backward",
    "gradient-through-attention-stale",
    "attention has the gradient of before the MLP: what came through the MLP passes around it",
    (BACKWARD, DMLP_ADD, "start = dx\n    dx = dx + dh"),
    (BACKWARD, DATTN_DROP, DATTN_DROP.replace("(dx,", "(start,")),
)
wrong(
    "backward",
    "gradient-around-attention-doubled",
    "backward of attention's residual connection adds the path around it twice",
    (BACKWARD, DATTN_ADD, "return 2 * dx + dh"),
)
wrong(
    "backward",
    "gradient-around-mlp-doubled",
    "backward of the MLP's residual connection adds the path around it twice",
    (BACKWARD, DMLP_ADD, "dx = 2 * dx + dh"),
)
wrong(
    "backward",
    "gradient-through-attention-missing",
    "the gradient passes around attention, but not through it",
    (BACKWARD, DATTN_ADD, "return dx.copy()"),
)
wrong(
    "backward",
    "gradient-through-mlp-missing",
    "the gradient passes around the MLP, but not through it",
    (BACKWARD, DMLP_ADD, "dx = dx.copy()"),
)
wrong(
    "backward",
    "ln-2-backward-of-ln-1",
    "the backward of ln_2 uses what ln_1 cached",
    (BACKWARD, DLN_2, DLN_2.replace("c.ln_2", "c.ln_1")),
)
wrong(
    "backward",
    "residual-gradient-halved",
    "the gradients of the residual stream's two paths are averaged, not added",
    (BACKWARD, DMLP_ADD, "dx = np.add(dx, dh, out=dh) / 2"),
    (BACKWARD, DATTN_ADD, "return np.add(dx, dh, out=dh) / 2"),
)
wrong(
    "forward",
    "residual-added-twice",
    "the residual stream is added twice: by the layer and around it",
    (FORWARD, ATTN_ADD, "x = 2 * x + h"),
    (FORWARD, MLP_ADD, "x = 2 * x + h\n    return x"),
    (BACKWARD, DMLP_ADD, "dx = 2 * dx + dh"),
    (BACKWARD, DATTN_ADD, "return 2 * dx + dh"),
)
wrong(
    "forward",
    "attention-missing",
    "a block has no attention",
    (FORWARD, ATTN_ADD, "x = x.copy()"),
    (BACKWARD, DATTN_DROP, "dh = np.zeros_like(dx)"),
)
wrong(
    "forward",
    "mlp-missing",
    "a block has no MLP",
    (FORWARD, MLP_ADD, "x = x.copy()\n    return x"),
    (BACKWARD, DMLP_DROP, "dh = np.zeros_like(dx)"),
)
for name, says, right, cache in (
    (
        "c-proj-gradient-before-gelu",
        "the gradient of the MLP's c_proj uses GELU's input, not its output",
        "c.mlp_proj, g",
        "c.mlp_proj._replace(x=c.gelu.x), g",
    ),
    (
        "c-fc-gradient-before-norm",
        "the gradient of c_fc uses the input of LayerNorm, not its output",
        "c.c_fc, g",
        "c.c_fc._replace(x=c.ln_2.x), g",
    ),
    (
        "c-attn-gradient-before-norm",
        "the gradient of c_attn uses the input of LayerNorm, not its output",
        "c.c_attn, g",
        "c.c_attn._replace(x=c.ln_1.x), g",
    ),
    ("ln-1-backward-missing", "backward leaves out ln_1", f"    {DLN_1}\n", ""),
    ("ln-2-backward-missing", "backward leaves out ln_2", f"    {DLN_2}\n", ""),
):
    wrong("backward", name, says, (BACKWARD, right, cache))
for layer, kept in (("attn.c_attn", "c_attn"), ("attn.c_proj", "attn_proj"),
                    ("mlp.c_fc", "c_fc"), ("mlp.c_proj", "mlp_proj")):  # fmt: skip
    call = f"dh = ops.linear.backward(dh, c.{kept}, g.{layer})"
    wrong(
        "backward",
        f"{layer.replace('.', '-').replace('_', '-')}-gradient-missing",
        f"weight and bias of {layer} have no gradient, and its input has one",
        (BACKWARD, call, f"{call}\n    g.{layer}.weight[:] = g.{layer}.bias[:] = 0"),
    )
for layer in ("ln_1", "ln_2"):
    call = DLN_1 if layer == "ln_1" else DLN_2
    wrong(
        "backward",
        f"{layer.replace('_', '-')}-gradient-missing",
        f"weight and bias of {layer} have no gradient, and its input has one",
        (BACKWARD, call, f"{call}\n    g.{layer}.weight[:] = g.{layer}.bias[:] = 0"),
    )
for name, says, right, cache in (
    ("ln-1-backward-of-ln-2", "the backward of ln_1 uses what ln_2 cached", DLN_1,
     DLN_1.replace("c.ln_1", "c.ln_2")),
    ("c-fc-gradient-of-ln-1", "the gradient of c_fc uses the output of ln_1, not of ln_2",
     "c.c_fc, g", "c.c_fc._replace(x=c.c_attn.x), g"),
    ("c-attn-gradient-of-ln-2", "the gradient of c_attn uses the output of ln_2, not of ln_1",
     "c.c_attn, g", "c.c_attn._replace(x=c.c_fc.x), g"),
):  # fmt: skip
    wrong("backward", name, says, (BACKWARD, right, cache))
