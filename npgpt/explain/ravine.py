"""Optimizers on a ravine, a function of two numbers: long, narrow, and not along the axes.

f(p) = (a u^2 + b v^2) / 2        with (u, v) = p, rotated by an angle
"""

from typing import Any, NamedTuple

import numpy as np

import npgpt.ops
from npgpt.arrays import Array
from npgpt.config import Config, TrainingConfig
from npgpt.errors import InputError
from npgpt.model import finite, inputs, params
from npgpt.model.params import Shape
from npgpt.training import optim

MOST_STEPS = 10_000
START = (-4.0, 1.5)
MATRIX = "h.0.attn.c_proj.weight"  # Muon's own


class Ravine(NamedTuple):
    along: float = 0.1  # curvature of its bottom
    across: float = 4.0  # curvature of its sides
    angle: float = 0.35  # of its bottom to the first axis, in radians


RAVINE = Ravine()


class Race(NamedTuple):
    path: Array  # (steps + 1, 2); it ends where numbers are no longer finite
    losses: Array  # (steps + 1,)


def hessian(ravine: Ravine) -> Array:
    """(2, 2): return the second derivatives of f, which are constant."""
    c, s = np.cos(ravine.angle), np.sin(ravine.angle)
    axes = np.array([[c, s], [-s, c]])
    return axes.T @ np.diag([ravine.along, ravine.across]) @ axes


def loss(ravine: Ravine, p: Array) -> Array:
    """(..., 2) -> (...)"""
    return 0.5 * ((p @ hessian(ravine)) * p).sum(-1)


@finite.ignore_overflow()
def race(
    training: TrainingConfig, steps: int, *, ravine: Ravine = RAVINE, start: Any = START
) -> Race:
    """Return the path of the optimizer in `training`. Muon takes the two numbers for a matrix."""
    if inputs.check_integer("steps", steps, least=1) > MOST_STEPS:
        raise InputError(f"steps is {steps}, but must be at most {MOST_STEPS}")
    shapes = shapes_of_two()
    tree, gradients = (params.views(shapes, np.zeros(2)) for _ in range(2))
    optimizer = optim.make(tree, training, ops=npgpt.ops)
    (p,), (g,) = ([leaf for leaf in params.leaves(t) if leaf.size] for t in (tree, gradients))
    p[0], curvature = start, hessian(ravine)
    path = [p[0].copy()]
    for _ in range(steps):
        np.matmul(p, curvature, out=g)
        optimizer.step(gradients)
        if not np.isfinite(p).all():
            break
        path.append(p[0].copy())
    found = np.array(path)
    return Race(found, loss(ravine, found))


def shapes_of_two() -> params.Params:
    """Return the Shapes of a model that is empty but for one matrix of a block, (1, 2)."""
    config = Config(vocab_size=1, context_length=1, n_layer=1, n_head=1, n_embd=1)
    shapes = params.kept_shapes(params.shapes(config), lambda name, shape: name == MATRIX)
    return params.map_leaves(shapes, lambda shape: Shape((1, 2)) if len(shape) == 2 else shape)
