"""Mistakes of ports that are built as other models are, and of loops that run backward twice."""

from npgpt.parity.mistakes.block import (
    ATTN_ADD,
    C_ATTN,
    C_FC,
    DATTN_ADD,
    DATTN_DROP,
    DLN_1,
    DLN_2,
    DMLP_ADD,
    DMLP_DROP,
    FORWARD,
    LN_1,
    LN_2,
    MLP_ADD,
)
from npgpt.parity.mistakes.block import BACKWARD as DBLOCK
from npgpt.parity.mistakes.mistake import Page
from npgpt.parity.mistakes.model import BACKWARD as HIDDEN_BACKWARD
from npgpt.parity.mistakes.model import FORWARD as HIDDEN_FORWARD
from npgpt.parity.mistakes.model import HIDDEN

GRADIENTS = "npgpt.model.transformer:backward"
ATTENTION, DNORM = "npgpt.ops.attention:backward", "npgpt.ops.layernorm:backward"
ADAM = "npgpt.ops.adamw:update"

block = Page("docs/backprop/block.md")
model = Page("docs/backprop/model.md")
pages = (block, model)

block.add(
    "forward",
    "branch-norm",
    "LayerNorm follows attention and the MLP, before their results are added (as in Swin V2)",
    (FORWARD, f"{LN_1}\n    {C_ATTN}", C_ATTN.replace("(h,", "(x,")),
    (FORWARD, ATTN_ADD, "h, ln_1 = ops.layernorm.forward(h, p.ln_1)\n    x = x + h"),
    (FORWARD, f"{LN_2}\n    {C_FC}", C_FC.replace("(h,", "(x,")),
    (FORWARD, MLP_ADD, "h, ln_2 = ops.layernorm.forward(h, p.ln_2)\n    x = x + h\n    return x"),
    (DBLOCK, DMLP_DROP, f"dh = ops.layernorm.backward(dx, c.ln_2, g.ln_2)\n"
     f"    {DMLP_DROP.replace('(dx,', '(dh,')}"),
    (DBLOCK, f"{DLN_2}\n    {DMLP_ADD}", DMLP_ADD),
    (DBLOCK, DATTN_DROP, f"dh = ops.layernorm.backward(dx, c.ln_1, g.ln_1)\n"
     f"    {DATTN_DROP.replace('(dx,', '(dh,')}"),
    (DBLOCK, f"{DLN_1}\n    {DATTN_ADD}", DATTN_ADD),
)  # fmt: skip
DROP = "x, drop = ops.dropout.forward(x, rate=rate, rng=rng)"
DDROP = "dx = ops.dropout.backward(dx, c.drop)"
START = "if past and tokens.shape[1] == 1:"
NORMALIZE = "x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)"
model.add(
    "forward",
    "embedding-normalized",
    "the sum of the embeddings is normalized before the first block (as in BERT)",
    (HIDDEN_FORWARD, DROP, "rstd = 1 / np.sqrt(x.var(-1, keepdims=True) + 1e-5)\n"
     f"    {NORMALIZE}\n    norm = x\n    {DROP}\n    drop = drop, norm, rstd"),
    (HIDDEN_BACKWARD, DDROP, """drop, norm, rstd = c.drop
        dx = ops.dropout.backward(dx, drop)
        via_rstd = norm * (dx * norm).mean(-1, keepdims=True)
        dx = rstd * (dx - dx.mean(-1, keepdims=True) - via_rstd)"""),
    (HIDDEN, START, f"{NORMALIZE}\n    {START}"),
)  # fmt: skip
LAST = "hidden_backward(dx, c.hidden, g, on_block=on_block, ops=ops)"
model.add(
    "backward",
    "gradients-doubled",
    "the gradients of all parameters count twice: backward runs twice, without zeroing",
    (GRADIENTS, LAST, f"""{LAST}
    from npgpt.model.params import leaves

    for grad in leaves(g):
        grad *= 2"""),
)  # fmt: skip
block.add(
    "backward",
    "layernorm-backward-of-output",
    "backward of LayerNorm takes its output for the normalized input",
    (DNORM, "norm = (x - mean) * rstd  #", "norm = (x - mean) * rstd * p.weight + p.bias  #"),
)
block.add(
    "backward",
    "probabilities-without-gradient",
    "attention's probabilities are constants: queries and keys have no gradient, values have",
    (ATTENTION, "dq = dscores @ k", "dscores = 0 * dscores\n    dq = dscores @ k"),
)

MOMENTS = "denominator = np.sqrt(v) / (1 - beta2**step) ** 0.5 + eps"
STEP = "p -= lr / (1 - beta1**step) * (m / denominator)"
optimizers = Page("docs/backprop/optimizers.md")  # whose numbers are nan: no entries, but tried
for name, says, text in (
    ("adam-step-from-0-divides", "Adam's step counts from 0: both bias corrections divide by 0",
     "first, second = (np.float64(1 - b ** (step - 1)) for b in betas)\n"
     "    p -= lr * ((m / first) / (np.sqrt(v / second) + eps))"),
    ("adam-moments-exchanged", "Adam's two moments are exchanged: v / sqrt(m), nan where m < 0",
     "denominator = np.sqrt(m) / (1 - beta2**step) ** 0.5 + eps\n"
     "    p -= lr / (1 - beta1**step) * (v / denominator)"),
):  # fmt: skip
    optimizers.add("step", name, says, (ADAM, f"{MOMENTS}\n    {STEP}", text), smooth=False)
NOT_FINITE = tuple(optimizers.mistakes)
