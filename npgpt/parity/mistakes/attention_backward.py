"""Mistakes in attention's backward."""

from npgpt.parity.mistakes.attention import BACKWARD, DK, DQ, DSCORES, DV
from npgpt.parity.mistakes.heads import DY, PARTS
from npgpt.parity.mistakes.mistake import Page

page = Page("docs/backprop/attention.md")
wrong = page.add

PROBS_MEAN = "(dprobs - (dprobs * probs).sum(-1, keepdims=True))"

wrong(
    "backward",
    "dscores-not-scaled",
    "backward does not divide by sqrt(D): dq and dk are sqrt(D) times too large",
    (BACKWARD, " * D**-0.5", ""),
)
wrong(
    "backward",
    "dscores-scaled-twice",
    "backward divides by sqrt(D) twice",
    (BACKWARD, " * D**-0.5", " / D"),
)
wrong(
    "backward",
    "dk-not-scaled",
    "backward divides dq by sqrt(D), but not dk",
    (BACKWARD, DK, f"{DK} * D**0.5"),
)
wrong(
    "backward",
    "dq-not-scaled",
    "backward divides dk by sqrt(D), but not dq",
    (BACKWARD, DQ, f"{DQ} * D**0.5"),
)
for name, says, dscores in (
    (
        "softmax-backward-without-sum",
        "the backward of softmax lacks the sum over the row: probs * dprobs",
        "probs * dprobs * D**-0.5",
    ),
    (
        "softmax-backward-diagonal",
        "the backward of softmax has the Jacobian's diagonal only: probs * (1 - probs)",
        "probs * (1 - probs) * dprobs * D**-0.5",
    ),
    (
        "softmax-backward-missing",
        "the backward of softmax is missing: masked scores have a gradient",
        "dprobs * D**-0.5",
    ),
    (
        "softmax-backward-missing-masked",
        "the backward of softmax is missing; masked scores have no gradient",
        "np.tril(dprobs) * D**-0.5",
    ),
    (
        "softmax-backward-without-probs",
        "the backward of softmax lacks the factor probs",
        f"{PROBS_MEAN} * D**-0.5",
    ),
    (
        "softmax-backward-over-queries",
        "the backward of softmax sums over the queries, not over the keys",
        "probs * (dprobs - (dprobs * probs).sum(-2, keepdims=True)) * D**-0.5",
    ),
    (
        "softmax-backward-mean-not-sum",
        "the backward of softmax has a mean over the row in the place of the sum",
        "probs * (dprobs - (dprobs * probs).mean(-1, keepdims=True)) * D**-0.5",
    ),
    (
        "softmax-backward-sum-of-dprobs",
        "the backward of softmax subtracts the sum of dprobs, not of dprobs * probs",
        "probs * (dprobs - dprobs.sum(-1, keepdims=True)) * D**-0.5",
    ),
    (
        "softmax-backward-sum-added",
        "the backward of softmax adds the sum over the row instead of subtracting it",
        "probs * (dprobs + (dprobs * probs).sum(-1, keepdims=True)) * D**-0.5",
    ),
):
    wrong("backward", name, says, (BACKWARD, DSCORES, f"dscores = {dscores}"))
for name, says, right, text in (
    ("dv-not-transposed", "dv is probs @ dy, without a transpose",
     "dropped.mT @", "dropped @"),
    ("dk-not-transposed", "dk is dscores @ q, without a transpose",
     "dscores.mT @", "dscores @"),
    ("dq-transposed", "dq is dscores.T @ k, with a transpose",
     "dq = dscores @", "dq = dscores.mT @"),
    ("dk-of-keys", "dk is dscores.T @ k, with the keys for the queries",
     "dscores.mT @ q", "dscores.mT @ k"),
    ("dq-of-queries", "dq is dscores @ q, with the queries for the keys",
     "dscores @ k", "dscores @ q"),
    ("dprobs-transposed", "the gradient of the probabilities is v @ dy.T, not dy @ v.T",
     "dy @ v.mT", "v @ dy.mT"),
    ("dprobs-of-keys", "the gradient of the probabilities is dy @ k.T, with the keys for the "
     "values", "dy @ v.mT", "dy @ k.mT"),
    ("dprobs-of-queries", "the gradient of the probabilities is dy @ q.T, with the queries for the "
     "values", "dy @ v.mT", "dy @ q.mT"),
    ("dscores-multiplied", "backward multiplies with sqrt(D) instead of dividing",
     " * D**-0.5", " * D**0.5"),
    ("dscores-divided-by-sqrt-c", "backward divides by sqrt(C), and forward by sqrt(D)",
     " * D**-0.5", " * (H * D) ** -0.5"),
    ("dq-missing", "queries have no gradient",
     DQ, "dq = np.zeros_like(q)"),
    ("dk-missing", "keys have no gradient",
     DK, "dk = np.zeros_like(k)"),
    ("dv-missing", "values have no gradient",
     DV, "dv = np.zeros_like(v)"),
    ("dk-and-dv-missing", "keys and values have no gradient: they are detached, as for the cache",
     PARTS, "(dq, dk * 0, dv * 0)"),
    ("dq-and-dk-exchanged", "the gradients of queries and keys are exchanged",
     PARTS, "(dk, dq, dv)"),
    ("dk-and-dv-exchanged", "the gradients of keys and values are exchanged",
     PARTS, "(dq, dv, dk)"),
    ("dq-and-dv-exchanged", "the gradients of queries and values are exchanged",
     PARTS, "(dv, dk, dq)"),
):  # fmt: skip
    wrong("backward", name, says, (BACKWARD, right, text))
wrong(
    "backward",
    "dout-split-without-transpose",
    "backward splits the heads of dout by a reshape without a transpose",
    (BACKWARD, DY, "dy = dout.reshape(q.shape)"),
)
wrong(
    "backward",
    "dqkv-merged-without-transpose",
    "backward merges the heads of dq, dk and dv by a reshape without a transpose",
    (BACKWARD, "merge_heads(a)", "a.reshape(dout.shape)"),
)
wrong(
    "backward",
    "dqkv-per-head",
    "backward writes dq, dk and dv head by head, and forward reads q, k, v as blocks",
    (
        BACKWARD,
        "np.concatenate([merge_heads(a) for a in (dq, dk, dv)], axis=-1)",
        "np.stack([dq, dk, dv]).transpose(1, 3, 2, 0, 4).reshape(*dout.shape[:2], -1)",
    ),
)
