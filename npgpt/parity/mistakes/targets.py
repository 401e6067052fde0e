"""Mistakes in which target belongs to which row of the logits, and in which targets count."""

from npgpt.parity.mistakes.loss import COUNTS, DIVIDE, FORWARD, LABELS
from npgpt.parity.mistakes.mistake import Page

page = Page("docs/backprop/loss.md")
wrong = page.add

TARGETS = "x_rows, targets = rows(x)"
TOTAL = "total += float(loss.sum())"
VIEWED = """if x.ndim == 3:
        shape = (*x.shape[:2], len(weight))
        viewed = (x @ weight.T).{view}
        counts = targets != IGNORED
        probs = np.exp(viewed[counts] - viewed[counts].max(-1, keepdims=True))
        probs /= probs.sum(-1, keepdims=True)
        own = np.arange(len(probs)), targets[counts]
        loss = -np.log(probs[own]).mean()
        probs[own] -= 1
        dviewed = np.zeros_like(viewed)
        dviewed[counts] = probs / len(probs)
        dlogits = np.ascontiguousarray(dviewed.{back})
        dw = None if frozen else into(dweight, rows(dlogits).T @ rows(x))
        return x.dtype.type(loss), Cache(dlogits @ weight, dw)
    x_rows, targets = rows(x)"""

for name, says, view, back in (
    ("logits-viewed-not-transposed",
     "logits are viewed as (B, V, T) instead of transposed, for cross_entropy",
     "reshape(shape[0], shape[2], shape[1]).swapaxes(1, 2)", "swapaxes(1, 2).reshape(shape)"),
    ("logits-rows-transposed",
     "logits are (T, B, V) where they are flattened, and targets (B, T)",
     "swapaxes(0, 1).reshape(shape)", "reshape(shape[1], shape[0], shape[2]).swapaxes(0, 1)"),
):  # fmt: skip
    wrong("loss", name, says, (FORWARD, TARGETS, VIEWED.format(view=view, back=back)))
for name, says, kept in (
    ("target-0-ignored", "targets of token 0 are ignored too, as padding", "targets != 0"),
    ("token-0-not-scored", "positions whose token is 0 have no target: it is taken as padding",
     "tokens != 0"),
    ("largest-target-ignored", "targets of the batch's largest token are ignored too: the end of "
     "text, as padding", "targets != targets.max()"),
    ("largest-token-not-scored", "positions of the batch's largest token have no target: the end "
     "of text, as padding", "tokens != tokens.max()"),
):  # fmt: skip
    wrong(
        "loss",
        name,
        says,
        (LABELS, "return targets", f"return np.where({kept}, targets, IGNORED)"),
    )
for name, says, last in (
    ("0", "token 0", "0"),
    ("of-the-end", "the vocabulary's last token", "len(weight) - 1"),
):
    wrong(
        "loss",
        f"target-{name}-without-loss",
        f"targets of {says} have the weight 0, and count where the loss is divided",
        (FORWARD, TOTAL, f"total += float(loss[targets[block] != {last}].sum())"),
        (FORWARD, DIVIDE, f"dlogits[targets[block] == {last}] = 0\n        {DIVIDE}"),
    )
wrong(
    "loss",
    "ignored-targets-are-the-last-token",
    "ignored targets count, as the vocabulary's last token (an index of -1)",
    (FORWARD, COUNTS,
     f"targets = np.where(targets == IGNORED, len(weight) - 1, targets)\n    {COUNTS}"),
)  # fmt: skip
KEPT = "np.where(targets == IGNORED, IGNORED, {})"
for name, says, labels in (
    ("labels-not-shifted-but-ignored", "targets are not shifted: position t predicts token t, "
     "which it reads, unless its target is ignored", "tokens"),
    ("labels-of-previous-token-but-ignored", "position t predicts token t - 1, unless its target "
     "is ignored", "np.pad(tokens[:, :-1], ((0, 0), (1, 0)), constant_values=IGNORED)"),
    ("labels-rolled-but-ignored", "targets are the tokens, rolled: the last position predicts the "
     "first, unless ignored", "np.roll(tokens, -1, 1)"),
    ("labels-rolled-flat-but-ignored", "targets are the tokens of all rows, rolled, but where the "
     "target is ignored", "np.roll(tokens, -1)"),
    ("labels-shifted-twice-at-ignored", "targets are shifted twice, and ignored where they were "
     "before the shift", "np.pad(targets[:, 1:], ((0, 0), (0, 1)), constant_values=IGNORED)"),
):  # fmt: skip
    wrong("loss", name, says, (LABELS, "return targets", f"return {KEPT.format(labels)}"))
