"""One change in a line of an op's backward: a sign, a term, a factor, an axis, another variable.

A port whose backward is written by hand may have any of them. They are made from the right lines.
"""

from npgpt.parity.mistakes import attention, block, gelu, layernorm, linear, model
from npgpt.parity.mistakes.lines import Edits, Line, assigned
from npgpt.parity.mistakes.mistake import Mistake

NORM, LINEAR, BLOCK = layernorm.page.page, linear.page.page, block.page.page
ATTENTION, GELU = attention.page.page, gelu.page.page

SUMS = (  # of some rows of a batch in the place of all
    "({0})[0].sum(0)", "({0})[-1].sum(0)", "({0})[:, 0].sum(0)", "({0})[:, -1].sum(0)",
    "({0})[:, 1:].sum((0, 1))", "({0})[:, :-1].sum((0, 1))", "({0})[:-1].sum((0, 1))",
    "({0}).mean((0, 1))", "({0}).sum(0).mean(0)", "({0}).sum(1).mean(0)", "({0}).sum()",
    "({0}).max((0, 1))", "np.abs({0}).sum((0, 1))", "0 * ({0}).sum((0, 1))",
)  # fmt: skip
HEADS = (  # of (B, H, T, D): one head, row or position, heads in another order, mixed or scaled
    "({})[:, ::-1]", "({})[::-1]",
    "({}) * (np.arange(H) == 0)[:, None, None]", "({}) * (np.arange(H) == H - 1)[:, None, None]",
    "({}) * (np.arange(len(dout)) == 0)[:, None, None, None]",
    "({}) * (np.arange(dout.shape[1]) == dout.shape[1] - 1)[:, None]",
    "({}) * (np.arange(dout.shape[1]) < dout.shape[1] - 1)[:, None]",
    "({}) * (np.arange(dout.shape[1]) > 0)[:, None]",
    "({}).sum(1, keepdims=True).repeat(H, 1)", "({}).mean(1, keepdims=True).repeat(H, 1)",
    "({}) * D**-0.5", "({}) * D**0.5", "({}) / dout.shape[1]",
    "split_heads(({}).reshape(dout.shape), H)",
    "split_heads(({}).transpose(0, 2, 3, 1).reshape(dout.shape), H)",
)  # fmt: skip
RECOMPUTED = "x, p, mean, rstd = cache"
UNPACKED = "q, k, v, probs, drop = cache"
SOFTMAX = "(dprobs * probs).sum(-1, keepdims=True)"
WITHOUT_PARENTHESIS = f"probs * dprobs - {SOFTMAX}"
MEANS = WITHOUT_PARENTHESIS.replace("sum", "mean")
SLOPES = {  # lines of GELU's slope, and what may stand for them
    gelu.TANH: ("SCALE * (x + CUBIC * (x * x * x))", "np.tanh(x)"),
    gelu.INNER: ("SCALE * (1 + 0.134 * (x * x))", "SCALE * (1 + 3 * (CUBIC * x) ** 2)",
                 "3 * SCALE * (1 + CUBIC * (x * x))", "1"),
    gelu.SLOPE: ("np.clip({}, 0, 1)", "0.5 * x * (1 + t)", "1 - t * t",
                 "0.5 * (1 + t) + 0.5 * x * inner_slope / np.cosh(SCALE * x) ** 2",
                 "0.5 * (0.5 * (1 + t) + 0.5 * x * (1 - t * t) * inner_slope)",
                 "0.5 * (1 + t) + 0.5 * x * (1 - t * t) ** 2 * inner_slope",
                 "0.5 * (1 + t) + 0.5 * x * (1 - np.tanh(x) ** 2) * inner_slope"),
}  # fmt: skip
PRODUCTS = (  # of the rows in the place of rows(x).T @ rows(dout)
    "({}) + p.weight", "({}) + 0.1 * p.weight", "({}) / len(x)", "({}) / x.shape[-2]",
    "({}) / len(rows(x))", "({}) / x.shape[-1]", "({}) + rows(dout).sum(0)",
    "({}) / len(rows(x)) ** 0.5", "np.abs(rows(x)).T @ rows(dout)",
    "rows(x)[::-1].T @ rows(dout)", "rows(x[:, ::-1]).T @ rows(dout)",
    "rows(x[::-1]).T @ rows(dout)", "rows(x.swapaxes(0, 1)).T @ rows(dout)",
    "rows(x[:, :-1]).T @ rows(dout[:, 1:])", "rows(x[:, 1:]).T @ rows(dout[:, :-1])",
    "rows(x[:, :-1]).T @ rows(dout[:, :-1])", "rows(x[:, 1:]).T @ rows(dout[:, 1:])",
    "rows(x[:-1]).T @ rows(dout[:-1])", "x[:, 0].T @ dout[:, 0]",
    "np.outer(rows(x).sum(0), rows(dout).sum(0))",
)  # fmt: skip
GRADIENTS = {  # lines of a block after which dh is the gradient of a tensor
    "behind GELU": "dh = ops.linear.backward(dh, c.mlp_proj, g.mlp.c_proj)",
    "before GELU": block.DGELU,
    "behind ln_2": "dh = ops.linear.backward(dh, c.c_fc, g.mlp.c_fc)",
    "behind the heads": "dh = ops.linear.backward(dh, c.attn_proj, g.attn.c_proj)",
    "of q, k and v": "dh = ops.attention.backward(dh, c.attn)",
    "behind ln_1": "dh = ops.linear.backward(dh, c.c_attn, g.attn.c_attn)",
}
CALLS = {  # lines of a block that compute the gradients of a layer's parameters
    "attn.c_attn": GRADIENTS["behind ln_1"],
    "attn.c_proj": GRADIENTS["behind the heads"],
    "mlp.c_fc": GRADIENTS["behind ln_2"],
    "mlp.c_proj": GRADIENTS["behind GELU"],
    "ln_1": block.DLN_1,
    "ln_2": block.DLN_2,
}
OF_ONE_LAYER = (
    "0 * {}", "2 * {}", "{} / 2", "{} / len(dh)", "{} / dh.shape[1]", "{} / dh[..., 0].size", "-{}",
)  # fmt: skip
BUFFERS: Edits = ((model.BACKWARD, model.DLN_F, f"ops.buffers = dict()\n    {model.DLN_F}"),)

