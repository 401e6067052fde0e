"""Mistakes in LayerNorm's forward pass. Each has the backward of its own forward."""

from npgpt.parity.mistakes.mistake import Page

FORWARD, BACKWARD = "npgpt.ops.layernorm:forward", "npgpt.ops.layernorm:backward"

page = Page("docs/backprop/layernorm.md")
wrong = page.add

VAR = "x.var(-1, keepdims=True)"
RSTD = f"rstd = 1 / np.sqrt({VAR} + eps)"
OUT = "norm * p.weight + p.bias"
DNORM, DWEIGHT, DBIAS = (
    "dnorm = dout * p.weight",
    "g.weight[:] = rows(dout * norm).sum(0)",
    "g.bias[:] = rows(dout).sum(0)",
)
VIA_MEAN = "via_mean = dnorm.mean(-1, keepdims=True)"
VIA_RSTD = "via_rstd = norm * (dnorm * norm).mean(-1, keepdims=True)"
DX = "dnorm - via_mean - via_rstd"

wrong(
    "forward",
    "variance-of-c-minus-1",
    "LayerNorm's variance is divided by C - 1 (ddof=1, or torch.std without correction=0)",
    (FORWARD, VAR, "x.var(-1, ddof=1, keepdims=True)"),
    (BACKWARD, VIA_RSTD, f"{VIA_RSTD} * (x.shape[-1] / (x.shape[-1] - 1))"),
    seen=("allenai/allennlp#953",),
)
wrong(
    "forward",
    "eps-outside-sqrt",
    "LayerNorm's eps is added to the standard deviation, not to the variance",
    (FORWARD, RSTD, "rstd = 1 / (x.std(-1, keepdims=True) + eps)"),
    (BACKWARD, VIA_RSTD, f"{VIA_RSTD} / (rstd * x.std(-1, keepdims=True))"),
    seen=(
        "hkproj/pytorch-transformer#31",
        "codertimo/BERT-pytorch#30",
    ),
)
wrong(
    "forward",
    "annotated-transformer-norm",
    "LayerNorm divides by torch.std(x) + 1e-6, as the Annotated Transformer does",
    (FORWARD, RSTD, "rstd = 1 / (x.std(-1, ddof=1, keepdims=True) + 1e-6)"),
    (
        BACKWARD,
        VIA_RSTD,
        "C, std = x.shape[-1], x.std(-1, ddof=1, keepdims=True)\n"
        f"    {VIA_RSTD} * (C / (C - 1)) / (rstd * std)",
    ),
    seen=("harvardnlp/annotated-transformer#119",),
)
wrong(
    "forward",
    "sqrt-of-standard-deviation",
    "LayerNorm divides by the square root of the standard deviation",
    (FORWARD, RSTD, "rstd = 1 / np.sqrt(x.std(-1, keepdims=True) + eps)"),
    (BACKWARD, VIA_RSTD, f"{VIA_RSTD} / (2 * x.std(-1, keepdims=True))"),
)
wrong(
    "forward",
    "divided-by-variance",
    "LayerNorm divides by the variance, not by its square root",
    (FORWARD, RSTD, f"rstd = 1 / ({VAR} + eps)"),
    (BACKWARD, VIA_RSTD, f"{VIA_RSTD} * 2 / rstd"),
)
for value, why in (
    ("1e-3", "the default of Keras"),
    ("1e-6", "the default of Flax"),
    ("1e-12", "BERT's"),
):
    wrong(
        "forward",
        f"layernorm-eps-{value}",
        f"LayerNorm's eps is {value} ({why}), not 1e-5",
        (FORWARD, f"{VAR} + eps", f"{VAR} + {value}"),
    )
for name, says, ddof, eps, twins in (
    ("std-of-c-minus-1-plus-eps", "divides by torch.std(x) + eps, of C - 1", 1, "eps", ()),
    ("std-of-c-minus-1-alone", "divides by torch.std(x), of C - 1, without eps", 1, "0",
     ("variance-of-c-minus-1-eps-1e-12",)),
    ("std-plus-1e-6", "divides by np.std(x) + 1e-6", 0, "1e-6", ()),
    ("std-plus-1e-3", "divides by np.std(x) + 1e-3", 0, "1e-3", ()),
):  # fmt: skip
    std = f"x.std(-1, ddof={ddof}, keepdims=True)"
    wrong(
        "forward",
        name,
        f"LayerNorm {says}",
        (FORWARD, RSTD, f"rstd = 1 / ({std} + {eps})"),
        (
            BACKWARD,
            VIA_RSTD,
            f"C, std = x.shape[-1], {std}\n    {VIA_RSTD} * (C / (C - {ddof})) / (rstd * std)",
        ),
        twins=twins,
    )
