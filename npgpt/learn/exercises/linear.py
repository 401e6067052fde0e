"""Exercises on the linear layer: the gradients of its input, its weight and its bias."""

from npgpt.learn import sizes
from npgpt.learn.exercise import Arguments, Case, Exercise
from npgpt.learn.sizes import Sizes


def case(s: Sizes, *given: str) -> list[Case]:
    """Return the case in which the learner's function is given these arrays."""
    rng = sizes.rng("linear")
    drawn = {
        "dout": sizes.normal(rng, s.B, s.T, s.O),
        "x": sizes.normal(rng, s.B, s.T, s.C),
        "weight": sizes.normal(rng, s.C, s.O),
        "bias": sizes.normal(rng, s.O),
    }
    arguments = {one: drawn.pop(one) for one in given}
    return [Case(arguments, extra=drawn)]


def loss(a: Arguments) -> float:
    """Return the loss whose gradients the exercises ask for."""
    return float((a["dout"] * (a["x"] @ a["weight"] + a["bias"])).sum())


LINEAR_DX = Exercise(
    name="linear_dx",
    title="Linear layer: the gradient of the input",
    results={"linear_dx": ("dx",)},
    axes={"dx": "B T I"},
    cases=lambda s: case(s, "dout", "weight"),
    loss=loss,
    inputs={"dx": "x"},
    factors="B T O B*T",
)
LINEAR_DWEIGHT = Exercise(
    name="linear_dweight",
    title="Linear layer: the gradient of the weight",
    results={"linear_dweight": ("dweight",)},
    axes={"dweight": "I O"},
    cases=lambda s: case(s, "dout", "x"),
    loss=loss,
    inputs={"dweight": "weight"},
    factors="B T B*T",
)
LINEAR_DBIAS = Exercise(
    name="linear_dbias",
    title="Linear layer: the gradient of the bias",
    results={"linear_dbias": ("dbias",)},
    axes={"dbias": "O"},
    cases=lambda s: case(s, "dout"),
    loss=loss,
    inputs={"dbias": "bias"},
    factors="B T B*T",
)
