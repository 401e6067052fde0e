"""Exercises on GELU and dropout, which change each number on its own."""

import numpy as np

from npgpt.arrays import Array
from npgpt.learn import sizes
from npgpt.learn.exercise import Arguments, Case, Exercise, Region
from npgpt.learn.sizes import RATE, Sizes
from npgpt.ops import gelu


def gelu_cases(s: Sizes) -> list[Case]:
    """Return one case, whose numbers reach both ends of the curve."""
    rng = sizes.rng("gelu")
    shape = s.B, s.T, s.C
    dout, x = sizes.normal(rng, *shape), 1.5 * sizes.normal(rng, *shape)
    return [Case({"dout": dout, "x": x})]


def gelu_summands(a: Arguments) -> dict[str, dict[str, Array]]:
    """Return the two terms of the product rule."""
    x, dout = a["x"], a["dout"]
    t = np.tanh(gelu.SCALE * (x + gelu.CUBIC * x**3))
    inner_slope = gelu.SCALE * (1 + 3 * gelu.CUBIC * x**2)
    return {
        "dx": {
            "the term of the first x, 0.5 * (1 + tanh)": dout * 0.5 * (1 + t),
            "the 1 of 1 + tanh": dout * 0.5,
            "the term of the x inside tanh": dout * 0.5 * x * (1 - t**2) * inner_slope,
        }
    }


GELU = Exercise(
    name="gelu",
    title="GELU: the gradient of the input",
    results={"gelu_backward": ("dx",)},
    axes={"dx": "B T F"},
    cases=gelu_cases,
    loss=lambda a: (a["dout"] * gelu.forward(a["x"])[0]).sum(),
    inputs={"dx": "x"},
    summands=gelu_summands,
)


def dropout_cases(s: Sizes) -> list[Case]:
    """Return a case at the usual rate, and one without dropout."""
    rng = sizes.rng("dropout")
    shape = s.B, s.T, s.C
    dout, keep = sizes.normal(rng, *shape), rng.random(shape) > RATE
    extra = {"x": sizes.normal(rng, *shape)}
    everything = {"dout": dout, "keep": np.ones_like(keep), "rate": 0.0}
    return [
        Case({"dout": dout, "keep": keep, "rate": RATE}, extra),
        Case(everything, extra, about="a rate of 0"),
    ]


def dropout_regions(a: Arguments) -> dict[str, list[Region]]:
    """Return the dropped and the kept numbers."""
    return {
        "dx": [
            Region("the numbers that were dropped", ~a["keep"]),
            Region("the numbers that were kept", a["keep"]),
        ]
    }


def other_mask(a: Arguments, dx: Array) -> str | None:
    """Return a cause if the mask is neither `keep` nor all of one value."""
    drawn = dx != 0
    scaled = np.isclose(dx, np.where(drawn, a["dout"] / (1 - a["rate"]), 0)).all()
    if not scaled or (drawn == a["keep"]).all():
        return None
    return "the mask is another one than keep: backward needs the mask of the forward pass"


DROPOUT = Exercise(
    name="dropout",
    title="Dropout: the gradient of the input",
    results={"dropout_backward": ("dx",)},
    axes={"dx": "B T C"},
    cases=dropout_cases,
    loss=lambda a: (a["dout"] * a["x"] * a["keep"] / (1 - a["rate"])).sum(),
    inputs={"dx": "x"},
    regions=dropout_regions,
    observe=other_mask,
    causes={
        1 - RATE: "the scale 1 / (1 - rate) is missing",
        (1 - RATE) ** 2: "it is multiplied with 1 - rate, by which it must be divided",
        1 / (1 - RATE): "it is divided by 1 - rate twice",
        (1 - RATE) / RATE: "it is divided by rate, not by 1 - rate",
        (1 - RATE) * RATE: "it is multiplied with rate, not divided by 1 - rate",
    },
)
