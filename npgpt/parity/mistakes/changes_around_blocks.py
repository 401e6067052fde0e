"""One change in a line around the blocks: embedding, targets, logits, loss, and all gradients."""

from npgpt.parity.mistakes import embedding, loss, model
from npgpt.parity.mistakes.changes_of_forward import IMPORT
from npgpt.parity.mistakes.lines import Edits, Line
from npgpt.parity.mistakes.mistake import Mistake

EMBEDDING, LOSS = embedding.page.page, loss.page.page
HEAD = "npgpt.model.transformer:scores"
ROWS = f"p.wte[tokens] + {embedding.ROWS}"
OWN_EMBEDDING: Edits = (
    (embedding.BACKWARD, "(tokens,) = cache\n", f"""((tokens, p),) = cache{IMPORT}\
of_wte = lambda a: forward(tokens, p._replace(wte=a))[0]
    of_wpe = lambda a: forward(tokens, p._replace(wpe=a))[0]
    g.wte[:] += gradient(of_wte, p.wte, dout, 2)
    g.wpe[:] = gradient(of_wpe, p.wpe, dout, 2)
    return
"""),
)  # fmt: skip
OWN_LOSS: Edits = (  # of the logits: losses(logits, identity)
    (loss.FORWARD, loss.MINUS_1, f"""{IMPORT.strip()}

        logits, eye = x_rows[block] @ weight.T, np.eye(len(weight))
        of_logits = lambda a: losses(a, eye, targets[block])[0]
        dlogits = gradient(of_logits, logits, np.ones(len(logits)), 1)"""),
)  # fmt: skip

