"""Mistakes in attention's scores, mask and softmax. Each has the backward of its own forward."""

from npgpt.parity.mistakes.mistake import Page

FORWARD, BACKWARD = "npgpt.ops.attention:forward", "npgpt.ops.attention:backward"

page = Page("docs/backprop/attention.md")
wrong = page.add

SCORES = "scores = q @ k.mT * D**-0.5"
MASK = "scores[..., ~np.tri(T, S, S - T, dtype=bool)] = -np.inf"
PROBS = "probs = softmax(scores)"
DSCORES = "dscores = probs * (dprobs - (dprobs * probs).sum(-1, keepdims=True)) * D**-0.5"
DV = "dv = dropped.mT @ dy"
DQ, DK = "dq = dscores @ k", "dk = dscores.mT @ q"

for name, says, scale, in_backward in (
    ("scores-not-scaled", "scores are not divided by sqrt(D)", "", ""),
    ("scores-multiplied", "scores are multiplied with sqrt(D), not divided", " * D**0.5", None),
    ("scores-divided-by-d", "scores are divided by D, not by sqrt(D)", " / D", None),
    ("scores-divided-by-sqrt-c", "scores are divided by sqrt(C), not by sqrt(D)",
     " * (n_head * D) ** -0.5", " * (H * D) ** -0.5"),
    ("scores-divided-by-sqrt-h", "scores are divided by sqrt(H), not by sqrt(D)",
     " * n_head**-0.5", " * H**-0.5"),
    ("scores-divided-by-sqrt-t", "scores are divided by sqrt(T), not by sqrt(D)",
     " * S**-0.5", " * k.shape[-2] ** -0.5"),
):  # fmt: skip
    wrong(
        "forward",
        name,
        says,
        (FORWARD, " * D**-0.5", scale),
        (BACKWARD, " * D**-0.5", scale if in_backward is None else in_backward),
    )
wrong(
    "forward",
    "probs-scaled-not-scores",
    "1 / sqrt(D) multiplies the probabilities, after softmax",
    (FORWARD, f"{SCORES}\n    {MASK}\n    {PROBS}",
     f"scores = q @ k.mT\n    {MASK}\n    {PROBS} * D**-0.5"),
    (BACKWARD, DSCORES,
     "dscores = probs * (dprobs - (dprobs * probs).sum(-1, keepdims=True) * D**0.5)"),
)  # fmt: skip
wrong(
    "forward", "mask-missing", "scores of later positions are not masked", (FORWARD, MASK, "pass")
)
wrong(
    "forward",
    "mask-sees-next-token",
    "the mask is off by one: a position attends to the next one too",
    (FORWARD, "S - T, dtype", "S - T + 1, dtype"),
)
wrong(
    "forward",
    "mask-hides-own-position",
    "the mask is off by one: a position does not attend to itself (masked with -1e9)",
    (FORWARD, MASK, "scores[..., ~np.tri(T, S, S - T - 1, dtype=bool)] = -1e9"),
    (BACKWARD, DQ, "dscores = np.tril(dscores, -1)\n    " + DQ),
)
wrong(
    "forward",
    "mask-upside-down",
    "the mask is transposed: a position attends to itself and to later ones",
    (FORWARD, MASK, "scores[..., np.tri(T, S, S - T - 1, dtype=bool)] = -np.inf"),
)
wrong(
    "forward",
    "mask-inverted",
    "the mask is inverted: a position attends to later ones only (masked with -1e9)",
    (FORWARD, MASK, "scores[..., np.tri(T, S, S - T, dtype=bool)] = -1e9"),
    (BACKWARD, DQ, "dscores = np.triu(dscores, 1)\n    " + DQ),
    seen=("harvard-edge/cs249r_book#1785",),
)
wrong(
    "forward",
    "mask-multiplies-scores",
    "the scores of later positions are 0 (by a factor, or a fill of -1e-9), and exp(0) is 1",
    (FORWARD, "= -np.inf", "= 0"),
    (BACKWARD, DQ, "dscores = np.tril(dscores)\n    " + DQ),
)
wrong(
    "forward",
    "mask-after-softmax",
    "the mask is applied after softmax, and the rows no longer sum to 1",
    (FORWARD, f"{MASK}\n    {PROBS}", f"{PROBS} * np.tri(T, S, S - T, dtype=scores.dtype)"),
    (BACKWARD, DSCORES,
     "full = softmax(q @ k.mT * D**-0.5)\n"
     "    dscores = probs * dprobs - full * (dprobs * probs).sum(-1, keepdims=True)\n"
     "    dscores *= D**-0.5"),
)  # fmt: skip
wrong(
    "forward",
    "softmax-over-queries",
    "softmax is over the queries, not over the keys",
    (FORWARD, PROBS, "probs = softmax(scores.mT).mT"),
    (BACKWARD, "probs).sum(-1", "probs).sum(-2"),
    seen=("karpathy/ng-video-lecture#42",),
)
for axis, name in ((1, "heads"), (0, "the batch")):
    wrong(
        "forward",
        f"softmax-over-{name.replace(' ', '-')}",
        f"softmax is over {name}, not over the keys (masked with -1e9)",
        (FORWARD, "= -np.inf", "= -1e9"),
        (FORWARD, PROBS, f"e = np.exp(scores - scores.max({axis}, keepdims=True))\n"
         f"    probs = e / e.sum({axis}, keepdims=True)"),
        (BACKWARD, "probs).sum(-1", f"probs).sum({axis}"),
        (BACKWARD, DQ, "dscores = np.tril(dscores)\n    " + DQ),
        seen=("jadore801120/attention-is-all-you-need-pytorch#52",) if axis == 0 else (),
    )  # fmt: skip
