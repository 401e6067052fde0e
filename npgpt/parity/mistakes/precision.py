"""Arithmetic or weights of lower precision than float32.

Products are computed in the dtype of the run, from rounded factors.
"""

from npgpt.parity.mistakes.mistake import Page

LINEAR, DLINEAR = "npgpt.ops.linear:forward", "npgpt.ops.linear:backward"
ATTENTION, DATTENTION = "npgpt.ops.attention:forward", "npgpt.ops.attention:backward"
TIE, TRAIN = "npgpt.parity.steps:tie", "npgpt.parity.steps:train"

page = Page("docs/backprop/precision.md")
wrong = page.add

BFLOAT16 = """def low(a):
        wide = bfloat16(np.ascontiguousarray(a, np.float32).reshape(1, -1)).widen()
        return wide.reshape(a.shape).astype(a.dtype)

    """
FLOAT16 = """def low(a):
        return a.astype(np.float16).astype(a.dtype)

    """
IMPORT = "from npgpt.quantized_matrix import bfloat16\n\n    "

for name, low in (("bfloat16", IMPORT + BFLOAT16), ("float16", FLOAT16)):
    wrong(
        "forward",
        f"matmul-in-{name}",
        f"matrix products of the linear layers have {name} factors"
        + (", or TF32, of as many bits" if name == "float16" else ""),
        (LINEAR, "out = np.matmul(x, p.weight,", f"{low}out = np.matmul(low(x), low(p.weight),"),
        (DLINEAR, "x, p = cache\n", f"x, p = cache\n    {low}\n"),
        (DLINEAR, "np.matmul(rows(x).T, rows(dout),", "np.matmul(rows(low(x)).T, rows(low(dout)),"),
        (DLINEAR, "np.matmul(dout, p.weight.T", "np.matmul(low(dout), low(p.weight).T"),
        smooth=False,
    )  # fmt: skip
    wrong(
        "forward",
        f"weights-rounded-to-{name}",
        f"all parameters are rounded to {name}",
        (TIE, "return p",
         f"{low}"
         "return params.map_leaves(p, low)"),
        smooth=False,
    )  # fmt: skip
wrong(
    "forward",
    "softmax-in-float16",
    "attention's probabilities are rounded to float16",
    (ATTENTION, "probs = softmax(scores)",
     "probs = softmax(scores).astype(np.float16).astype(scores.dtype)"),
    smooth=False,
)  # fmt: skip
wrong(
    "forward",
    "softmax-of-float16-scores",
    "attention's scores are rounded to float16, and so are softmax and its gradient",
    (ATTENTION, "probs = softmax(scores)", f"{FLOAT16}probs = low(softmax(low(scores)))"),
    (DATTENTION, "dscores = probs * (dprobs - (dprobs * probs).sum(-1, keepdims=True)) * D**-0.5",
     f"{FLOAT16}half = low(dprobs)\n"
     "    dscores = low(probs * (half - (half * probs).sum(-1, keepdims=True))) * D**-0.5"),
    smooth=False,
)  # fmt: skip
QKV = "q, k, v = (split_heads(a, n_head) for a in np.split(qkv, 3, axis=-1))"
SCORES, PROBS = "q @ k.mT * D**-0.5", "probs = softmax(scores)"
DSCORES = "dscores = probs * (dprobs - (dprobs * probs).sum(-1, keepdims=True)) * D**-0.5"
BLOCK, LOSSES = "npgpt.model.block:forward", "npgpt.ops.linear_cross_entropy:losses"
HEAD, GRADIENTS = "npgpt.model.transformer:scores", "npgpt.model.transformer:backward"
NORM, GELU = "npgpt.ops.layernorm:forward", "npgpt.ops.gelu:forward"
ADD, ADD_MLP = (
    "x = np.add(x, h, out=h)  # h has no other reference",
    "x = np.add(x, h, out=h)\n    return x",
)
for kind, low in (("float16", FLOAT16), ("bfloat16", IMPORT + BFLOAT16)):
    for name, says, *edits in (
        ("scores", f"attention's scores are rounded to {kind}",
         (ATTENTION, PROBS, f"{low}probs = softmax(low(scores))")),
        ("products-of-attention", f"attention multiplies queries, keys and values in {kind}",
         (ATTENTION, QKV, f"{low}{QKV}\n    q, k, v = low(q), low(k), low(v)"),
         (ATTENTION, PROBS, "probs = low(softmax(low(scores)))"),
         (ATTENTION, "merge_heads(dropped @ v)", "low(merge_heads(dropped @ v))")),
        ("logits", f"logits are rounded to {kind}",
         (LOSSES, "logits = x @ weight.T", f"{low}logits = low(x @ weight.T)"),
         (HEAD, "return out", f"{low}return low(out)")),
        ("residual-stream", f"the residual stream is rounded to {kind}",
         (BLOCK, ADD, f"{low}x = low(x + h)"),
         (BLOCK, ADD_MLP, "x = low(x + h)\n    return x")),
        ("norms", f"the results of LayerNorm are rounded to {kind}",
         (NORM, "return into(out, norm * p.weight + p.bias)",
          f"{low}return into(out, low(norm * p.weight + p.bias))")),
        ("gelu", f"the results of GELU are rounded to {kind}",
         (GELU, "return into(out, 0.5 * x * (1 + t))",
          f"{low}return into(out, low(0.5 * x * (1 + t)))")),
    ):  # fmt: skip
        wrong("forward", f"{name}-in-{kind}", says, *edits, smooth=False)
    for name, says, condition in (
        ("gradients", "all gradients", ""),
        ("gradients-of-matrices", "the gradients of matrices", "if grad.ndim > 1"),
    ):
        wrong(
            "backward",
            f"{name}-in-{kind}",
            f"{says} are rounded to {kind}, after backward",
            (GRADIENTS, "hidden_backward(dx, c.hidden, g, on_block=on_block, ops=ops)",
             f"""hidden_backward(dx, c.hidden, g, on_block=on_block, ops=ops)
    {low}from npgpt.model.params import leaves

    for grad in leaves(g):
        grad[...] = low(grad) {condition and f"{condition} else grad"}""".rstrip()),
            smooth=False,
        )  # fmt: skip
wrong(
    "forward",
    "softmax-of-bfloat16-scores",
    "attention's scores are rounded to bfloat16, and so are softmax and its gradient",
    (ATTENTION, PROBS, f"{IMPORT}{BFLOAT16}probs = low(softmax(low(scores)))"),
    (DATTENTION, DSCORES,
     f"{IMPORT}{BFLOAT16}half = low(dprobs)\n"
     "    dscores = low(probs * (half - (half * probs).sum(-1, keepdims=True))) * D**-0.5"),
    smooth=False,
)  # fmt: skip
wrong(
    "forward",
    "softmax-computed-in-float16",
    "softmax of attention's scores is computed in float16: each number, and the sum",
    (ATTENTION, PROBS, "probs = softmax(scores.astype(np.float16)).astype(scores.dtype)"),
    smooth=False,
)
wrong(
    "step",
    "parameters-stored-in-bfloat16",
    "parameters are rounded to bfloat16 after each step",
    (TRAIN, "optimizer.step(g, scale=scale)",
     """optimizer.step(g, scale=scale)
        from npgpt.quantized_matrix import bfloat16

        for leaf in params.leaves(p):
            rounded = bfloat16(leaf.astype(np.float32).reshape(1, -1)).widen()
            leaf[...] = rounded.reshape(leaf.shape)"""),
)  # fmt: skip
