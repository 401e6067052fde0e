"""Mistakes in targets, the cross-entropy and its gradient."""

from npgpt.parity.mistakes.mistake import Page

LABELS = "npgpt.parity.steps:labels"
FORWARD, LOSSES = "npgpt.ops.linear_cross_entropy:forward", "npgpt.ops.linear_cross_entropy:losses"

page = Page("docs/backprop/loss.md")
wrong = page.add

RESULT = "return x.dtype.type(total / N)"
DIVIDE = "dlogits /= N"
MINUS_1 = "dlogits[np.arange(len(loss)), targets[block]] -= 1"
COUNTS = "counts = targets != IGNORED"
SOME = "value, cache = forward(*some, chunk=chunk, dweight=dweight, frozen=frozen)"
NLL = "np.log(norm[:, 0]) - logits[np.arange(len(x)), targets]"
LAST = "((0, 0), (0, 1)), constant_values=IGNORED"

wrong(
    "loss",
    "labels-shifted-twice",
    "targets are shifted twice: position t predicts token t + 2 (Hugging Face shifts inside)",
    (LABELS, "return targets", f"return np.pad(targets[:, 1:], {LAST})"),
    seen=("huggingface/transformers#37830",),
)
wrong(
    "loss",
    "labels-shifted-twice-flat",
    "targets are shifted twice, after they were flattened: a row ends with the next row's first",
    (
        LABELS,
        "return targets",
        "return np.append(targets.ravel()[1:], IGNORED).reshape(targets.shape)",
    ),
    seen=("huggingface/transformers#47394",),
)
wrong(
    "loss",
    "labels-not-shifted",
    "targets are not shifted: position t predicts token t, which it reads",
    (LABELS, "return targets", "return tokens"),
)
wrong(
    "loss",
    "labels-of-previous-token",
    "targets are shifted the wrong way: position t predicts token t - 1",
    (
        LABELS,
        "return targets",
        "return np.pad(tokens[:, :-1], ((0, 0), (1, 0)), constant_values=IGNORED)",
    ),
)
wrong(
    "loss",
    "labels-from-tokens",
    "targets are the tokens, shifted inside: no target is ignored, and the last is missing",
    (LABELS, "return targets", f"return np.pad(tokens[:, 1:], {LAST})"),
)
wrong(
    "loss",
    "first-position-not-scored",
    "the first position of each row has no target",
    (
        LABELS,
        "return targets",
        "return np.pad(targets[:, 1:], ((0, 0), (1, 0)), constant_values=IGNORED)",
    ),
)
wrong(
    "loss",
    "last-position-not-scored",
    "the last position of each row has no target",
    (LABELS, "return targets", f"return np.pad(targets[:, :-1], {LAST})"),
)
wrong(
    "loss",
    "only-last-position-scored",
    "the last position of each row alone has a target",
    (
        LABELS,
        "return targets",
        "return np.where(np.arange(targets.shape[1]) == targets.shape[1] - 1, targets, IGNORED)",
    ),
)
wrong(
    "loss",
    "targets-counted-from-1",
    "targets are one too small: ids count from 1",
    (
        LABELS,
        "return targets",
        "return np.where(targets == IGNORED, IGNORED, np.maximum(targets - 1, 0))",
    ),
)
for name, says, shifted in (
    ("labels-rolled", "targets are the tokens, rolled: the last position predicts the row's first",
     "np.roll(tokens, -1, 1)"),
    ("labels-rolled-flat", "targets are the tokens of all rows, rolled: a row ends with the next "
     "row's first", "np.roll(tokens, -1)"),
    ("labels-rolled-twice", "targets are shifted twice, the second time rolled within the row",
     "np.roll(targets, -1, 1)"),
):  # fmt: skip
    wrong("loss", name, says, (LABELS, "return targets", f"return {shifted}"))
