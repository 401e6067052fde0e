"""Mistakes in LayerNorm's backward."""

from npgpt.parity.mistakes.layernorm import BACKWARD, DBIAS, DNORM, DWEIGHT, DX, VIA_MEAN, VIA_RSTD
from npgpt.parity.mistakes.mistake import Page

page = Page("docs/backprop/layernorm.md")
wrong = page.add

wrong(
    "backward",
    "layernorm-without-mean-path",
    "dx of LayerNorm lacks the path through the mean",
    (BACKWARD, DX, "dnorm - via_rstd"),
)
wrong(
    "backward",
    "layernorm-without-rstd-path",
    "dx of LayerNorm lacks the path through the standard deviation",
    (BACKWARD, DX, "dnorm - via_mean"),
)
wrong(
    "backward",
    "layernorm-statistics-constant",
    "dx of LayerNorm treats mean and standard deviation as constants",
    (BACKWARD, DX, "dnorm"),
)
wrong(
    "backward",
    "layernorm-rstd-path-added",
    "dx of LayerNorm adds the path through the standard deviation instead of subtracting it",
    (BACKWARD, DX, "dnorm - via_mean + via_rstd"),
)
wrong(
    "backward",
    "layernorm-mean-path-added",
    "dx of LayerNorm adds the path through the mean instead of subtracting it",
    (BACKWARD, DX, "dnorm + via_mean - via_rstd"),
)
wrong(
    "backward",
    "layernorm-mean-path-twice",
    "dx of LayerNorm subtracts the path through the mean twice",
    (BACKWARD, DX, "dnorm - 2 * via_mean - via_rstd"),
    seen=("tenstorrent/tt-metal#53204",),
)
wrong(
    "backward",
    "layernorm-rstd-path-halved",
    "the path through the standard deviation has a factor 1/2: that of the root stands twice",
    (BACKWARD, DX, "dnorm - via_mean - via_rstd / 2"),
)
wrong(
    "backward",
    "layernorm-rstd-path-twice",
    "the path through the standard deviation lacks the factor 1/2 of the root",
    (BACKWARD, DX, "dnorm - via_mean - 2 * via_rstd"),
)
wrong(
    "backward",
    "layernorm-mean-path-summed",
    "the path through the mean has a sum over the channels in the place of the mean",
    (BACKWARD, VIA_MEAN, "via_mean = dnorm.sum(-1, keepdims=True)"),
)
wrong(
    "backward",
    "layernorm-rstd-path-summed",
    "the path through the standard deviation has a sum over the channels, not a mean",
    (BACKWARD, VIA_RSTD, "via_rstd = norm * (dnorm * norm).sum(-1, keepdims=True)"),
)
wrong(
    "backward",
    "layernorm-backward-of-c-minus-1",
    "the path through the standard deviation is that of a variance divided by C - 1",
    (BACKWARD, VIA_RSTD, f"{VIA_RSTD} * (x.shape[-1] / (x.shape[-1] - 1))"),
)
wrong(
    "backward",
    "layernorm-rstd-path-of-input",
    "the path through the standard deviation has x - mean for norm, not divided by it",
    (BACKWARD, VIA_RSTD, "via_rstd = (x - mean) * (dnorm * norm).mean(-1, keepdims=True)"),
)
wrong(
    "backward",
    "layernorm-paths-of-dout",
    "the means in dx of LayerNorm are of dout, not multiplied with the weight",
    (BACKWARD, VIA_MEAN, "via_mean = dout.mean(-1, keepdims=True)"),
    (BACKWARD, VIA_RSTD, "via_rstd = norm * (dout * norm).mean(-1, keepdims=True)"),
)
wrong(
    "backward",
    "layernorm-divided-by-variance",
    "dx of LayerNorm is divided by the variance, not by the standard deviation",
    (BACKWARD, f"rstd * ({DX})", f"rstd * rstd * ({DX})"),
)
wrong(
    "backward",
    "layernorm-rstd-path-without-norm",
    "the path through the standard deviation is not multiplied with norm",
    (BACKWARD, VIA_RSTD, "via_rstd = (dnorm * norm).mean(-1, keepdims=True)"),
)
wrong(
    "backward",
    "layernorm-without-rstd",
    "dx of LayerNorm is not divided by the standard deviation",
    (BACKWARD, f"rstd * ({DX})", DX),
)
wrong(
    "backward",
    "layernorm-sums-not-means",
    "dx of LayerNorm has sums over the channels in the place of both means",
    (BACKWARD, VIA_MEAN, "via_mean = dnorm.sum(-1, keepdims=True)"),
    (BACKWARD, VIA_RSTD, "via_rstd = norm * (dnorm * norm).sum(-1, keepdims=True)"),
)
wrong(
    "backward",
    "layernorm-dx-without-weight",
    "dx of LayerNorm is not multiplied with the weight",
    (BACKWARD, DNORM, "dnorm = dout"),
)
wrong(
    "backward",
    "layernorm-dweight-of-input",
    "the gradient of LayerNorm's weight uses the input, not the normalized input",
    (BACKWARD, DWEIGHT, "g.weight[:] = rows(dout * x).sum(0)"),
)
wrong(
    "backward",
    "layernorm-dweight-without-rstd",
    "the gradient of LayerNorm's weight uses x - mean, not divided by the standard deviation",
    (BACKWARD, DWEIGHT, "g.weight[:] = rows(dout * (x - mean)).sum(0)"),
)
wrong(
    "backward",
    "layernorm-gradients-exchanged",
    "the gradients of LayerNorm's weight and bias are exchanged",
    (BACKWARD, DWEIGHT, "g.bias[:] = rows(dout * norm).sum(0)"),
    (BACKWARD, DBIAS, "g.weight[:] = rows(dout).sum(0)"),
    seen=("Oneflow-Inc/oneflow#6149",),
)
wrong(
    "backward",
    "layernorm-gradients-averaged",
    "the gradients of LayerNorm's weight and bias are means over the rows, not sums",
    (BACKWARD, "rows(dout * norm).sum(0)", "rows(dout * norm).mean(0)"),
    (BACKWARD, "rows(dout).sum(0)", "rows(dout).mean(0)"),
)
wrong(
    "backward",
    "layernorm-gradients-divided-by-b",
    "the gradients of LayerNorm's weight and bias are divided by the batch size once more",
    (BACKWARD, "rows(dout * norm).sum(0)", "(dout * norm).sum(1).mean(0)"),
    (BACKWARD, "rows(dout).sum(0)", "dout.sum(1).mean(0)"),
)
wrong(
    "backward",
    "layernorm-gradients-of-first-row",
    "the gradients of LayerNorm's weight and bias are those of the first sequence alone",
    (BACKWARD, "rows(dout * norm).sum(0)", "(dout * norm)[0].sum(0)"),
    (BACKWARD, "rows(dout).sum(0)", "dout[0].sum(0)"),
)
wrong(
    "backward",
    "layernorm-dbias-of-dnorm",
    "the gradient of LayerNorm's bias is multiplied with the weight",
    (BACKWARD, DBIAS, "g.bias[:] = rows(dout * p.weight).sum(0)"),
)
wrong(
    "backward",
    "layernorm-gradients-of-last-row",
    "the gradients of LayerNorm's weight and bias are those of the last sequence alone",
    (BACKWARD, "rows(dout * norm).sum(0)", "(dout * norm)[-1].sum(0)"),
    (BACKWARD, "rows(dout).sum(0)", "dout[-1].sum(0)"),
)
wrong(
    "backward",
    "layernorm-gradients-missing",
    "LayerNorm's weight and bias have no gradient",
    (BACKWARD, "rows(dout * norm).sum(0)", "0"),
    (BACKWARD, "rows(dout).sum(0)", "0"),
)
wrong(
    "backward",
    "layernorm-backward-over-positions-too",
    "the means in dx of LayerNorm are over positions and channels, and forward's over channels",
    (BACKWARD, VIA_MEAN, "via_mean = dnorm.mean((-2, -1), keepdims=True)"),
    (BACKWARD, VIA_RSTD, "via_rstd = norm * (dnorm * norm).mean((-2, -1), keepdims=True)"),
    seen=("flagos-ai/FlagGems#5392",),
)
wrong(
    "backward",
    "layernorm-dweight-of-output",
    "the gradient of LayerNorm's weight uses the output, not the normalized input",
    (BACKWARD, DWEIGHT, "g.weight[:] = rows(dout * (norm * p.weight + p.bias)).sum(0)"),
)
wrong(
    "backward",
    "layernorm-dweight-of-scaled-norm",
    "the gradient of LayerNorm's weight uses the normalized input times the weight",
    (BACKWARD, DWEIGHT, "g.weight[:] = rows(dout * (norm * p.weight)).sum(0)"),
)
wrong(
    "backward",
    "layernorm-dx-weight-last",
    "dx of LayerNorm is multiplied with the weight after the means, not before",
    (BACKWARD, DNORM, "dnorm = dout"),
    (BACKWARD, f"rstd * ({DX})", f"rstd * p.weight * ({DX})"),
)
wrong(
    "backward",
    "layernorm-dx-times-std",
    "dx of LayerNorm is multiplied with the standard deviation, not divided by it",
    (BACKWARD, f"rstd * ({DX})", f"({DX}) / rstd"),
)
