"""Which parameters may be quantized, and trees of quantized parameters."""

import re

from npgpt.arrays import Array
from npgpt.errors import InputError
from npgpt.model.params import Params, map_leaves, named
from npgpt.quantized_matrix import QuantizedMatrix, bfloat16, int8

HEADS = "wte.weight", "lm_head.weight"  # what the output head may be


def output_axis(name: str) -> int:
    """Which axis of this matrix is its output: the head computes x @ wte.T, all others x @ weight.

    That is the one of which int8 keeps a scale for every row (0) or column (1).
    """
    return 0 if name in HEADS else 1


def is_quantizable(name: str) -> bool:
    """Is this one of the matrices that may be kept in fewer bits? Positions are few, and added."""
    return name in HEADS or re.search(r"\.c_\w+\.weight$", name) is not None


def quantize_parameter(name: str, array: Array, kind: str) -> Array | QuantizedMatrix:
    """A parameter of a model whose matrices are kept as "bfloat16" or "int8"."""
    if not is_quantizable(name):
        return array
    return bfloat16(array) if kind == "bfloat16" else int8(array, output_axis(name))


def quantize(tree: Params, kind: str) -> Params:
    """The tree with its matrices rounded to "bfloat16" or "int8"; the rest is shared."""
    leaves = iter(list(named(tree)))
    return map_leaves(tree, lambda _: quantize_parameter(*next(leaves), kind))


def is_quantized(tree: Params) -> bool:
    """Are its matrices in fewer bits?"""
    return isinstance(tree.wte.weight, QuantizedMatrix)


def require_float(tree: Params) -> None:
    """Raises InputError for parameters in fewer bits: no step is fine enough for them to follow."""
    for name, leaf in named(tree):
        if isinstance(leaf, QuantizedMatrix):
            raise InputError(
                f"{name} is kept as {leaf.kind}, which is for generating and evaluating only: "
                'load the model with weights="float32"'
            )