wrong(
    "loss",
    "softmax-twice",
    "the cross-entropy is given probabilities for logits: softmax is applied twice",
    (
        LOSSES,
        f"return {NLL}",
        "return np.log(np.exp(probs).sum(-1)) - probs[np.arange(len(x)), targets]",
    ),
    (
        FORWARD,
        MINUS_1,
        """dprobs = np.exp(probs)
        dprobs /= dprobs.sum(-1, keepdims=True)
        dprobs[np.arange(len(loss)), targets[block]] -= 1
        dlogits[:] = probs * (dprobs - (dprobs * probs).sum(-1, keepdims=True))""",
    ),
)
wrong(
    "loss",
    "loss-of-probabilities",
    "the loss is -p, not -log(p): nll_loss of softmax, not of log_softmax",
    (LOSSES, f"return {NLL}", "return -probs[np.arange(len(x)), targets]"),
    (
        FORWARD,
        MINUS_1,
        "p = probs[np.arange(len(loss)), targets[block]]\n"
        f"        {MINUS_1}\n        dlogits *= p[:, None]",
    ),
)
wrong(
    "loss",
    "loss-summed",
    "the loss is the sum over the targets, not the mean",
    (FORWARD, RESULT, "return x.dtype.type(total)"),
    (FORWARD, f"        {DIVIDE}\n", ""),
)
wrong(
    "loss",
    "loss-mean-including-ignored",
    "the loss is divided by the number of positions, ignored ones included",
    (
        FORWARD,
        SOME,
        f"""{SOME}
        share = x.dtype.type(counts.mean())
        value *= share
        for grad in cache[: 2 - frozen]:
            grad *= share""",
    ),
    seen=("tracel-ai/burn#5568",),
)
wrong(
    "loss",
    "ignored-targets-are-token-0",
    "ignored targets count, as token 0",
    (FORWARD, COUNTS, f"targets = np.where(targets == IGNORED, 0, targets)\n    {COUNTS}"),
)
wrong(
    "loss",
    "loss-mean-of-rows",
    "the loss is the mean of the sequences' means: rows with few targets weigh more",
    (
        FORWARD,
        "x_rows, targets = rows(x)",
        """if x.ndim == 3 and len(x) > 1:
        found = [forward(a[None], weight, b[None], frozen=frozen) for a, b in zip(x, targets)]
        value = x.dtype.type(np.mean([loss for loss, _ in found]))
        dx = np.concatenate([cache.dx for _, cache in found]) / len(x)
        if frozen:
            return value, Cache(dx, None)
        return value, Cache(dx, into(dweight, sum(cache.dweight for _, cache in found) / len(x)))
    x_rows, targets = rows(x)""",
    ),
)
SCALED = """if x.ndim == 3:
        some = rows(x), weight, targets.ravel()
        value, cache = forward(*some, dweight=dweight, frozen=frozen)
        scale = x.dtype.type(np.count_nonzero(targets != IGNORED) / {})
        dw = None if frozen else np.multiply(cache.dweight, {}, out=cache.dweight)
        return value{}, Cache(cache.dx.reshape(x.shape) * {}, dw)
    x_rows, targets = rows(x)"""
SIZES = (("b", "the batch size", "len(x)"), ("t", "the number of positions", "x.shape[1]"))
for size, says, number in SIZES:
    wrong(
        "loss",
        f"loss-sum-over-{size}",
        f"the loss is divided by {says} alone",
        (FORWARD, "x_rows, targets = rows(x)",
         SCALED.format(number, "scale", " * scale", "scale")),
    )  # fmt: skip