ANGLES = "np.arange(start, start + T)[:, None] / 10000 ** (np.arange(0, C, 2) / C)"
EMBEDDED = (
    *(f"p.wte[{ids}] + {embedding.ROWS}" for ids in (
        "(tokens + 1) % len(p.wte)", "tokens[:, ::-1]", "tokens[::-1]", "np.roll(tokens, 1, 1)",
        "np.roll(tokens, -1, 1)", "np.pad(tokens, ((0, 0), (1, 0)))[:, :-1]",
        "np.pad(tokens, ((0, 0), (1, 0)), constant_values=len(p.wte) - 1)[:, :-1]",
        "np.repeat(tokens[:1], len(tokens), 0)", "tokens.T.reshape(tokens.shape)")),
    *(f"p.wte[tokens] + {positions}" for positions in (
        "p.wpe[start + T - 1]", "p.wte[start : start + T]",
        "p.wpe[(np.arange(tokens.size) % len(p.wpe)).reshape(tokens.shape)]",
        f"{embedding.ROWS} * (np.arange(len(tokens)) == 0)[:, None, None]",
        f"{embedding.ROWS} * (np.arange(start, start + T) > 0)[:, None]")),
    "np.pad(p.wte[tokens[:, :-1]], ((0, 0), (1, 0), (0, 0))) + " f"{embedding.ROWS}",
    *(f"({{}}) + {more}" for more in (
        "p.wte[0]", "p.wte[1]",
        f"(lambda C: np.concatenate([np.sin({ANGLES}), np.cos({ANGLES})], 1))(p.wpe.shape[1])",
        f"(lambda C: np.stack([np.sin({ANGLES}), np.cos({ANGLES})], -1).reshape(T, C))"
        "(p.wpe.shape[1])")),
    *(f"p.wte[tokens] * (tokens != {pad})[..., None] + {embedding.ROWS}"
      for pad in ("0", "len(p.wte) - 1")),
    *(f"(e := p.wte[tokens]) / {norm} + {embedding.ROWS}" for norm in (
        "np.linalg.norm(e, axis=-1, keepdims=True)",
        "np.maximum(1, np.linalg.norm(e, axis=-1, keepdims=True))")),
    "((e := {}) - e.mean(-1, keepdims=True)) / (e.var(-1, keepdims=True) + 1e-5) ** 0.5",
    "(e := {}) / ((e * e).mean(-1, keepdims=True) + 1e-5) ** 0.5",
    "np.maximum({}, 0)", "np.tanh({})", f"2 * p.wte[tokens] + {embedding.ROWS}",
    f"p.wte[tokens] / 2 + {embedding.ROWS}", f"p.wte[tokens] + {embedding.ROWS} / 2",
    f"p.wte[tokens] - {embedding.ROWS}", f"p.wte[tokens] * {embedding.ROWS}", "({}) / 2", "-({})",
    "2 * ({})",
)  # fmt: skip
OWN = "[np.arange(len(x)), targets]"
RAW = f"(x @ weight.T){OWN}"
LOSSES = (
    *(f"{{}} + {z} * (np.log(norm[:, 0]) + (x @ weight.T).max(-1)) ** 2"
      for z in ("1e-5", "1e-4", "1e-3", "1e-2")),
    f"np.log(norm[:, 0]) - {RAW}", f"-{RAW}", "np.log(norm[:, 0]) + (x @ weight.T).max(-1)",
    f"1 - probs{OWN}", f"-probs{OWN}", f"-np.log1p(probs{OWN})", "({}) ** 2",
    *(f"(1 - probs{OWN}) ** {gamma} * ({{}})" for gamma in (1, 2, 5)),
    "((probs - np.eye(len(weight))[targets]) ** 2).sum(-1)",
    "((probs - np.eye(len(weight))[targets]) ** 2).mean(-1)",
    "-np.log(probs).mean(-1)", "-(probs * np.log(probs)).sum(-1)",
    *(f"(1 - {s}) * ({{}}) - {s} * np.log(probs).mean(-1)" for s in ("0.01", "0.05", "0.2")),
    *(f"(1 - {s}) * ({{}}) - {s} * (np.log(probs).sum(-1) + {{}}) / (len(weight) - 1)"
      for s in ("0.1", "0.05")),
    *(f"-np.log(probs{OWN} + {eps})"
      for eps in ("1e-3", "1e-4", "1e-6", "1e-7", "1e-8", "1e-9", "1e-10")),
    *(f"-np.log(np.maximum(probs{OWN}, {least}))" for least in ("1e-3", "1e-4")),
    f"np.logaddexp(0, x @ weight.T).sum(-1) - {RAW}",
    f"(np.logaddexp(0, x @ weight.T).sum(-1) - {RAW}) / len(weight)",
    f"np.maximum(0, 1 + x @ weight.T - {RAW}[:, None]).sum(-1)",
    f"(np.maximum(0, 1 + x @ weight.T - {RAW}[:, None]).sum(-1) - 1) / len(weight)",
    f"np.log(np.exp(x @ weight.T).sum(-1) + 1) - {RAW}",
)  # fmt: skip
LOGITS = (
    *(f"{cap} * np.tanh(({{}}) / {cap})" for cap in (15, 30, 50)), "-({})", "np.tanh({})",
    "np.maximum({}, 0)", "1 / (1 + np.exp(-({})))",
)  # fmt: skip
SCALES = (
    "x.shape[-1] ** 0.5", "1 / x.shape[-1]", "1 / 0.7", "1 / 0.8", "1 / 0.9", "1 / 1.5", "0.5",
    "2", "0.1", "10", "len(weight) ** -0.5", "1 / len(weight)",
)  # fmt: skip
LAST, END = "np.arange(targets.shape[1])", "targets.shape[1] - 1"
ROW, FINAL = "np.arange(len(targets))[:, None]", "len(targets) - 1"
TARGETS = (
    "np.roll(targets, 1, 1)", "np.roll(targets, -1, 1)", "np.roll(targets, -1)",
    "np.roll(targets, 1)", "targets[::-1]", "targets[:, ::-1]", "targets.T.reshape(targets.shape)",
    "tokens", "np.where(targets == IGNORED, IGNORED, tokens)",
    "np.where(targets == IGNORED, tokens, targets)", "np.repeat(targets[:1], len(targets), 0)",
    "np.where(targets == IGNORED, targets, np.maximum(targets - 1, 0))",
    "np.pad(tokens, ((0, 0), (1, 0)))[:, :-1]",
    *(f"np.where({kept}, targets, IGNORED)" for kept in (
        f"{LAST} == {END}", f"{LAST} == 0", f"{LAST} > 0", f"{LAST} < {END}", f"{ROW} == 0",
        f"{ROW} == {FINAL}", f"{ROW} < {FINAL}", f"{ROW} > 0", "targets != tokens")),
)  # fmt: skip
DIVISORS = (
    "(N + 1)", "(N - 1)", "N / 2", "2 * N", "N / 4", "4 * N", "8 * N", "-N", "N**0.5",
    "N * len(weight)", "N * float(np.log(10))", "N * float(np.log(len(weight)))",
)  # fmt: skip
PROBS = "losses(x_rows[block], weight, targets[block])[1]"
DLOGITS = (
    "np.clip({}, -0.9 / N, 0.9 / N)", f"{{}} * {PROBS}",
    "{} * (np.arange(len(weight)) == targets[block][:, None])",
    "{} * (np.arange(len(weight)) != targets[block][:, None])",
    f"(p := {PROBS}) * ({{}} - ({{}} * p).sum(-1, keepdims=True))",
)  # fmt: skip
ONE_HOT = (
    *(loss.MINUS_1.replace("-= 1", form) for form in (
        "+= 1", "-= 0.5", "-= 2", "-= 1 / N", "-= 0.9", "-= 0.99", "-= 1 / len(weight)", "= 0",
        "-= 0.1")),
    loss.MINUS_1.replace("targets[block]", "(targets[block] + 1) % len(weight)"),
    loss.MINUS_1.replace("targets[block]", "targets[block] - 1"), "dlogits -= 1",
    "dlogits[:, np.unique(targets[block])] -= 1",
)  # fmt: skip
TOKENS, POSITIONS = embedding.ADD, "g.wpe[:T] = dout.sum(0)"
OF_WTE = (
    *(f"np.add.at(g.wte, tokens, {form})" for form in (
        "-dout", "2 * dout", "dout / 2", "dout / len(dout)", "dout / T", "dout / (len(dout) * T)",
        "dout.sum(0)", "dout.sum(1, keepdims=True)", "dout * dout.shape[-1] ** 0.5",
        "dout * (tokens != len(g.wte) - 1)[..., None]")),
    *(f"np.add.at(g.wte, tokens{a}, dout{b})" for a, b in (
        ("[:, 1:]", "[:, :-1]"), ("[:, :-1]", "[:, 1:]"), *((one, one) for one in (
            "[:, -1]", "[:, :-1]", "[:, 1:]", "[:, 0]", "[0]", "[-1]", "[:-1]")))),
    "np.add.at(g.wte, (tokens + 1) % len(g.wte), dout)", "np.add.at(g.wte, tokens - 1, dout)",
    *(f"[g.wte.__setitem__(t, g.wte[t] + d) for t, d in zip({tokens}, {dout}, strict=True)]"
      for tokens, dout in (("tokens", "dout"), ("tokens.T", "dout.swapaxes(0, 1)"))),
    "g.wte[(u := np.unique(tokens, return_index=True))[0]] += "
    "dout.reshape(-1, dout.shape[-1])[u[1]]",
)  # fmt: skip
OF_WPE = (
    *(f"g.wpe[:T] = {form}" for form in (
        "-dout.sum(0)", "2 * dout.sum(0)", "dout.sum(0) / 2", "dout.sum(0) / T", "dout.mean(0) / T",
        "dout.sum(0) / len(g.wpe)", "dout.sum((0, 1))", "dout.mean((0, 1))", "dout[:-1].sum(0)",
        "dout[1:].sum(0)", "dout.sum(0)[::-1]", "dout.sum(0).cumsum(0)", "dout[-1]", "dout[0]")),
    "g.wpe[: T - 1] = dout.sum(0)[:-1]", "g.wpe[1:T] = dout.sum(0)[1:]",
    "g.wpe[: T - 1] = dout.sum(0)[1:]", "g.wpe[T - 1] = dout.sum((0, 1))",
    "g.wpe[0] = dout.sum((0, 1))",
    "np.add.at(g.wpe, np.arange(tokens.size).reshape(tokens.shape) % len(g.wpe), dout)",
)  # fmt: skip
GLOBAL = "hidden_backward(dx, c.hidden, g, on_block=on_block, ops=ops)"
EVERY = f"""{GLOBAL}
    from npgpt.model.params import named

    for name, grad in named(g):
        if CONDITION:
            grad[...] = {{}}"""
