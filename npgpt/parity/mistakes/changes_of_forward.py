"""One change in a line of the forward pass: an operator, a variable, an axis, another function.

Each has the gradients of its own forward pass. They are computed by finite differences, op by op,
so that no backward is written for any of them: npgpt.parity.differences.
"""

from npgpt.parity.mistakes import attention, block, gelu, layernorm
from npgpt.parity.mistakes.lines import Edits, Line
from npgpt.parity.mistakes.mistake import Mistake

IMPORT = "\n    from npgpt.parity.differences import gradient\n\n    "
# of a changed op: its backward
LAYERNORM: Edits = (
    (layernorm.BACKWARD, "x, p, mean, rstd = cache", "x, p, _, _ = cache" + IMPORT
     + """for name, leaf in p._asdict().items():
        out = lambda a: forward(x, p._replace(**dict([(name, a)])))[0]
        getattr(g, name)[:] = gradient(out, leaf, dout, 1)
    return into(dx, gradient(lambda a: forward(a, p)[0], x, dout, x.ndim))
    mean = rstd = None"""),
)  # fmt: skip
GELU: Edits = (
    (gelu.BACKWARD, "(x,) = cache", f"(x,) = cache{IMPORT}"
     "return into(dx, gradient(lambda a: forward(a)[0], x, dout, 0))"),
)  # fmt: skip
ATTENTION: Edits = (  # dprobs only where a recorder asks for it
    (attention.FORWARD, "rng=None,\n", "rng=None, given=None,\n"),
    (attention.FORWARD, "dropped, drop =",
     "probs = probs if given is None else given\n    dropped, drop ="),
    (attention.FORWARD, "Cache(q, k, v, probs, drop)", "Cache(qkv, n_head, v, probs, drop)"),
    (attention.BACKWARD, "q, k, v, probs, drop = cache", f"""qkv, n_head, v, probs, drop = cache\
{IMPORT}of_probs = lambda a: forward(qkv, n_head=n_head, given=a)[0]
    dprobs = gradient(of_probs, probs, dout, 4) if globals().get("keep") else None
    return into(dx, gradient(lambda a: forward(a, n_head=n_head)[0], qkv, dout, 3))
    q = k = None"""),
)  # fmt: skip