wrong(
    "forward",
    "softmax-plus-1",
    "softmax's denominator has 1 more than the sum (softmax off by one)",
    (FORWARD, PROBS, "largest = scores.max(-1, keepdims=True)\n"
     "    e = np.exp(scores - largest)\n"
     "    probs = e / (e.sum(-1, keepdims=True) + np.exp(-largest))"),
)  # fmt: skip
wrong(
    "forward",
    "keys-are-queries",
    "scores are q @ q.T: the queries are used as keys",
    (FORWARD, "np.split(qkv, 3, axis=-1))", "np.split(qkv, 3, axis=-1))\n    k = q"),
    (BACKWARD, f"{DQ}\n    {DK}", "dq = dscores @ k + dscores.mT @ q\n    dk = np.zeros_like(q)"),
)
wrong(
    "forward",
    "values-are-keys",
    "probs @ k: the keys are used as values",
    (FORWARD, "dropped @ v", "dropped @ k"),
    (BACKWARD, DV, "dk_of_values = dropped.mT @ dy\n    dv = np.zeros_like(v)"),
    (BACKWARD, "dy @ v.mT", "dy @ k.mT"),
    (BACKWARD, DK, f"{DK} + dk_of_values"),
)
for q, k, v, name, says in (
    ("q", "k", "q", "values-are-queries", "probs @ q: the queries are used as values"),
    ("k", "k", "v", "queries-are-keys", "scores are k @ k.T: the keys are used as queries"),
    ("v", "k", "v", "queries-are-values", "scores are v @ k.T: the values are used as queries"),
    ("q", "v", "v", "keys-are-values", "scores are q @ v.T: the values are used as keys"),
):
    wrong(
        "forward",
        name,
        says,
        (FORWARD, "n_head) for a in np.split(qkv, 3, axis=-1))",
         f"n_head) for a in np.split(qkv, 3, axis=-1))\n    q, k, v = {q}, {k}, {v}"),
        (BACKWARD, DK, f"{DK}\n    parts = dict.fromkeys('qkv', 0 * q)\n"
         f"    for part, grad in zip({(q, k, v)}, (dq, dk, dv), strict=True):\n"
         "        parts[part] = parts[part] + grad\n"
         "    dq, dk, dv = parts.values()"),
    )  # fmt: skip
wrong(
    "forward",
    "probs-transposed",
    "the output is probs.T @ v, not probs @ v",
    (FORWARD, "dropped @ v", "(dropped.mT if T == S else dropped) @ v"),
    (BACKWARD, DV, "dv = dropped @ dy"),
    (BACKWARD, "dy @ v.mT", "(dy @ v.mT).mT"),
)
wrong(
    "forward",
    "scores-transposed",
    "scores are k @ q.T, not q @ k.T",
    (FORWARD, "q @ k.mT", "(k @ q.mT if T == S else q @ k.mT)"),
    (BACKWARD, f"{DQ}\n    {DK}", "dk = dscores @ q\n    dq = dscores.mT @ k"),
    twins=("qkv-order-kqv",),
)
wrong(
    "forward",
    "mask-added",
    "the mask's ones are added to the scores: nothing is masked",
    (FORWARD, MASK, "scores += np.tri(T, S, S - T, dtype=scores.dtype)"),
)
for number in ("1", "10"):
    wrong(
        "forward",
        f"mask-of-minus-{number}",
        f"the scores of later positions are set to -{number}, not to minus infinity",
        (FORWARD, "= -np.inf", f"= -{number}"),
        (BACKWARD, DQ, "dscores = np.tril(dscores)\n    " + DQ),
    )
wrong(
    "forward",
    "mask-adds-minus-10",
    "-10 is added to the scores of later positions, which does not hide them",
    (FORWARD, "= -np.inf", "-= 10"),
)
wrong(
    "forward",
    "mask-of-plus-1e9",
    "the scores of later positions are set to 1e9, without the sign",
    (FORWARD, "= -np.inf", "= 1e9"),
    (BACKWARD, DQ, "dscores = np.tril(dscores)\n    " + DQ),
)
