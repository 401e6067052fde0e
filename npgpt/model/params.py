"""All parameters by their checkpoint names, as one flat array with named views into it.

The tree spells the names of the released checkpoint: params.h[3].attn.c_attn.weight is
"h.3.attn.c_attn.weight". Gradients and both AdamW moments are the same tree on other
flat arrays. What a config leaves out (the head when it is tied, the query/key/value bias)
is None in the tree and has no name.
"""

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from npgpt import arrays
from npgpt.arrays import Array
from npgpt.config import Config
from npgpt.errors import InputError
from npgpt.ops import layernorm, linear
from npgpt.quantized_matrix import QuantizedMatrix


class Matrix(NamedTuple):
    weight: Array


class Attention(NamedTuple):
    c_attn: linear.Params  # (C, 3C): queries, keys and values side by side
    c_proj: linear.Params  # (C, C)


class MLP(NamedTuple):
    c_fc: linear.Params  # (C, 4C)
    c_proj: linear.Params  # (4C, C)


class Block(NamedTuple):
    ln_1: layernorm.Params
    attn: Attention
    ln_2: layernorm.Params
    mlp: MLP


class Params(NamedTuple):
    wte: Matrix  # (V, C)
    wpe: Matrix  # (T_max, C)
    h: tuple[Block, ...]
    ln_f: layernorm.Params
    lm_head: Matrix | None  # (V, C); None when the head is tied to wte


class Shape(tuple):
    """The shape of an array that is yet to be made: a leaf of the tree `shapes` returns."""


def shapes(config: Config) -> Params:
    """The tree, with a Shape wherever an array will be."""
    V, C = config.vocab_size, config.n_embd

    def dense(i, o, bias=True):
        return linear.Params(Shape((i, o)), Shape((o,)) if bias else None)

    norm = layernorm.Params(Shape((C,)), Shape((C,)))
    block = Block(
        ln_1=norm,
        attn=Attention(c_attn=dense(C, 3 * C, config.qkv_bias), c_proj=dense(C, C)),
        ln_2=norm,
        mlp=MLP(c_fc=dense(C, 4 * C), c_proj=dense(4 * C, C)),
    )
    return Params(
        wte=Matrix(Shape((V, C))),
        wpe=Matrix(Shape((config.context_length, C))),
        h=(block,) * config.n_layer,
        ln_f=norm,
        lm_head=None if config.tied else Matrix(Shape((V, C))),
    )


def size(config: Config) -> int:
    """How many numbers the parameters are."""
    return sum(math.prod(shape) for _, shape in named(shapes(config)))


def zeros(config: Config, dtype=np.float32) -> Params:
    """The tree of a config, every leaf a view into one flat array of zeros."""
    return _laid_out(shapes(config), dtype)


def zeros_like(tree: Params) -> Params:
    """The same tree on new zeros, flat likewise."""
    return _laid_out(map_leaves(tree, lambda array: Shape(array.shape)), tree.wte.weight.dtype)


def _laid_out(tree: Params, dtype) -> Params:
    """A tree of shapes on new zeros, which are pages that nobody has touched yet."""
    ends = [0, *itertools.accumulate(math.prod(shape) for _, shape in named(tree))]
    buffer, places = arrays.zeros(ends[-1], dtype), itertools.pairwise(ends)
    return map_leaves(tree, lambda shape: buffer[slice(*next(places))].reshape(shape))


def head(tree: Params) -> Array:
    """The output head's matrix (V, C): lm_head, or wte when they are tied."""
    return tree.wte.weight if tree.lm_head is None else tree.lm_head.weight


def crop(tree: Params, context_length: int) -> Params:
    """The tree of a model that reads shorter sequences: views, only wpe of another shape.

    Raises InputError for longer ones: nobody knows what stands at these positions.
    """
    longest = len(tree.wpe.weight)
    if context_length > longest:
        raise InputError(
            f"context_length is {context_length}, but there are positions for {longest}"
        )
    return tree._replace(wpe=Matrix(tree.wpe.weight[:context_length]))


def map_leaves(node, make: Callable) -> Any:
    """The same tree with `make(leaf)` for every leaf, in order."""
    if node is None:
        return None
    if is_leaf(node):
        return make(node)
    children = [map_leaves(child, make) for child in node]
    return tuple(children) if type(node) is tuple else type(node)(*children)


def named(node, prefix: str = "") -> Iterator[tuple[str, Array]]:
    """Yields ("h.3.attn.c_attn.weight", leaf) for every leaf, in order."""
    if node is None:
        return
    if is_leaf(node):
        yield prefix, node
        return
    names = getattr(node, "_fields", range(len(node)))
    for name, child in zip(names, node, strict=True):
        yield from named(child, f"{prefix}.{name}" if prefix else str(name))


def is_leaf(node) -> bool:
    """Is this an array, the shape of one, or a matrix in fewer bits?"""
    return isinstance(node, (np.ndarray, Shape, QuantizedMatrix))
