"""Mistakes in linear layers."""

from npgpt.parity.mistakes.mistake import Page

FORWARD, BACKWARD = "npgpt.ops.linear:forward", "npgpt.ops.linear:backward"
BLOCK, DBLOCK = "npgpt.model.block:forward", "npgpt.model.block:backward"

page = Page("docs/backprop/linear.md")
wrong = page.add

MATMUL = "np.matmul(x, p.weight, out=out)"
DWEIGHT = "np.matmul(rows(x).T, rows(dout), out=g.weight)"
DBIAS = "np.sum(rows(dout), 0, out=g.bias)"
DX = "np.matmul(dout, p.weight.T, out=dx)"
SQUARE = "if p.weight.shape[0] == p.weight.shape[1] else"
QKV = "if p.weight.shape[1] == 3 * p.weight.shape[0] else"
BLOCKS = "np.concatenate([w.T for w in np.split({}, 3, 1)], 1)"  # three square matrices
THIRDS = "np.concatenate([*p.weight.reshape(3, *[len(p.weight)] * 2)], 1)"

for layer, says in (
    ("attn.c_attn", "queries, keys and values have no bias"),
    ("attn.c_proj", "the output projection of attention has no bias"),
    ("mlp.c_fc", "the first layer of the MLP has no bias"),
    ("mlp.c_proj", "the second layer of the MLP has no bias"),
):
    call = f"ops.linear.forward(h, p.{layer})"
    wrong(
        "forward",
        f"{layer.replace('.', '-').replace('_', '-')}-without-bias",
        says,
        (BLOCK, call, call[:-1] + "._replace(bias=None))"),
        (DBLOCK, f"g.{layer})", f"g.{layer}._replace(bias=None))"),
    )
C_ATTN = "ops.linear.forward(h, p.attn.c_attn)"
for index, says in enumerate(("queries", "keys", "values")):
    part = f"(np.arange(p.attn.c_attn.bias.size) // x.shape[-1] != {index})"
    wrong(
        "forward",
        f"{says}-without-bias",
        f"{says} have no bias",
        (BLOCK, C_ATTN, f"{C_ATTN[:-1]}._replace(\n        bias=p.attn.c_attn.bias * {part}))"),
        (DBLOCK, "g.attn.c_attn)",
         f"g.attn.c_attn)\n    np.split(g.attn.c_attn.bias, 3)[{index}][:] = 0"),
    )  # fmt: skip