SEEN = "np.tri(T, S, S - T, dtype=bool)"
BACK = "(np.arange(S - T, S)[:, None] - np.arange(S))"  # from a query to a key
MASKS = (
    *(f"scores[..., ~({seen})] = -1e9" for seen in (
        *(f"({BACK} >= 0) & ({BACK} < {window})" for window in (2, 3, 4, 5, 6, 8)),
        *(f"{SEEN} | (np.arange(S) < {prefix})" for prefix in (2, 3, 4)),
        f"{SEEN} | (np.arange(S) == S - 1)", f"{SEEN} & ({BACK} % 2 == 0)",
        f"({BACK} > 0) | (np.arange(S) == 0)", "np.tri(T, S, S - T + 2, dtype=bool)",
    )),
    *(f"np.copyto(scores, -1e9, where=~{SEEN} & {one})" for one in (
        "(np.arange(n_head) == 0)[:, None, None]",
        "(np.arange(n_head) == n_head - 1)[:, None, None]",
        "(np.arange(len(q)) == 0)[:, None, None, None]",
        "(np.arange(len(q)) == len(q) - 1)[:, None, None, None]",
    )),
    *(f"scores[..., ~{SEEN}] = {value}" for value in ("-2", "-5", "-20", "1", "100")),
    *(f"scores -= {value} * ~{SEEN}" for value in ("1", "2", "5", "20")),
)  # fmt: skip
E = "(e := np.exp(scores - scores.max(-1, keepdims=True)))"
PROBS = (
    "1 / (1 + np.exp(-scores))", "softmax(softmax(scores))", f"softmax(softmax(scores)) * {SEEN}",
    "softmax(scores) ** 2", "softmax(scores) ** 0.5", "softmax(scores) / S",
    "softmax(scores * np.log(2))", "softmax(scores / 0.7)", "softmax(scores * 0.7)",
    "softmax(scores / 2)", "softmax(scores * 2)",
    *(f"{E} / (e.sum(-1, keepdims=True) + {eps})"
      for eps in ("1e-2", "1e-3", "1e-4", "1e-5", "1e-6", "1")),
    *(f"{E} / e.{total}" for total in (
        "sum(-2, keepdims=True)", "sum((-2, -1), keepdims=True)", "max(-1, keepdims=True)",
        "mean(-1, keepdims=True)", "sum()")),
    f"np.where({SEEN}, scores, 0)", f"np.where({SEEN}, scores, 0) / S",
    f"(z := np.where({SEEN}, scores, 0)) / z.sum(-1, keepdims=True)",
    "np.maximum(scores, 0)", "np.maximum(scores, 0) / S",
    "(z := np.maximum(scores, 0)) / (z.sum(-1, keepdims=True) + 1e-6)",
    "(scores == scores.max(-1, keepdims=True)).astype(scores.dtype)",
    f"{SEEN} / {SEEN}.sum(-1, keepdims=True) + 0 * softmax(scores)",
    f"np.where({SEEN}, np.log(softmax(scores) + 1e-300), 0)",
    f"softmax(np.where({SEEN}, scores, -1e9).mT).mT * {SEEN}",
)  # fmt: skip
OUTPUTS = (
    "({}) * D**-0.5", "({}) * D**0.5", "({}) / n_head", "({})[:, ::-1]", "-({})", "2 * ({})",
    "({}) * (np.arange(n_head) == 0)[:, None, None]",
    "({}) * (np.arange(n_head) == n_head - 1)[:, None, None]",
    *(f"np.repeat({one}, n_head, 1)" for one in (
        "({}).mean(1, keepdims=True)", "({}).sum(1, keepdims=True)", "({})[:, :1]")),
    "({}).mT.reshape(q.shape)",
    "{} + v[:, :, S - T :]", "{} + k[:, :, S - T :]", "{} + q", "v[:, :, S - T :] + 0 * ({})",
    "({} + v.mean(2, keepdims=True)) / 2",
    *(f"dropped @ {values}" for values in (
        "v[:, ::-1]", "v[::-1]", "np.repeat(v[:, :1], n_head, 1)", "np.repeat(v[:1], len(q), 0)")),
    *(f"{probs} @ v" for probs in (
        "dropped[:, ::-1]", "np.repeat(dropped.mean(1, keepdims=True), n_head, 1)",
        "np.repeat(dropped[:1], len(q), 0)")),
)  # fmt: skip
MERGED = (
    "(dropped @ v).transpose(0, 3, 2, 1).reshape(len(q), T, -1)",
    "(dropped @ v).mT.reshape(len(q), T, -1)",
    "(dropped @ v).transpose(0, 3, 1, 2).reshape(len(q), T, -1)",
)
SIZES = "(T, D), S = q.shape[-2:], k.shape[-2]"
PARTS = (  # lines before it, which change queries, keys and values
    *(f"{a} = {form.format(a)}" for a in "qkv" for form in (
        "np.maximum({}, 0)", "np.repeat({}[:, :1], n_head, 1)", "{}[:, ::-1]", "0 * {}",
        "merge_heads({0}).reshape({0}.shape)",
    )),
    "k, v = (np.repeat(a[:, :1], n_head, 1) for a in (k, v))",
    "q, k, v = (np.maximum(a, 0) for a in (q, k, v))",
    *(f"q, k = (a / {norm} for a in (q, k))" for norm in (
        "np.linalg.norm(a, axis=-1, keepdims=True)", "(a * a).mean(-1, keepdims=True) ** 0.5")),
    *(f"q, k = ((a - a.mean(-1, keepdims=True)) / (a.var(-1, keepdims=True) + {eps}) ** 0.5 "
      "for a in (q, k))" for eps in ("0", "1e-5")),
)  # fmt: skip
SCALES = (
    "D**-0.25", "D**-1.5", "D**-2", "(D - 1) ** -0.5", "(D + 1) ** -0.5", "0.125",
    "(1 / int(D**0.5))", "(2 * D) ** -0.5", "(3 * n_head * D) ** -0.5", "len(q) ** -0.5",
    "-(D**-0.5)", "(1 / (n_head * D))", "(D**-0.5 / n_head)",
)  # fmt: skip
SCORES = (
    *(f"q @ k.mT * {scale}" for scale in SCALES),
    *(f"{cap} * np.tanh({{}} / {cap})" for cap in (50, 30, 20)),
    "np.clip({}, -5, 5)", "np.abs(q @ k.mT) * D**-0.5", "q @ k.mT - D**0.5",
    "-((q[..., :, None, :] - k[..., None, :, :]) ** 2).sum(-1) * D**-0.5",
    "{} - (2.0 ** (-8 * np.arange(1, n_head + 1) / n_head))[:, None, None] * " f"np.abs({BACK})",
    "q @ k.reshape(*k.shape[:2], D, S) * D**-0.5", "(q + k[:, :, S - T :]) @ k.mT * D**-0.5",
)  # fmt: skip

