"""Exercises on the linear layer: the gradients of its input, its weight and its bias."""

from npgpt.learn import sizes
from npgpt.learn.exercise import Arguments, Case, Exercise
from npgpt.learn.sizes import B, C, O, T


def case(*given: str) -> list[Case]:
    """Return the case in which the learner's function is given these arrays."""
    rng = sizes.rng("linear")
    drawn = {
        "dout": sizes.normal(rng, B, T, O),
        "x": sizes.normal(rng, B, T, C),
        "weight": sizes.normal(rng, C, O),
        "bias": sizes.normal(rng, O),
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
    cases=lambda: case("dout", "weight"),
    loss=loss,
    inputs={"dx": "x"},
    factors="B T O B*T",
)
LINEAR_DWEIGHT = Exercise(
    name="linear_dweight",
    title="Linear layer: the gradient of the weight",
    results={"linear_dweight": ("dweight",)},
    axes={"dweight": "I O"},
    cases=lambda: case("dout", "x"),
    loss=loss,
    inputs={"dweight": "weight"},
    factors="B T B*T",
)
LINEAR_DBIAS = Exercise(
    name="linear_dbias",
    title="Linear layer: the gradient of the bias",
    results={"linear_dbias": ("dbias",)},
    axes={"dbias": "O"},
    cases=lambda: case("dout"),
    loss=loss,
    inputs={"dbias": "bias"},
    factors="B T B*T",
)