B, T = "dx.shape[0]", "dx.shape[1]"
FACTORS = ("2", "0.5", B, T, f"{B} * {T}", f"1 / {B}", f"1 / {T}", f"1 / ({B} * {T})", "0.25", "4",
           "0.125", "8", "1024", "-1")  # fmt: skip
LAST_BLOCK = 'name.startswith(f"h.{len(g.h) - 1}.")'
GROUPS = {  # of parameters whose gradients a port may lose
    "biases": 'name.endswith("bias")',
    "matrices": "grad.ndim > 1",
    "LayerNorms": '"ln_" in name',
    "attention": '".attn." in name',
    "the MLP": '".mlp." in name',
    "blocks": 'name[:2] == "h."',
    "wte and wpe": 'name[:3] in ("wte", "wpe")',
    "the first block": 'name.startswith("h.0.")',
    "the last block": LAST_BLOCK,
    "all blocks but the last": f'name[:2] == "h." and not {LAST_BLOCK}',
    "wpe": 'name[:3] == "wpe"',
    "wte": 'name[:3] == "wte"',
    "ln_f": 'name[:4] == "ln_f"',
}


def of_loss(
    subject: str, right: str, whole: tuple[str, ...], form: str = "{}", *, expression: str = "",
    parts: bool = False,
) -> Line:  # fmt: skip
    """Return a line of the gradient that the loss computes."""
    return Line(
        subject=subject, page=LOSS, where=loss.FORWARD, right=right, whole=whole, form=form,
        expression=expression or right, parts=parts,
    )  # fmt: skip


