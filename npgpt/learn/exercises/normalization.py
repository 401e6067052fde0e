"""Exercises on LayerNorm and softmax, which connect the numbers of a row."""

from typing import Any

import numpy as np

from npgpt.arrays import Array
from npgpt.learn import sizes
from npgpt.learn.exercise import Arguments, Case, Exercise
from npgpt.learn.sizes import EPS, Sizes
from npgpt.ops import attention, layernorm


def layernorm_case(s: Sizes, *given: str) -> list[Case]:
    """Return the case in which the learner's function is given these arrays."""
    rng = sizes.rng("layernorm")
    x = 0.5 + 1.3 * sizes.normal(rng, s.B, s.T, s.C)
    drawn = {
        "dout": sizes.normal(rng, s.B, s.T, s.C),
        "x": x,
        "weight": sizes.positive(rng, s.C),
        "mean": x.mean(-1, keepdims=True),
        "rstd": 1 / np.sqrt(x.var(-1, keepdims=True) + EPS),
        "bias": sizes.normal(rng, s.C),
    }
    arguments = {one: drawn.pop(one) for one in given}
    return [Case(arguments, extra=drawn)]


def layernorm_loss(a: Arguments) -> Any:
    """Return the loss, with the mean and the variance computed again."""
    out, _ = layernorm.forward(a["x"], layernorm.Params(a["weight"], a["bias"]), eps=EPS)
    return (a["dout"] * out).sum()


def layernorm_summands(a: Arguments) -> dict[str, dict[str, Array]]:
    """Return the gradients along the three paths from x to the output."""
    rstd, dnorm = a["rstd"], a["dout"] * a["weight"]
    norm = (a["x"] - a["mean"]) * rstd
    return {
        "dx": {
            "the direct path": rstd * dnorm,
            "the path through the mean": -rstd * dnorm.mean(-1, keepdims=True),
            "the path through rstd": -rstd * norm * (dnorm * norm).mean(-1, keepdims=True),
        }
    }


LAYERNORM_PARAMS = Exercise(
    name="layernorm_params",
    title="LayerNorm: the gradients of weight and bias",
    results={"layernorm_params_backward": ("dweight", "dbias")},
    axes={"dweight": "C", "dbias": "C"},
    cases=lambda s: layernorm_case(s, "dout", "x", "mean", "rstd"),
    loss=layernorm_loss,
    inputs={"dweight": "weight", "dbias": "bias"},
    factors="B T B*T",
)
LAYERNORM_DX = Exercise(
    name="layernorm_dx",
    title="LayerNorm: the gradient of the input",
    results={"layernorm_dx": ("dx",)},
    axes={"dx": "B T C"},
    cases=lambda s: layernorm_case(s, "dout", "x", "weight", "mean", "rstd"),
    loss=layernorm_loss,
    inputs={"dx": "x"},
    summands=layernorm_summands,
    quantities=lambda a: {"rstd": a["rstd"], "weight": a["weight"]},
    factors="C B T",
)


def softmax_cases(s: Sizes) -> list[Case]:
    """Return usual logits, large ones, masked ones; then gradients."""
    rng = sizes.rng("softmax")
    x, dout = (sizes.normal(rng, s.B, s.T, s.V) for _ in range(2))
    masked = x.copy()
    masked[..., 3] = masked[1, 2, 5] = -np.inf
    small = x - 1000 - 1000 * np.arange(s.B)[:, None, None]
    out = attention.softmax(x)
    return [
        Case({"x": x}),
        Case({"x": x + 1000}, about="numbers near 1000"),
        Case({"x": small}, about="numbers near -1000"),
        Case({"x": masked}, about="some numbers of -inf"),
        Case({"dout": dout, "out": out}, {"x": x}, function="softmax_backward"),
    ]


def softmax_summands(a: Arguments) -> dict[str, dict[str, Array]]:
    """Return the two terms of the gradient."""
    if "out" not in a:
        return {}
    out, dout = a["out"], a["dout"]
    return {
        "dx": {
            "the term of i == j, out * dout": out * dout,
            "the term of all i, -out * sum(dout * out)": -out * (dout * out).sum(-1, keepdims=True),
        }
    }


SOFTMAX = Exercise(
    name="softmax",
    title="Softmax: forward, and the gradient of the input",
    results={"softmax": ("out",), "softmax_backward": ("dx",)},
    axes={"out": "B T V", "dx": "B T V"},
    cases=softmax_cases,
    loss=lambda a: (a["dout"] * attention.softmax(a["x"])).sum(),
    inputs={"dx": "x"},
    summands=softmax_summands,
    quantities=lambda a: {"out": a["out"]} if "out" in a else {},
    factors="V B T",
)
