"""Exercises on what is made of several layers: the MLP, the block, the model."""

from typing import Any

import numpy as np

from npgpt.arrays import Array
from npgpt.learn import sizes
from npgpt.learn.exercise import Arguments, Case, Exercise
from npgpt.learn.exercises.embeddings import rows_of
from npgpt.learn.runner import LinearMap
from npgpt.learn.sizes import C, Sizes, V
from npgpt.ops import gelu


def mlp_cases(s: Sizes) -> list[Case]:
    """Return one case."""
    rng = sizes.rng("mlp")
    B, T, C, F = s.B, s.T, s.C, 4 * s.C
    x, c_fc, b_fc = sizes.normal(rng, B, T, C), sizes.normal(rng, C, F) / 4, sizes.normal(rng, F)
    h = x @ c_fc + b_fc
    a, cache = gelu.forward(h)
    arguments = {
        "dout": sizes.normal(rng, B, T, C),
        "x": x,
        "a": a,
        "slope": gelu.backward(np.ones_like(h), cache),
        "c_fc": c_fc,
        "c_proj": sizes.normal(rng, F, C),
    }
    return [Case(arguments, extra={"b_fc": b_fc, "b_proj": sizes.normal(rng, C)})]


def mlp_loss(a: Arguments) -> Any:
    """Return the loss of the whole forward pass."""
    hidden, _ = gelu.forward(a["x"] @ a["c_fc"] + a["b_fc"])
    return (a["dout"] * (hidden @ a["c_proj"] + a["b_proj"])).sum()


MLP_GRADIENTS = ("dx", "dc_fc", "db_fc", "dc_proj", "db_proj")
MLP = Exercise(
    name="mlp",
    title="The MLP: all of its gradients",
    results={"mlp_backward": MLP_GRADIENTS},
    axes=dict(zip(MLP_GRADIENTS, ("B T C", "C F", "F", "F C", "C"), strict=True)),
    cases=mlp_cases,
    loss=mlp_loss,
    inputs={name: name[1:] for name in MLP_GRADIENTS},
    factors="B T B*T",
)


# The layers of the block are linear maps: the chain rule sees no difference


def linear_map(rng: np.random.Generator, s: Sizes) -> LinearMap:
    """Return a backward pass that mixes the positions and channels of a sequence."""
    size = s.T * s.C
    return LinearMap(sizes.normal(rng, size, size) / size**0.5)


def forward(layer: LinearMap, x: Array) -> Array:
    """(B, T, C) -> (B, T, C): apply the layer whose backward pass is `layer`."""
    return LinearMap(layer.matrix.T)(x)


BLOCK_LAYERS = ("ln_1", "attention", "ln_2", "mlp")


def block_cases(s: Sizes) -> list[Case]:
    """Return one case."""
    rng = sizes.rng("block")
    layers = {name: linear_map(rng, s) for name in BLOCK_LAYERS}
    dout, x = (sizes.normal(rng, s.B, s.T, s.C) for _ in range(2))
    return [Case({"dout": dout, **layers}, extra={"x": x})]


def block_loss(a: Arguments) -> Any:
    """Return the loss of the block's forward pass."""
    x = a["x"]
    x = x + forward(a["attention"], forward(a["ln_1"], x))
    x = x + forward(a["mlp"], forward(a["ln_2"], x))
    return (a["dout"] * x).sum()


def block_summands(a: Arguments) -> dict[str, dict[str, Array]]:
    """Return the gradients of the four paths through the block."""
    dout = a["dout"]
    via_mlp = a["ln_2"](a["mlp"](dout))
    return {
        "dx": {
            "the path around both layers": dout,
            "the path through the MLP, around attention": via_mlp,
            "the path through attention, around the MLP": a["ln_1"](a["attention"](dout)),
            "the path through attention and the MLP": a["ln_1"](a["attention"](via_mlp)),
        }
    }


BLOCK = Exercise(
    name="block",
    title="The block: residual connections",
    results={"block_backward": ("dx",)},
    axes={"dx": "B T C"},
    cases=block_cases,
    loss=block_loss,
    inputs={"dx": "x"},
    summands=block_summands,
)


def model_cases(s: Sizes) -> list[Case]:
    """Return one case with three blocks."""
    rng = sizes.rng("model")
    parts = {
        "tokens": sizes.tokens(rng, s),
        "wte": sizes.normal(rng, s.V, s.C),
        "wpe": sizes.normal(rng, s.T_MAX, s.C),
        "ln_f": linear_map(rng, s),
        "blocks": [linear_map(rng, s) for _ in range(3 if s == sizes.USUAL else 4)],
    }
    arguments = {
        "dlogits": sizes.normal(rng, s.B, s.T, s.V),
        "hidden": model_hidden(parts),
        "tokens": parts["tokens"],
        "wte": parts["wte"],
        "T_max": s.T_MAX,
        "ln_f": parts["ln_f"],
        "blocks": parts["blocks"],
    }
    return [Case(arguments, extra={"wpe": parts["wpe"]})]


def model_hidden(a: Arguments) -> Array:
    """(B, T) -> (B, T, C): the input of the output head."""
    x: Array = a["wte"][a["tokens"]] + a["wpe"][: a["tokens"].shape[1]]
    for block in a["blocks"]:
        x = forward(block, x)
    return forward(a["ln_f"], x)


def model_summands(a: Arguments) -> dict[str, dict[str, Array]]:
    """Return the gradients of the two uses of wte."""
    head = a["dlogits"].reshape(-1, V).T @ a["hidden"].reshape(-1, C)
    dx = a["ln_f"](a["dlogits"] @ a["wte"])
    for block in reversed(a["blocks"]):
        dx = block(dx)
    embedding = np.zeros((V, C))
    np.add.at(embedding, a["tokens"], dx)
    return {"dwte": {"the head's gradient": head, "the embedding's gradient": embedding}}


MODEL = Exercise(
    name="model",
    title="The model: from the logits to the embeddings",
    results={"model_backward": ("dwte", "dwpe")},
    axes={"dwte": "V C", "dwpe": "T_max C"},
    cases=model_cases,
    loss=lambda a: (a["dlogits"] * (model_hidden(a) @ a["wte"].T)).sum(),
    inputs={"dwte": "wte", "dwpe": "wpe"},
    summands=model_summands,
    regions=lambda a: {"dwte": rows_of(a["tokens"])},
    factors="B T B*T",
)