OF_LAYERNORM = (
    *(Line(subject=f"the gradient of LayerNorm's {leaf}", page=NORM, where=layernorm.BACKWARD,
           right=f"rows({what}).sum(0)", expression=f"rows({what}).sum(0)",
           whole=tuple(form.format(what) for form in SUMS))
      for leaf, what in (("weight", "dout * norm"), ("bias", "dout"))),
    Line(subject="the gradient of LayerNorm's weight", page=NORM, where=layernorm.BACKWARD,
         right="rows(dout * norm).sum(0)", expression="dout * norm", form="rows({}).sum(0)",
         others={"norm": ("x", "norm * norm", "norm * rstd", "x * rstd", "norm / p.weight"),
                 "dout": ("dout * dout", "rstd")}),
    Line(subject="the gradient of LayerNorm's bias", page=NORM, where=layernorm.BACKWARD,
         right="rows(dout).sum(0)", expression="dout", form="rows({}).sum(0)",
         others={"dout": ("x", "dout * norm", "dout * rstd", "dout / p.weight")}),
    assigned("dx of LayerNorm", NORM, layernorm.BACKWARD, layernorm.DNORM,
             {"p.weight": ("p.bias", "p.weight * p.weight", "(1 + p.weight)")}),
    assigned("dx of LayerNorm", NORM, layernorm.BACKWARD, layernorm.VIA_MEAN,
             {"dnorm": ("dout", "norm")},
             ("dnorm.sum(-1, keepdims=True) / (x.shape[-1] - 1)",
              "dnorm.sum(-1, keepdims=True) / x.shape[-2]",
              "dnorm.sum(-1, keepdims=True) / rows(x).shape[0]")),
    assigned("dx of LayerNorm", NORM, layernorm.BACKWARD, layernorm.VIA_RSTD,
             {"dnorm": ("dout", "norm", "(norm * p.weight + p.bias)"),
              "norm": ("x", "(x - mean)", "x * rstd", "dnorm", "norm * norm",
                       "(norm * p.weight + p.bias)", "norm * p.weight")}),
    Line(subject="dx of LayerNorm", page=NORM, where=layernorm.BACKWARD,
         right=f"rstd * ({layernorm.DX})", expression=f"rstd * ({layernorm.DX})",
         others={"rstd": ("rstd**3", "rstd**2 * p.weight", "rstd * p.weight",
                          "rstd / x.shape[-1]", "rstd * x.shape[-1]"),
                 "dnorm": ("dout", "norm"),
                 "via_mean": ("2 * via_mean", "via_mean * norm", "via_mean / rstd"),
                 "via_rstd": ("via_rstd * rstd", "via_rstd * rstd**2", "via_rstd / rstd",
                              "via_rstd / rstd**2", "via_rstd * rstd**-1.5", "via_rstd * norm",
                              "via_rstd * 2 / x.shape[-1]")},
         whole=("dout", "dnorm", "dnorm * rstd - via_mean - via_rstd",
                "dnorm - (via_mean + via_rstd) * rstd")),
    Line(subject="what LayerNorm's backward takes for norm", page=NORM, where=layernorm.BACKWARD,
         right="norm = (x - mean) * rstd", expression="(x - mean) * rstd", form="norm = {}",
         whole=("x", "(x - mean) * rstd * p.weight + p.bias")),
    Line(subject="what LayerNorm's backward takes for rstd", page=NORM, where=layernorm.BACKWARD,
         right=RECOMPUTED, expression="rstd", form=f"{RECOMPUTED}\n    rstd = {{}}",
         whole=("1 / {}", "{}**2", "1 / {}**2", "rstd[:, :1]", "rstd[:, -1:]", "rstd[:1]",
                "1 / x.std(-1, ddof=1, keepdims=True)", "1 / x.std(-1, keepdims=True)")),
)  # fmt: skip
OF_ATTENTION = (
    assigned("dout of attention", ATTENTION, attention.BACKWARD, "dy = split_heads(dout, H)",
             whole=(*HEADS[:-2], "dout.reshape(*dout.shape[:2], D, H).transpose(0, 3, 1, 2)")),
    assigned("dv", ATTENTION, attention.BACKWARD, attention.DV,
             {"dropped": ("np.tril(dropped, -1)", "dropped[:, ::-1]", "dropped[:1]",
                          "dropped[:, :1]", "dropped.mean(1, keepdims=True)",
                          "softmax(q @ k.mT * D**-0.5)", "np.tril(q @ k.mT * D**-0.5)"),
              "dy": ("q", "v", "k")},
             (*HEADS, "dy + 0", "dropped.sum(-2)[..., None] * dy",
              "dropped.sum(-1, keepdims=True) * dy")),
    Line(subject="the gradient of attention's probabilities", page=ATTENTION,
         where=attention.BACKWARD, right="dy @ v.mT", expression="dy @ v.mT",
         others={"v": ("dv", "v[:, ::-1]", "v[:, :1]", "dy"), "dy": ("dropped @ v", "v"),
                 "v.mT": ("v.reshape(*v.shape[:2], D, -1)",)},
         whole=("np.tril({}, -1)", "({}) * D**-0.5", "({}) / D", "({}) / v.shape[2]",
                "({}).mean(1, keepdims=True).repeat(H, 1)",
                "({}).sum(1, keepdims=True).repeat(H, 1)")),
    assigned("the backward of softmax", ATTENTION, attention.BACKWARD, attention.DSCORES,
             {"probs": ("dropped", "probs * probs", "np.tril(probs, -1)", "softmax(probs)",
                        "(probs > 0)", "(1 - probs)"),
              "dprobs": ("probs", "1", "np.tril(dprobs, -1)"),
              "D**-0.5": ("D**-0.25", "D**-0.75", "D**-1.5", "H**-0.5", "0.125",
                          "dout.shape[1] ** -0.5", "(2 * D) ** -0.5")},
             ("np.tril({}, -1)",
              f"({WITHOUT_PARENTHESIS}) * D**-0.5", f"np.tril({WITHOUT_PARENTHESIS}) * D**-0.5",
              f"({MEANS}) * D**-0.5", f"np.tril({MEANS}) * D**-0.5",
              *(f"probs * (dprobs - {total}) * D**-0.5" for total in (
                  "(dy * v).sum(-1, keepdims=True)", "(dy * q).sum(-1, keepdims=True)",
                  "(dy * (dropped @ v)).mean(-1, keepdims=True)",
                  "(dprobs * probs).sum(-1)[..., None, :]", f"{SOFTMAX}[:, :1]",
                  f"{SOFTMAX}[:1]")),
              "({}) * (np.arange(dout.shape[1]) == dout.shape[1] - 1)[:, None]")),
    assigned("dq", ATTENTION, attention.BACKWARD, attention.DQ,
             {"dscores": ("probs", "dprobs", "np.tril(dscores, -1)"),
              "k": ("v", "k[:, ::-1]", "k[:, :1]")}, HEADS),
    assigned("dk", ATTENTION, attention.BACKWARD, attention.DK,
             {"dscores": ("probs", "dprobs", "np.tril(dscores, -1)"),
              "q": ("v", "dq", "dy", "q[:, ::-1]", "q[:, :1]")},
             (*HEADS, "dq + 0", "dscores @ k")),
    Line(subject="what attention's backward takes for q, k, v", page=ATTENTION,
         where=attention.BACKWARD, right=UNPACKED, expression="q, k, v",
         form="{}, probs, drop = cache", whole=("q, v, k", "k, q, v", "v, k, q"), parts=False),
    Line(subject="what attention's backward takes for the probabilities", page=ATTENTION,
         where=attention.BACKWARD, right=UNPACKED, expression="probs",
         form=f"{UNPACKED}\n    probs = {{}}", parts=False,
         whole=("softmax(q @ k.mT * q.shape[-1] ** -0.5)",
                "softmax(np.where(np.tri(q.shape[2], dtype=bool), q @ k.mT, -np.inf))",
                "np.tril(softmax(q @ k.mT * q.shape[-1] ** -0.5))")),
    *(Line(subject=f"what attention's backward takes for {one}", page=ATTENTION,
           where=attention.BACKWARD, right=UNPACKED, expression=one,
           form=f"{UNPACKED}\n    {one} = {{}}", whole=("{} * q.shape[-1] ** -0.5",), parts=False)
      for one in "qk"),
)  # fmt: skip
OF_OTHERS = (
    *(assigned("the slope of GELU", GELU, gelu.BACKWARD, line,
               {"x * x * x": ("x * x", "x"), "x * x": ("x", "x * x * x"),
                "t * t": ("t", "t * t * t"), "inner_slope": ("1",),
                "CUBIC": ("CUBIC**2", "0.04475", "0.0447")}, whole)
      for line, whole in SLOPES.items()),
    Line(subject="dx of GELU", page=GELU, where=gelu.BACKWARD, right="dout * slope",
         expression="dout * slope",
         whole=("dout * 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * inner_slope",
                "dout * dout * slope")),
    Line(subject="what GELU's backward takes for x", page=GELU, where=gelu.BACKWARD,
         right="(x,) = cache", expression="x", form="(x,) = cache\n    x = {}",
         whole=("np.abs({})",)),
    Line(subject="the gradient of weights", page=LINEAR, where=linear.BACKWARD,
         right=linear.DWEIGHT, expression="rows(x).T @ rows(dout)", form="g.weight[:] = {}",
         whole=PRODUCTS),
    Line(subject="the gradient of biases", page=LINEAR, where=linear.BACKWARD,
         right=linear.DBIAS, expression="rows(dout).sum(0)", form="g.bias[:] = {}",
         whole=(*(form.format("dout") for form in SUMS), "rows(dout)[-1]", "rows(dout)[0]",
                "({}) * p.bias", "({}) / len(x)")),
    Line(subject="the gradients of weights and biases", page=LINEAR, where=linear.BACKWARD,
         right=linear.DWEIGHT, expression="all positions", form="x, dout = {}\n        "
         + linear.DWEIGHT, parts=False,
         whole=("x[:, -1:], dout[:, -1:]", "x[:, :-1], dout[:, :-1]", "x[:, :1], dout[:, :1]",
                "x[:, 1:], dout[:, 1:]", "x[:-1], dout[:-1]"),
         more=((linear.BACKWARD, linear.DX, "np.matmul(whole, p.weight.T, out=dx)"),
               (linear.BACKWARD, "x, p = cache\n", "(x, p), whole = cache, dout\n"))),
    Line(subject="dx of linear layers", page=LINEAR, where=linear.BACKWARD, right=linear.DX,
         expression="dout @ p.weight.T", form="np.multiply({}, 1, out=dx)"),
    *(Line(subject=f"the gradient of the stream where {what} is added", page=BLOCK,
           where=block.BACKWARD, right=right, expression="dx + dh", form=form)
      for what, right, form in (("the MLP", block.DMLP_ADD, "dx = {}"),
                                ("attention", block.DATTN_ADD, "return {}"))),
    *(Line(subject=f"the gradient {what}", page=BLOCK, where=block.BACKWARD, right=line,
           expression="dh", form=f"{line}\n    dh = {{}}", whole=("0 * {}",))
      for what, line in GRADIENTS.items()),
    *(Line(subject=f"the gradient of {layer}'s {leaf}", page=BLOCK, where=block.BACKWARD,
           right=line, expression=f"g.{layer}.{leaf}",
           form=f"{line}\n    g.{layer}.{leaf}[:] = {{}}", whole=OF_ONE_LAYER, parts=False)
      for layer, line in CALLS.items() for leaf in ("weight", "bias")),
    *(Line(subject=f"the gradient {what}, whose buffer is not zeroed between blocks", page=BLOCK,
           where=block.BACKWARD, right=line, expression="dh",
           form=f"{line}\n    dh = {{}}\n    ops.buffers[{what!r}] = dh.copy()",
           whole=(f"dh + ops.buffers.get({what!r}, 0)",), parts=False, more=BUFFERS)
      for what, line in GRADIENTS.items()),
)  # fmt: skip

CHANGES: tuple[Mistake, ...] = tuple(
    one for line in (*OF_LAYERNORM, *OF_ATTENTION, *OF_OTHERS) for one in line.mistakes()
)