wrong(
    "loss",
    "loss-negative",
    "the loss is the mean of log(p), not of -log(p)",
    (FORWARD, RESULT, "return x.dtype.type(-total / N)"),
    (FORWARD, DIVIDE, "dlogits /= -N"),
)
wrong(
    "loss",
    "label-smoothing",
    "the loss has a label smoothing of 0.1",
    (
        LOSSES,
        NLL,
        "np.log(norm[:, 0]) - 0.9 * logits[np.arange(len(x)), targets] - 0.1 * logits.mean(-1)",
    ),
    (
        FORWARD,
        MINUS_1,
        MINUS_1.replace("-= 1", "-= 0.9") + "\n        dlogits -= 0.1 / len(weight)",
    ),
)
wrong(
    "loss",
    "loss-in-bits",
    "the loss has base 2: bits, not nats",
    (LOSSES, NLL, f"({NLL}) / np.log(2).astype(x.dtype)"),
    (FORWARD, DIVIDE, "dlogits /= N * float(np.log(2))"),
)
wrong(
    "loss",
    "loss-of-clamped-probability",
    "the loss is -log(p + 1e-5), not -log(p)",
    (LOSSES, f"return {NLL}", "return -np.log(probs[np.arange(len(x)), targets] + 1e-5)"),
    (
        FORWARD,
        MINUS_1,
        "p = probs[np.arange(len(loss)), targets[block]]\n"
        f"        {MINUS_1}\n        dlogits *= (p / (p + 1e-5))[:, None]",
    ),
)
wrong(
    "loss",
    "loss-of-padded-vocabulary",
    "the softmax includes rows of zeros that pad the vocabulary to a multiple of 64",
    (
        LOSSES,
        "logits = x @ weight.T",
        "logits = np.pad(x @ weight.T, ((0, 0), (0, -len(weight) % 64)))",
    ),
    (LOSSES, "targets], probs", "targets], probs[:, : len(weight)]"),
)
for name, says, right, text in (
    ("dlogits-not-averaged", "the gradient of the logits is not divided by the number of targets",
     f"        {DIVIDE}\n", ""),
    ("dlogits-averaged-twice",
     "the gradient of the logits is divided twice by the number of targets",
     DIVIDE, "dlogits /= N * N"),
    ("dlogits-averaged-over-v", "the gradient of the logits is divided by V too",
     DIVIDE, "dlogits /= N * len(weight)"),
    ("dlogits-without-target", "the gradient of the logits is softmax(logits): 1 is not subtracted",
     f"        {MINUS_1}\n", ""),
    ("dlogits-target-assigned", "the gradient of the target's logit is -1, not p - 1",
     MINUS_1, MINUS_1.replace("-= 1", "= -1")),
    ("dlogits-of-target-only", "the gradient of the logits lacks softmax: -1 at the target alone",
     "dlogits = probs", "dlogits = probs * 0"),
    ("dlogits-negative", "the gradient of the logits has the wrong sign",
     DIVIDE, "dlogits /= -N"),
    ("dlogits-of-squared-error", "the gradient of the logits has a factor p (1 - p), as if it were "
     "that of a sigmoid", MINUS_1, f"slope = probs * (1 - probs)\n        {MINUS_1}\n        "
     "dlogits *= slope"),
):  # fmt: skip
    wrong("backward", name, says, (FORWARD, right, text))
wrong(
    "backward",
    "dlogits-mean-including-ignored",
    "the gradient is divided by the number of positions, ignored ones included; the loss is not",
    (
        FORWARD,
        SOME,
        f"""{SOME}
        share = x.dtype.type(counts.mean())
        for grad in cache[: 2 - frozen]:
            grad *= share""",
    ),
)
for size, says, number in SIZES:
    wrong(
        "backward",
        f"dlogits-averaged-over-{size}",
        f"the gradient of the logits is divided by {says} alone",
        (FORWARD, "x_rows, targets = rows(x)", SCALED.format(number, "scale", "", "scale")),
    )
wrong(
    "backward",
    "ignored-rows-have-gradients-of-token-0",
    "rows whose target is ignored have a gradient, as if it were token 0; the loss is right",
    (
        FORWARD,
        "dx[counts] = cache.dx",
        """dx[counts] = cache.dx
        _, dlogits = losses(x_rows[~counts], weight, targets[~counts] * 0)
        dlogits[:, 0] -= 1
        dx[~counts] = dlogits @ weight / np.count_nonzero(counts)
        if not frozen:
            cache.dweight[:] += dlogits.T @ x_rows[~counts] / np.count_nonzero(counts)""",
    ),
)
wrong(
    "backward",
    "ignored-rows-have-gradients",
    "rows whose target is ignored have the gradient softmax(logits)",
    (
        FORWARD,
        "dx[counts] = cache.dx",
        """dx[counts] = cache.dx
        _, probs = losses(x_rows[~counts], weight, targets[~counts] * 0)
        dx[~counts] = probs @ weight / np.count_nonzero(counts)
        if not frozen:
            cache.dweight[:] += probs.T @ x_rows[~counts] / np.count_nonzero(counts)""",
    ),
    seen=("PaddlePaddle/Paddle#28622",),
)