LINES = (
    Line(subject="the embedding", page=EMBEDDING, stage="forward", where=embedding.FORWARD,
         right=f"{ROWS}), Cache(tokens)", expression=ROWS, form="{}), Cache((tokens, p))",
         whole=EMBEDDED, parts=False, more=OWN_EMBEDDING),
    Line(subject="the targets", page=LOSS, stage="loss", where=loss.LABELS, right="return targets",
         expression="targets", form="return {}", whole=TARGETS, parts=False),
    Line(subject="the loss of a row", page=LOSS, stage="loss", where=loss.LOSSES, right=loss.NLL,
         expression=loss.NLL, whole=LOSSES, parts=False, more=OWN_LOSS),
    Line(subject="the mean loss", page=LOSS, stage="loss", where=loss.FORWARD, right="total / N",
         expression="N", form="total / ({})", whole=DIVISORS, parts=False,
         more=((loss.FORWARD, loss.DIVIDE, "dlogits /= {}"),)),
    *(Line(subject="the logits", page=LOSS, stage="forward", where=loss.LOSSES,
           right="x @ weight.T", expression="x @ weight.T", whole=(one,), parts=False,
           more=(*OWN_LOSS, (HEAD, "return out", f"return {one.format('out')}")))
      for one in LOGITS),
    *(Line(subject="the logits", page=LOSS, stage="forward", where=loss.LOSSES,
           right="x @ weight.T", expression="x @ weight.T", whole=(f"{{}} * ({scale})",),
           parts=False, more=(
               (loss.FORWARD, loss.DIVIDE, f"dlogits /= N / ({scale})"),
               (HEAD, "return out", f"return out * ({scale.replace('weight', 'head(p)')})")))
      for scale in SCALES),
    of_loss("the gradient of the logits", loss.DIVIDE, ("({} - 1)", "({} + 1)", "{}**0.5",
            "-{}", "{} * 4", "{} * 8", "len(weight)", "{} / len(weight)", "2 * {}", "{} / 2",
            "{} / float(loss.mean())", "{} * float(np.log(2))"),
            "dlogits /= {}", expression="N"),
    of_loss("the gradient of the logits", loss.DIVIDE, DLOGITS,
            f"{loss.DIVIDE}\n        dlogits[:] = {{}}", expression="dlogits"),
    of_loss("the gradient of the logits", loss.MINUS_1, ONE_HOT),
    of_loss("the gradient of the head's weight", "dweight += dlogits.T @ x_rows[block]", (),
            "dweight += {}", expression="dlogits.T @ x_rows[block]", parts=True),
    of_loss("the gradient of ln_f's output", "np.matmul(dlogits, weight, out=dx[block])", (),
            "dx[block] = {}", expression="dlogits @ weight", parts=True),
    *(Line(subject=f"the gradient of {name}", page=EMBEDDING, where=embedding.BACKWARD, right=right,
           expression=right, whole=whole, parts=False)
      for name, right, whole in (("wte", TOKENS, OF_WTE), ("wpe", POSITIONS, OF_WPE))),
    Line(subject="all gradients", page=LOSS, where=model.LOSS_BACKWARD, right=GLOBAL,
         expression="grad", form=EVERY.replace("CONDITION", "True"), parts=False,
         whole=(*(f"{{}} * ({factor})" for factor in FACTORS), "np.clip({}, -1, 1)",
                "np.clip({}, -0.1, 0.1)", "{} / np.linalg.norm({})", "np.sign({})")),
    *(Line(subject=f"the gradients of {group}", page=LOSS, where=model.LOSS_BACKWARD, right=GLOBAL,
           expression="grad", form=EVERY.replace("CONDITION", condition), whole=("0 * {}",),
           parts=False)
      for group, condition in GROUPS.items()),
)  # fmt: skip

CHANGES: tuple[Mistake, ...] = tuple(one for line in LINES for one in line.mistakes())
