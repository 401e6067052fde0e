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
