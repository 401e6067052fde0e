"""The gradients of parameters: the size of each, and that of a matrix as a sum over tokens."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from npgpt.arrays import Array, rows
from npgpt.errors import InputError, show
from npgpt.explain.backward import Backward
from npgpt.model.params import Params, named

AXES = {
    "wte.weight": ("token of the vocabulary", "channel"),
    "wpe.weight": ("position", "channel"),
    "lm_head.weight": ("token of the vocabulary", "channel"),
}


class Size(NamedTuple):
    """The gradient of one parameter beside the parameter."""

    name: str
    shape: tuple[int, ...]
    gradient: float  # root mean square of its numbers
    weight: float  # the same of the parameter
    ratio: float  # gradient / weight; nan if the parameter is 0
    largest: tuple[int, ...]  # index of the largest number of the gradient, in magnitude


def sizes(parameters: Params, gradients: Params) -> Iterator[Size]:
    """Yield the size of the gradient of every parameter, in the order of the checkpoint."""
    for (name, p), (_, g) in zip(named(parameters), named(gradients), strict=True):
        gradient, weight = root_mean_square(g), root_mean_square(p)
        extremes = int(g.argmax()), int(g.argmin())
        largest = np.unravel_index(max(extremes, key=lambda i: abs(g.flat[i])), g.shape)
        ratio = gradient / weight if weight else np.nan
        yield Size(name, p.shape, gradient, weight, ratio, tuple(int(i) for i in largest))


def root_mean_square(x: Array) -> float:
    """Return the root of the mean square of all numbers."""
    flat = x.reshape(-1)
    return float(np.sqrt(np.dot(flat, flat) / flat.size))


class Outer(NamedTuple):
    """The gradient of one matrix as a sum over tokens: gradient = sum_n outer(x_n, dy_n).

    N is the number of tokens T, or 2 T for a tied wte: its gradient as the output head comes first,
    then that as the embedding.
    """

    name: str
    x: Array  # (N, I), the inputs of the layer
    dy: Array  # (N, O), the gradient of its outputs
    gradient: Array  # (I, O)
    # A product's share is <outer(x_n, dy_n), gradient> / <gradient, gradient>. They sum to 1.
    shares: Array  # (N,) float64
    parts: tuple[str, ...]  # of T products each, the formula of one: "outer(dlogits, x)"
    axes: tuple[str, str]  # of the gradient: "input channel", "output channel"


def matrices(found: Backward) -> list[str]:
    """Return the names of the matrices of all blocks, in the order of the checkpoint."""
    return [
        name for name, _ in named(found.gradients) if name.removesuffix(".weight") in found.inputs
    ]


def sums(found: Backward) -> list[str]:
    """Return the names of all parameters whose gradient is a sum of outer products."""
    return matrices(found) + [name for name, _ in named(found.gradients) if name in AXES]


def outer(found: Backward, name: str) -> Outer:
    """Return the gradient of a matrix, "h.0.mlp.c_fc.weight", token by token."""
    if name not in sums(found):
        raise InputError(
            f"name is {show(name)}, but must be a matrix, such as {matrices(found)[0]}"
        )
    parts = list(products(found, name))
    x, dy = (np.concatenate([part[i] for part in parts]) for i in (1, 2))
    gradient = dict(named(found.gradients))[name]
    shares = ((x.astype(np.float64) @ gradient) * dy).sum(-1)
    total = shares.sum() or 1.0
    axes = AXES.get(name, ("input channel", "output channel"))
    return Outer(name, x, dy, gradient, shares / total, tuple(part[0] for part in parts), axes)


def products(found: Backward, name: str) -> Iterator[tuple[str, Array, Array]]:
    """Yield the parts of a gradient: formula, x (T, I) and dy (T, O).

    The matrices of the embeddings and the head are (rows, C), and x is on the other side: of the
    head it is the gradient of the logits, and of the embeddings it selects a row.
    """
    layer, T = name.removesuffix(".weight"), len(found.tokens)
    if layer in found.inputs:
        yield "outer(x, dy)", rows(found.inputs[layer]), rows(found.dactivations[layer])
        return
    if layer == "lm_head" or (layer == "wte" and found.gradients.lm_head is None):
        dlogits = found.probs.copy()
        dlogits[np.arange(T), found.targets] -= 1
        dlogits /= T
        yield "outer(dlogits, x)", dlogits, rows(found.activations["ln_f"])
    if layer != "lm_head":
        ids = found.tokens if layer == "wte" else np.arange(T)
        selected = np.zeros((T, len(getattr(found.gradients, layer).weight)), np.float32)
        selected[np.arange(T), ids] = 1
        what = "token" if layer == "wte" else "position"
        yield f"outer(onehot({what}), dx)", selected, rows(found.dactivations["embedding"])
