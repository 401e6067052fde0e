"""Exercises on training: a step of AdamW, clipping, the schedule of the learning rate."""

import numpy as np

from npgpt.arrays import Array
from npgpt.learn import sizes
from npgpt.learn.exercise import Arguments, Case, Exercise, Region
from npgpt.learn.sizes import Sizes

NUMBERS = {"lr": 0.1, "beta1": 0.8, "beta2": 0.95, "eps": 0.05, "weight_decay": 0.3}


def adamw_cases(s: Sizes) -> list[Case]:
    """Return the third step, and the first, whose moments are 0 before."""
    rng = sizes.rng("adamw")
    p, grad, m = (sizes.normal(rng, s.C, s.O) for _ in range(3))
    v = sizes.positive(rng, s.C, s.O)
    zero = {"m": np.zeros_like(m), "v": np.zeros_like(v)}
    return [
        Case({"p": p, "grad": grad, "m": m, "v": v, "step": 3, **NUMBERS}),
        Case({"p": p, "grad": grad, **zero, "step": 1, **NUMBERS}, about="the first step"),
    ]


def adamw_summands(a: Arguments) -> dict[str, dict[str, Array]]:
    """Return the terms of each line."""
    beta1, beta2, lr, step = a["beta1"], a["beta2"], a["lr"], a["step"]
    m = beta1 * a["m"] + (1 - beta1) * a["grad"]
    v = beta2 * a["v"] + (1 - beta2) * a["grad"] ** 2
    mhat, vhat = m / (1 - beta1**step), v / (1 - beta2**step)
    return {
        "m": {"beta1 * m": beta1 * a["m"], "(1 - beta1) * grad": (1 - beta1) * a["grad"]},
        "v": {"beta2 * v": beta2 * a["v"], "(1 - beta2) * grad**2": (1 - beta2) * a["grad"] ** 2},
        "p": {
            "the weight decay": -lr * a["weight_decay"] * a["p"],
            "the step along the gradient": -lr * mhat / (np.sqrt(vhat) + a["eps"]),
        },
    }


ADAMW = Exercise(
    name="adamw",
    title="AdamW: one step",
    results={"adamw": ("p", "m", "v")},
    axes={"p": "I O", "m": "I O", "v": "I O"},
    cases=adamw_cases,
    changes=("p", "m", "v"),
    summands=adamw_summands,
)


def clipping_cases(s: Sizes) -> list[Case]:
    """Return a norm above the limit, one below it, and gradients of very different size."""
    rng = sizes.rng("clipping")
    shapes = [(s.C, s.O), (s.C,), (3, 4, 5), (s.O,)][: 3 if s == sizes.USUAL else 4]
    gradients = [sizes.normal(rng, *shape) for shape in shapes]
    uneven = [gradients[0] * 0.01, gradients[1] * 0.01, gradients[2]]
    zero = [0 * grad for grad in gradients]
    return [
        Case({"gradients": gradients, "max_norm": 2.5}),
        Case({"gradients": gradients, "max_norm": 100.0}, about="a norm below max_norm"),
        Case({"gradients": uneven, "max_norm": 0.5}, about="arrays of different size"),
        Case({"gradients": zero, "max_norm": 0.5}, about="gradients that are all 0"),
    ]


CLIPPING = Exercise(
    name="clipping",
    title="Clipping: a global norm",
    results={"clip": ("gradients",)},
    axes={},
    kinds={"gradients": "a list of arrays"},
    cases=clipping_cases,
    tolerance=1e-5,
)

TOTAL, WARMUP = 13, 4


def schedule_cases(_: Sizes) -> list[Case]:
    """Return all steps of a run, and those of a run without a warm-up."""
    steps = list(range(TOTAL + 1))
    rates = {"peak": 0.7, "initial": 0.03, "lowest": 0.1}
    usual = {"step": steps, "total": TOTAL, "warmup": WARMUP, **rates}
    return [
        Case(usual, each="step"),
        Case(usual | {"warmup": 0}, each="step", about="a warm-up of 0 steps"),
    ]


def schedule_regions(a: Arguments) -> dict[str, list[Region]]:
    """Return the parts of the run."""
    step = np.arange(TOTAL + 1)
    return {
        "rate": [
            Region("the rates of the warm-up", step < a["warmup"]),
            Region("the rate at the end of the warm-up", step == a["warmup"]),
            Region("the rates of the cosine", step > a["warmup"]),
            Region(
                "the rates between the ends of the cosine", (step > a["warmup"]) & (step < TOTAL)
            ),
        ]
    }


SCHEDULE = Exercise(
    name="schedule",
    title="The learning rate: warm-up and cosine",
    results={"learning_rate": ("rate",)},
    axes={"rate": "step"},
    cases=schedule_cases,
    regions=schedule_regions,
)