wrong(
    "forward",
    "linear-without-bias",
    "no linear layer adds its bias",
    (FORWARD, "if p.bias is not None", "if False"),
    (BACKWARD, DBIAS, "g.bias[:] = 0"),
)
wrong(
    "forward",
    "linear-bias-added-twice",
    "linear layers add their bias twice",
    (FORWARD, "out += p.bias", "out += 2 * p.bias"),
    (BACKWARD, DBIAS, f"{DBIAS}\n        g.bias[:] *= 2"),
)
wrong(
    "forward",
    "square-weights-transposed",
    "the square matrix of attention's output projection is transposed",
    (FORWARD, MATMUL, f"np.matmul(x, p.weight.T {SQUARE} p.weight, out=out)"),
    (
        BACKWARD,
        DWEIGHT,
        f"{DWEIGHT}\n    if p.weight.shape[0] == p.weight.shape[1]:\n"
        "        g.weight[:] = g.weight.T.copy()",
    ),
    (BACKWARD, DX, f"np.matmul(dout, p.weight {SQUARE} p.weight.T, out=dx)"),
)
wrong(
    "forward",
    "qkv-weights-transposed",
    "each of the square matrices of queries, keys and values is transposed",
    (
        FORWARD,
        MATMUL,
        f"np.matmul(x, {BLOCKS.format('p.weight')} {QKV} p.weight, out=out)",
    ),
    (
        BACKWARD,
        DWEIGHT,
        f"{DWEIGHT}\n    if p.weight.shape[1] == 3 * p.weight.shape[0]:\n"
        f"        g.weight[:] = {BLOCKS.format('g.weight')}",
    ),
    (BACKWARD, "p.weight.T, out=dx", f"({BLOCKS.format('p.weight')} {QKV} p.weight).T, out=dx"),
)
wrong(
    "forward",
    "qkv-weights-reshaped",
    "c_attn's weight is reshaped to three matrices instead of split by columns",
    (FORWARD, MATMUL, f"np.matmul(x, {THIRDS} {QKV} p.weight, out=out)"),
    (
        BACKWARD,
        DWEIGHT,
        f"{DWEIGHT}\n    if p.weight.shape[1] == 3 * p.weight.shape[0]:\n"
        "        g.weight[:] = np.concatenate(np.split(g.weight, 3, 1)).reshape(g.weight.shape)",
    ),
    (BACKWARD, "p.weight.T, out=dx", f"({THIRDS} {QKV} p.weight).T, out=dx"),
)
wrong(
    "forward",
    "weights-reshaped-not-transposed",
    "weights are reshaped from (in, out) to (out, in) instead of transposed",
    (FORWARD, "p.weight, out=out", "p.weight.reshape(p.weight.shape[::-1]).T, out=out"),
    (
        BACKWARD,
        DWEIGHT,
        "g.weight[:] = (rows(dout).T @ rows(x)).reshape(p.weight.shape)",
    ),
    (BACKWARD, "p.weight.T, out=dx", "p.weight.reshape(p.weight.shape[::-1]), out=dx"),
)
wrong(
    "backward",
    "linear-dx-not-transposed",
    "dx of a square linear layer is computed with the weight, not with its transpose",
    (BACKWARD, "p.weight.T, out=dx", f"p.weight {SQUARE} p.weight.T, out=dx"),
)
wrong(
    "backward",
    "linear-dweight-transposed",
    "the gradient of a square weight is transposed",
    (
        BACKWARD,
        DWEIGHT,
        f"{DWEIGHT}\n    if p.weight.shape[0] == p.weight.shape[1]:\n"
        "        g.weight[:] = g.weight.T.copy()",
    ),
)
wrong(
    "backward",
    "linear-gradients-averaged",
    "the gradients of weights and biases are means over the rows, not sums",
    (BACKWARD, DWEIGHT, f"{DWEIGHT}\n    g.weight[:] /= len(rows(x))"),
    (BACKWARD, DBIAS, "np.mean(rows(dout), 0, out=g.bias)"),
)
wrong(
    "backward",
    "linear-gradients-divided-by-b",
    "the gradients of weights and biases are divided by the batch size once more",
    (BACKWARD, DWEIGHT, f"{DWEIGHT}\n    g.weight[:] /= len(x)"),
    (BACKWARD, DBIAS, f"{DBIAS}\n        g.bias[:] /= len(x)"),
)
wrong(
    "backward",
    "linear-gradients-of-last-row",
    "the gradients of weights and biases are those of the last sequence alone (= for +=)",
    (BACKWARD, DWEIGHT, "np.matmul(x[-1].T, dout[-1], out=g.weight)"),
    (BACKWARD, DBIAS, "np.sum(dout[-1], 0, out=g.bias)"),
)
wrong(
    "backward",
    "linear-gradients-of-first-row",
    "the gradients of weights and biases are those of the first sequence alone",
    (BACKWARD, DWEIGHT, "np.matmul(x[0].T, dout[0], out=g.weight)"),
    (BACKWARD, DBIAS, "np.sum(dout[0], 0, out=g.bias)"),
)
for name, says, dweight in (
    ("averaged", "are means over the rows, not sums",
     f"{DWEIGHT}\n    g.weight[:] /= len(rows(x))"),
    ("averaged-over-b", "are divided by the batch size once more",
     f"{DWEIGHT}\n    g.weight[:] /= len(x)"),
    ("of-last-row", "are those of the last sequence alone (= for +=)",
     "np.matmul(x[-1].T, dout[-1], out=g.weight)"),
    ("of-first-row", "are those of the first sequence alone",
     "np.matmul(x[0].T, dout[0], out=g.weight)"),
    ("of-last-position", "are those of the last position alone",
     "np.matmul(x[:, -1].T, dout[:, -1], out=g.weight)"),
    ("missing", "are 0", "g.weight[:] = 0"),
):  # fmt: skip
    wrong(
        "backward",
        f"weight-gradient-{name}",
        f"the gradients of weights {says}; those of biases are right",
        (BACKWARD, DWEIGHT, dweight),
    )
wrong(
    "backward",
    "bias-gradient-averaged",
    "the gradients of biases are means over the rows, not sums",
    (BACKWARD, DBIAS, "np.mean(rows(dout), 0, out=g.bias)"),
)
wrong(
    "backward",
    "bias-gradient-of-last-row",
    "the gradients of biases are those of the last sequence alone (= for +=)",
    (BACKWARD, DBIAS, "np.sum(dout[-1], 0, out=g.bias)"),
)
wrong(
    "backward",
    "bias-gradient-of-first-row",
    "the gradients of biases are those of the first sequence alone",
    (BACKWARD, DBIAS, "np.sum(dout[0], 0, out=g.bias)"),
)
wrong(
    "backward",
    "bias-gradient-of-last-position",
    "the gradients of biases are summed over the batch, but taken at the last position alone",
    (BACKWARD, DBIAS, "np.sum(dout[:, -1], 0, out=g.bias)"),
)
wrong(
    "backward",
    "bias-gradient-averaged-over-b",
    "the gradients of biases are summed over positions, but averaged over the batch",
    (BACKWARD, DBIAS, "g.bias[:] = dout.sum(1).mean(0)"),
)
wrong("backward", "bias-gradient-missing", "biases have no gradient", (BACKWARD, DBIAS, "pass"))