ACTIVATIONS = (
    "np.where(x > 0, x, np.exp(np.minimum(x, 0)) - 1)",  # ELU
    "np.logaddexp(0, x)", "x * np.tanh(np.logaddexp(0, x))",  # softplus, mish
    "np.clip(x, 0, 6)", "x * np.clip(x + 3, 0, 6) / 6",  # ReLU6, hard swish
    "x / (1 + np.abs(x))", "np.where(x > 0, x, 0.1 * x)", "np.where(x > 0, x, 0.2 * x)",
    "x / (1 + np.exp(-1.7 * x))", "x / (1 + np.exp(-1.5 * x))", "np.maximum(x, 0) ** 3",
    "x / (1 + np.exp(-SCALE * (x + CUBIC * x * x * x)))", "np.where(x > 0, {}, 0)", "{} * x",
    "1.0507009873554805 * np.where(x > 0, x, 1.6732632423543772 * (np.exp(x * (x < 0)) - 1))",
    "(y := {}) * 0.5 * (1 + np.tanh(SCALE * (y + CUBIC * y**3)))", "0.5 * x * 1 + t",
    "0.5 * (x + t)", "np.where(np.arange(x.shape[-1]) < x.shape[-1] // 2, {}, x)",
)  # fmt: skip
CUBICS = (
    "0.044175", "0.04475", "0.0447", "0.44715", "0.0044715", "0.047715", "0.04", "0.045",
    "0.044751", "0.04417", "0.044", "0.035677", "0.047175",
)  # fmt: skip
ROOTS = (
    "(2 * np.pi) ** 0.5", "2**0.5", "2.0", "0.5**0.5", "0.8", "0.79", "2 * np.pi**-0.5",
    "(np.pi / 2) ** 0.5", "np.pi**0.5 / 2", "2 / np.pi", "0.798", "0.7978", "0.7979",
    "2**0.5 / np.pi", "1.702",
)  # fmt: skip
TANHS = (
    *(f"np.tanh(SCALE * (x + {number} * (x * x * x)))" for number in CUBICS),
    *(f"np.tanh({root} * (x + CUBIC * (x * x * x)))" for root in ROOTS),
    "np.tanh(SCALE * (x + CUBIC * (x * x * np.abs(x))))", "np.tanh(SCALE * (x + (CUBIC * x) ** 3))",
    "np.tanh(SCALE * (x + CUBIC * x**4))", "1 / (1 + np.exp(-SCALE * (x + CUBIC * (x * x * x))))",
    "np.arctan(SCALE * (x + CUBIC * (x * x * x)))", "SCALE * (x + CUBIC * (x * x * x))",
)  # fmt: skip

VAR, AXES = layernorm.VAR, ("-2", "0", "None", "(-2, -1)", "(0, 1)")
RSTDS = (
    f"{VAR} ** 0.5", f"1 / np.sqrt({VAR}) + eps", f"1 / np.sqrt({VAR} + eps) ** 0.5",
    *(f"1 / ({spread} + eps)" for spread in (
        "np.abs(x - mean).mean(-1, keepdims=True)", "np.abs(x - mean).max(-1, keepdims=True)",
        "np.linalg.norm(x, axis=-1, keepdims=True)", "x.std(-1, ddof=1, keepdims=True)",
        "(x.max(-1, keepdims=True) - x.min(-1, keepdims=True))")),
    *(f"1 / np.sqrt({variance} + eps)" for variance in (
        "np.abs(x - mean).mean(-1, keepdims=True)", "((x - mean) ** 2).sum(-1, keepdims=True)",
        "(x * x).mean(-1, keepdims=True) - mean", "(x * x).mean(-1, keepdims=True) + mean**2",
        *(f"x.var({axis}, keepdims=True)" for axis in AXES),
        *(f"((x - mean) ** 2).mean({axis}, keepdims=True)" for axis in AXES))),
    *(f"1 / np.sqrt({VAR} + {eps})" for eps in (
        "1e-1", "1e-2", "1e-4", "1e-7", "1e-9", "1e-10")),
    "1 / np.sqrt(x.var(-1, ddof=1, keepdims=True) + 1e-6)",
)  # fmt: skip
MEANS = (
    *(f"x.mean({axis}, keepdims=True)" for axis in AXES), "x.sum(-1, keepdims=True)",
    "x.sum(-1, keepdims=True) / (x.shape[-1] - 1)", "np.median(x, -1, keepdims=True)",
    "x[..., :1]", "x.max(-1, keepdims=True)",
)  # fmt: skip
STATISTICS = (  # both
    *(f"mean = {mean}\n    rstd = 1 / np.sqrt(((x - mean) ** 2).mean(-1, keepdims=True) + eps)"
      for mean in MEANS),
    *(f"mean, rstd = x.mean({axis}, keepdims=True), "
      f"1 / np.sqrt(x.var({axis}, keepdims=True) + eps)" for axis in AXES),
    "parts = x.reshape(*x.shape[:-1], 2, -1)\n"
    "    mean = np.repeat(parts.mean(-1), x.shape[-1] // 2, -1)\n"
    "    rstd = np.repeat(1 / np.sqrt(parts.var(-1) + eps), x.shape[-1] // 2, -1)",
)  # fmt: skip
OUTS = (
    "norm * p.weight - p.bias", "norm * p.weight**2 + p.bias", "2 * norm * p.weight + p.bias",
    "p.bias - norm * p.weight", "norm + p.weight + p.bias", "norm / p.weight + p.bias",
    "norm * p.weight * p.bias", "norm + p.weight * p.bias", "x + {}",
)  # fmt: skip
NORMS = ("(x + mean) * rstd", "x * rstd - mean", "x - mean * rstd", "x - mean", "(x - mean) / rstd")