for value in ("1e-3", "1e-6", "1e-12"):
    wrong(
        "forward",
        f"variance-of-c-minus-1-eps-{value}",
        f"LayerNorm's variance is divided by C - 1, and its eps is {value}, not 1e-5",
        (FORWARD, f"{VAR} + eps", f"x.var(-1, ddof=1, keepdims=True) + {value}"),
        (BACKWARD, VIA_RSTD, f"{VIA_RSTD} * (x.shape[-1] / (x.shape[-1] - 1))"),
        twins=("std-of-c-minus-1-alone",) if value == "1e-12" else (),
    )
wrong(
    "forward",
    "layernorm-without-bias",
    "LayerNorm's bias is not added",
    (FORWARD, OUT, "norm * p.weight"),
    (BACKWARD, DBIAS, "g.bias[:] = 0"),
)
wrong(
    "forward",
    "layernorm-without-weight",
    "LayerNorm's weight is not applied",
    (FORWARD, OUT, "norm + p.bias"),
    (BACKWARD, DNORM, "dnorm = dout"),
    (BACKWARD, DWEIGHT, "g.weight[:] = 0"),
)
wrong(
    "forward",
    "layernorm-without-parameters",
    "LayerNorm has neither weight nor bias (elementwise_affine=False)",
    (FORWARD, OUT, "norm"),
    (BACKWARD, DNORM, "dnorm = dout"),
    (BACKWARD, DWEIGHT, "g.weight[:] = 0"),
    (BACKWARD, DBIAS, "g.bias[:] = 0"),
)
wrong(
    "forward",
    "layernorm-weight-plus-1",
    "LayerNorm multiplies by 1 + weight, as Gemma does",
    (FORWARD, OUT, "norm * (1 + p.weight) + p.bias"),
    (BACKWARD, DNORM, "dnorm = dout * (1 + p.weight)"),
)
wrong(
    "forward",
    "layernorm-bias-before-weight",
    "LayerNorm adds the bias before it multiplies with the weight",
    (FORWARD, OUT, "(norm + p.bias) * p.weight"),
    (BACKWARD, DWEIGHT, "g.weight[:] = rows(dout * (norm + p.bias)).sum(0)"),
    (BACKWARD, DBIAS, "g.bias[:] = rows(dout).sum(0) * p.weight"),
)
wrong(
    "forward",
    "layernorm-not-centered",
    "LayerNorm divides by the standard deviation but does not subtract the mean",
    (FORWARD, "norm = (x - mean) * rstd", "norm = x * rstd"),
    (BACKWARD, "norm = (x - mean) * rstd", "norm = x * rstd"),
    (
        BACKWARD,
        VIA_RSTD,
        "via_rstd = (x - mean) * rstd * (dnorm * norm).mean(-1, keepdims=True)",
    ),
    (BACKWARD, DX, "dnorm - via_rstd"),
)
RMS = (
    (FORWARD, "mean = x.mean(-1, keepdims=True)", "mean = np.zeros_like(x[..., :1])"),
    (FORWARD, VAR, "(x * x).mean(-1, keepdims=True)"),
    (BACKWARD, DX, "dnorm - via_rstd"),
)
wrong(
    "forward",
    "layernorm-variance-not-centered",
    "LayerNorm divides x - mean by the root of the mean of x^2, not of (x - mean)^2",
    (FORWARD, VAR, "(x * x).mean(-1, keepdims=True)"),
    (BACKWARD, VIA_RSTD, "via_rstd = x * rstd * (dnorm * norm).mean(-1, keepdims=True)"),
)
wrong("forward", "rmsnorm", "RMSNorm, with weight and bias, in the place of LayerNorm", *RMS)
wrong(
    "forward",
    "rmsnorm-without-bias",
    "RMSNorm in the place of LayerNorm",
    *RMS,
    (FORWARD, OUT, "norm * p.weight"),
    (BACKWARD, DBIAS, "g.bias[:] = 0"),
)
for axis, name, says in (
    ("-2", "layernorm-over-positions", "LayerNorm normalizes over positions, not over channels"),
    ("(-2, -1)", "layernorm-over-positions-too", "LayerNorm normalizes over positions too"),
):
    wrong(
        "forward",
        name,
        says,
        (FORWARD, "x.mean(-1, keepdims=True)", f"x.mean({axis}, keepdims=True)"),
        (FORWARD, VAR, f"x.var({axis}, keepdims=True)"),
        (BACKWARD, VIA_MEAN, f"via_mean = dnorm.mean({axis}, keepdims=True)"),
        (BACKWARD, VIA_RSTD, f"via_rstd = norm * (dnorm * norm).mean({axis}, keepdims=True)"),
    )
wrong(
    "forward",
    "layernorm-parameters-exchanged",
    "LayerNorm multiplies with the bias and adds the weight",
    (FORWARD, OUT, "norm * p.bias + p.weight"),
    (BACKWARD, DNORM, "dnorm = dout * p.bias"),
    (BACKWARD, DWEIGHT, "g.bias[:] = rows(dout * norm).sum(0)"),
    (BACKWARD, DBIAS, "g.weight[:] = rows(dout).sum(0)"),
)
