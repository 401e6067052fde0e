"""Quantizable parameters, and trees of quantized parameters."""

import re

from npgpt.arrays import Array
from npgpt.errors import InputError
from npgpt.model.params import Params, map_leaves, named
from npgpt.quantized_matrix import QuantizedMatrix, bfloat16, int8

HEADS = "wte.weight", "lm_head.weight"  # names that the output head may have


def output_axis(name: str) -> int:
    """Return the axis of a matrix that is its output: 0 for the head (x @ wte.T), else 1.

    int8 stores one scale per output channel, a row (0) or a column (1).
    """
    return 0 if name in HEADS else 1


def is_quantizable(name: str) -> bool:
    """Return True if the named parameter may be quantized: a linear layer's weight, or the head.

    Position embeddings are excluded: they are small and enter by addition.
    """
    return name in HEADS or re.search(r"\.c_\w+\.weight$", name) is not None


def quantize_parameter(name: str, array: Array, kind: str) -> Array | QuantizedMatrix:
    """Return a parameter as it is stored in a model of this kind, "bfloat16" or "int8"."""
    if not is_quantizable(name):
        return array
    return bfloat16(array) if kind == "bfloat16" else int8(array, output_axis(name))


def quantize(tree: Params, kind: str) -> Params:
    """Return the tree with its matrices rounded to "bfloat16" or "int8". The rest is shared."""
    leaves = iter(list(named(tree)))
    return map_leaves(tree, lambda _: quantize_parameter(*next(leaves), kind))


def is_quantized(tree: Params) -> bool:
    """Return True if the matrices are quantized."""
    return isinstance(tree.wte.weight, QuantizedMatrix)


def kind_of(tree: Params) -> str:
    """Return how the matrices are stored: "bfloat16" or "int8", or the name of their dtype."""
    weight = tree.wte.weight
    return weight.kind if isinstance(weight, QuantizedMatrix) else weight.dtype.name


def require_float(tree: Params) -> None:
    """Raise InputError if a parameter is quantized: the steps of training are finer than int8's."""
    for name, leaf in named(tree):
        if isinstance(leaf, QuantizedMatrix):
            raise InputError(
                f"{name} is stored as {leaf.kind}, which is for generation and evaluation only: "
                'load the model with weights="float32"'
            )