def line(
    subject: str, where: str, right: str, whole: tuple[str, ...], own: Edits, form: str = "{}",
    *, expression: str = "", parts: bool = False,
) -> Line:  # fmt: skip
    """Return a line of an op's forward, whose gradients are `own`."""
    pages = {layernorm.FORWARD: layernorm.page, gelu.FORWARD: gelu.page}
    return Line(
        subject=subject, page=pages.get(where, attention.page).page, stage="forward", where=where,
        right=right, expression=expression or right, form=form, whole=whole, parts=parts, more=own,
    )  # fmt: skip


def residuals() -> list[Line]:
    """Return the lines that add to the residual stream."""
    found = []
    for stream, branch in (("1", "-1"), ("2", "1"), ("1", "2"), ("1", "0.5"), ("0.5", "1"),
                           ("0.5", "0.5"), ("0.5**0.5", "0.5**0.5"), ("0", "1")):  # fmt: skip
        add = f"{stream} * x + {branch} * h"
        attn = (
            (block.FORWARD, block.ATTN_ADD, f"x = {add}"),
            (block.BACKWARD, block.DATTN_DROP,
             block.DATTN_DROP.replace("(dx,", f"({branch} * dx,")),
            (block.BACKWARD, block.DATTN_ADD, f"return {stream} * dx + dh"),
        )  # fmt: skip
        mlp = (
            (block.FORWARD, block.MLP_ADD, f"x = {add}\n    return x"),
            (block.BACKWARD, block.DMLP_DROP, block.DMLP_DROP.replace("(dx,", f"({branch} * dx,")),
            (block.BACKWARD, block.DMLP_ADD, f"dx = {stream} * dx + dh"),
        )  # fmt: skip
        for what, ((where, right, form), *more) in (
            ("of attention", attn), ("of the MLP", mlp), ("in a block", (*attn, *mlp)),
        ):  # fmt: skip
            found.append(Line(
                subject=f"the residual connection {what}", page=block.page.page, stage="forward",
                where=where, right=right, expression="x + h", form=form.replace(add, "{}"),
                whole=(add,), parts=False, more=tuple(more),
            ))  # fmt: skip
    return found


LINES = (
    line("LayerNorm", layernorm.FORWARD, layernorm.OUT, OUTS, LAYERNORM),
    line("LayerNorm's mean", layernorm.FORWARD, "mean = x.mean(-1, keepdims=True)", MEANS,
         LAYERNORM, "mean = {}", expression="x.mean(-1, keepdims=True)"),
    line("LayerNorm's rstd", layernorm.FORWARD, layernorm.RSTD, RSTDS, LAYERNORM, "rstd = {}",
         expression=layernorm.RSTD.partition(" = ")[2]),
    line("LayerNorm's norm", layernorm.FORWARD, "(x - mean) * rstd", NORMS, LAYERNORM),
    line("LayerNorm", layernorm.FORWARD, layernorm.RSTD, STATISTICS, LAYERNORM),
    line("GELU", gelu.FORWARD, gelu.OUT, ACTIVATIONS, GELU, parts=True),
    line("GELU", gelu.FORWARD, gelu.TANH, TANHS, GELU, "t = {}",
         expression=gelu.TANH.partition(" = ")[2], parts=True),
    line("attention's scores", attention.FORWARD, attention.SCORES, SCORES, ATTENTION,
         "scores = {}", expression=attention.SCORES.partition(" = ")[2]),
    line("attention's mask", attention.FORWARD, attention.MASK, MASKS, ATTENTION),
    line("attention's probabilities", attention.FORWARD, "softmax(scores)", PROBS, ATTENTION),
    line("attention's output", attention.FORWARD, "dropped @ v", OUTPUTS, ATTENTION),
    line("attention's output", attention.FORWARD, "merge_heads(dropped @ v)", MERGED, ATTENTION),
    line("attention", attention.FORWARD, SIZES, PARTS, ATTENTION, f"{{}}\n    {SIZES}",
         expression="q, k, v as they are"),
    *residuals(),
)  # fmt: skip

CHANGES: tuple[Mistake, ...] = tuple(one for each in LINES for one in each.mistakes())
