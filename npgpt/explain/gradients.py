"""The gradients of parameters: the size of each, and that of a matrix as a sum over tokens."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from npgpt.arrays import Array, rows
from npgpt.errors import InputError, show
from npgpt.explain.backward import Backward
from npgpt.model.params import Params, named


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
    """The gradient of one matrix as a sum over tokens: gradient = sum_t outer(x_t, dy_t)."""

    name: str
    x: Array  # (T, I), the inputs of the layer
    dy: Array  # (T, O), the gradient of its outputs
    gradient: Array  # (I, O)
    # A token's share is <outer(x_t, dy_t), gradient> / <gradient, gradient>. They sum to 1.
    shares: Array  # (T,) float64


def matrices(found: Backward) -> list[str]:
    """Return the names of the matrices of all blocks, in the order of the checkpoint."""
    return [
        name for name, _ in named(found.gradients) if name.removesuffix(".weight") in found.inputs
    ]


def outer(found: Backward, name: str) -> Outer:
    """Return the gradient of a block's matrix, "h.0.mlp.c_fc.weight", token by token."""
    if name not in matrices(found):
        raise InputError(
            f"name is {show(name)}, but must be a matrix of a block: {matrices(found)[0]}"
        )
    layer = name.removesuffix(".weight")
    x, dy = rows(found.inputs[layer]), rows(found.dactivations[layer])
    gradient = dict(named(found.gradients))[name]
    shares = ((x.astype(np.float64) @ gradient) * dy).sum(-1)
    return Outer(name, x, dy, gradient, shares / shares.sum())
