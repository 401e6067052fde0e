"""Low-rank adapters in a tree of parameters: added to linear layers, and merged into them.

A layer with an adapter is `npgpt.ops.lora.Params` in place of `npgpt.ops.linear.Params`.
"""

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import numpy as np

from npgpt.arrays import Array
from npgpt.config import Config, TrainingConfig
from npgpt.config_checks import ADAPTERS
from npgpt.errors import InputError, show
from npgpt.model import params
from npgpt.model.backend import Distributions
from npgpt.model.initializers import fill_dense
from npgpt.model.inputs import check_integer, check_number
from npgpt.model.params import Block, Params, Shape
from npgpt.ops import linear
from npgpt.ops.lora import Params as Adapted

LAYERS = "attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"  # of a block
TARGETS = ("c_attn",)  # the default: queries, keys and values
TRAINABLE = (ADAPTERS,)  # the patterns of a model whose adapters alone are trained


class Adapters(NamedTuple):
    """The adapters of a model."""

    layers: tuple[str, ...]  # of each block, among LAYERS
    rank: int  # R
    scale: float  # alpha / R

    def are_on(self, name: str) -> bool:
        """Return True if the parameter of this name, such as "h.0.attn.c_attn.weight", has one."""
        return name.endswith(tuple(f".{layer}.weight" for layer in self.layers))


def adapters_of(rank: int, alpha: float | None, targets: Sequence[str]) -> Adapters:
    """Return the adapters of this rank and alpha. Raise InputError if an argument is invalid."""
    rank = check_integer("rank", rank, least=1)
    scale = 1.0 if alpha is None else check_number("alpha", alpha, least=0) / rank
    return Adapters(layers_of((targets,) if isinstance(targets, str) else targets), rank, scale)


def of_run(training: TrainingConfig) -> Adapters | None:
    """Return the adapters of a run, None if it has none."""
    if training.lora_rank is None:
        return None
    return adapters_of(training.lora_rank, training.lora_alpha, training.lora_targets)


def check(tree: Params, config: Config) -> None:
    """Raise InputError unless this is the tree of a config, with or without adapters."""
    adapters = find(tree) if isinstance(tree, Params) else None
    params.check(tree, shapes(params.shapes(config), adapters))


def layers_of(targets: Sequence[str]) -> tuple[str, ...]:
    """Return the layers that the targets name: "c_attn", "attn", "mlp.c_fc", or "*" for all.

    Raises InputError if a target names none.
    """
    found = set[str]()
    for target in targets:
        matches = {layer for layer in LAYERS if matches_layer(layer, target)}
        if not matches:
            raise InputError(
                f"the LoRA target {show(target)} names no layer: the layers of a block are "
                f"{', '.join(LAYERS)}"
            )
        found |= matches
    if not found:
        raise InputError("there is no LoRA target: name at least one layer, such as c_attn")
    return tuple(layer for layer in LAYERS if layer in found)


def matches_layer(layer: str, target: Any) -> bool:
    """Return True if a target names a layer, the part of the block it is in, or its last name."""
    names = layer, *layer.split(".")
    return isinstance(target, str) and any(fnmatchcase(name, target) for name in names)


def add(tree: Params, adapters: Adapters, make: Callable[[int, int], Any]) -> Params:
    """Return the tree with adapters, whose matrices are `make(rows, columns)`. The rest is shared.

    Raises InputError if it has adapters already.
    """

    def adapt(p: linear.Params) -> Any:
        if isinstance(p, Adapted):
            raise InputError("the model has LoRA adapters already: merge them first")
        I, O = getattr(p.weight, "shape", p.weight)
        a, b = make(I, adapters.rank), make(adapters.rank, O)
        return Adapted(*p, lora_a=a, lora_b=b, scale=adapters.scale)

    return replace_layers(tree, adapters.layers, adapt)


def draw(tree: Params, adapters: Adapters, rng: Distributions) -> Params:
    """Return the tree with new adapters: A is PyTorch's default of a linear layer, B is zero.

    Thus the model is unchanged at first. A is kaiming_uniform(a=sqrt(5)), as in the paper's code.
    """
    dtype = tree.wte.weight.dtype
    tree = add(tree, adapters, lambda rows, columns: np.zeros((rows, columns), dtype))
    for block in tree.h:
        for layer in adapters.layers:
            fill_dense(layer_of(block, layer).lora_a, None, rng)
    return tree


def shapes(tree: Params, adapters: Adapters | None) -> Params:
    """Return a tree of Shapes with those of the adapters, unless it has them already."""
    if adapters is None or find(tree) is not None:
        return tree
    return add(tree, adapters, lambda *sizes: Shape(sizes))


def find(tree: Params) -> Adapters | None:
    """Return the adapters of a tree, None if it has none."""
    layers = tuple(name for name in LAYERS if isinstance(layer_of(tree.h[0], name), Adapted))
    if not layers:
        return None
    first = layer_of(tree.h[0], layers[0])
    return Adapters(layers, getattr(first.lora_a, "shape", first.lora_a)[1], first.scale)


def merge(tree: Params) -> Params:
    """Return the tree with weight + scale * A @ B in place of adapters. The rest is shared."""
    adapters = find(tree)
    if adapters is None:
        return tree
    return replace_layers(
        tree, adapters.layers, lambda p: linear.Params(merged_weight(*p[:1], *p[2:]), p.bias)
    )


def merged_weight(weight: Array, a: Array, b: Array, scale: float) -> Array:
    """(I, O), (I, R), (R, O) -> (I, O): added up in float64, and rounded once."""
    exact = a.astype(np.float64) @ b.astype(np.float64)
    return (weight + scale * exact).astype(weight.dtype)


def without(tree: Params) -> Params:
    """Return the tree without its adapters: the parameters of the model that was adapted."""
    adapters = find(tree)
    layers = () if adapters is None else adapters.layers
    return replace_layers(tree, layers, lambda p: linear.Params(p.weight, p.bias))


def replace_layers(
    tree: Params, layers: Sequence[str], make: Callable[[Any], linear.Params]
) -> Params:
    """Return the tree with `make(layer)` in place of these layers of every block."""

    def of(block: Block) -> Block:
        for name in layers:
            part, layer = name.split(".")
            half = getattr(block, part)
            half = half._replace(**{layer: make(getattr(half, layer))})
            block = block._replace(**{part: half})
        return block

    return tree._replace(h=tuple(map(of, tree.h)))


def layer_of(block: Block, name: str) -> Any:
    """Return a layer of a block by its name, "attn.c_attn"."""
    part, layer = name.split(".")
    return getattr(getattr(block, part), layer)
