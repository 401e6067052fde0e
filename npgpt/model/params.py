"""All parameters by their checkpoint names, as one flat array with named views into it.

The tree has the names of the released checkpoint: params.h[3].attn.c_attn.weight is
"h.3.attn.c_attn.weight". Gradients and moments are the same tree on other flat arrays.
A parameter that a config leaves out (a tied head, the query/key/value bias) is None in the tree and
has no name, nor has a constant: the scale of a LoRA adapter is a float.
"""

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from npgpt import arrays
from npgpt.arrays import Array
from npgpt.config import Config
from npgpt.errors import InputError, show
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

    # copy and pickle would copy every view by itself: the copy is one flat array again

    def __deepcopy__(self, memo: dict) -> "Params":
        return copy(self)

    def __reduce__(self) -> tuple:
        return unpickle, tuple(self)


class Shape(tuple):
    """The shape of an array that does not exist yet: a leaf of the tree that `shapes` returns."""


def shapes(config: Config) -> Params:
    """Return the tree of a config, with a Shape in place of every array."""
    V, C = config.vocab_size, config.n_embd

    def leaf(*sizes: int) -> Any:
        return Shape(sizes)

    def dense(i: int, o: int, bias: bool = True) -> linear.Params:
        return linear.Params(leaf(i, o), leaf(o) if bias else None)

    norm = layernorm.Params(leaf(C), leaf(C))
    block = Block(
        ln_1=norm,
        attn=Attention(c_attn=dense(C, 3 * C, config.qkv_bias), c_proj=dense(C, C)),
        ln_2=norm,
        mlp=MLP(c_fc=dense(C, 4 * C), c_proj=dense(4 * C, C)),
    )
    return Params(
        wte=Matrix(leaf(V, C)),
        wpe=Matrix(leaf(config.context_length, C)),
        h=(block,) * config.n_layer,
        ln_f=norm,
        lm_head=None if config.tied else Matrix(leaf(V, C)),
    )


def size(config: Config) -> int:
    """Return the number of parameters."""
    return sum(math.prod(shape) for _, shape in named(shapes(config)))


def zeros(config: Config, dtype: Any = np.float32) -> Params:
    """Return the tree of a config: every leaf is a view into one flat array of zeros."""
    tree = shapes(config)
    return views(tree, arrays.zeros(total(tree), dtype))


def zeros_like(tree: Params) -> Params:
    """Return a tree of zeros with the names, shapes and dtype of another one.

    Parameters
    ----------
    tree : Params
        `model.params`, or a tree of gradients.

    Returns
    -------
    Params
        Views into one new flat array. Its memory is taken when it is first written to.

    Raises
    ------
    InputError
        If `tree` is not a complete tree.
    """
    if not isinstance(tree, Params):
        raise InputError(f"zeros_like takes a tree such as model.params, not {show(tree)}")
    empty = map_leaves(tree, lambda leaf: Shape(leaf.shape))
    return views(empty, arrays.zeros(total(empty), tree.wte.weight.dtype))


def check(tree: Params, shapes: Params) -> None:
    """Raise InputError unless a tree has these shapes, and all of one floating-point dtype."""
    if not isinstance(tree, Params):
        raise InputError(f"parameters must be a tree as in model.params, not {show(tree)}")
    expected, found = dict(named(shapes)), dict(named(tree))
    if expected.keys() != found.keys():
        name = min(expected.keys() ^ found.keys())
        raise InputError(f"the parameters have {'no' if name in expected else 'a'} {name}, "
                         "unlike their config")  # fmt: skip
    dtype = found["wte.weight"].dtype
    for name, leaf in found.items():
        if tuple(leaf.shape) != expected[name]:
            raise InputError(
                f"{name} is {tuple(leaf.shape)}, but its config makes it {tuple(expected[name])}"
            )
        if leaf.dtype != dtype or dtype not in (np.float32, np.float64):
            raise InputError(
                f"{name} is {leaf.dtype}, but all parameters must be float32, or all float64"
            )


def copy(tree: Params) -> Params:
    """Return an independent copy, flat unless the tree is quantized."""
    if isinstance(tree.wte.weight, QuantizedMatrix):
        return map_leaves(tree, lambda leaf: leaf.copy())
    twin = zeros_like(tree)
    for (_, destination), (_, leaf) in zip(named(twin), named(tree), strict=True):
        np.copyto(destination, leaf)
    return twin


def unpickle(*fields: Any) -> Params:
    """Return the tree of these fields as one flat array."""
    return copy(Params(*fields))


def views(tree: Params, flat: Array) -> Params:
    """Return a tree of Shapes as views into a flat array, one after the other."""
    ends = [0, *itertools.accumulate(math.prod(shape) for _, shape in named(tree))]
    slices = itertools.pairwise(ends)
    return map_leaves(tree, lambda shape: flat[slice(*next(slices))].reshape(shape))


def kept_shapes(shapes: Params, keep: Callable[[str, Shape], bool]) -> Params:
    """Return a tree of Shapes with an empty one where `keep(name, shape)` is False."""
    return map_named(shapes, lambda name, s: s if keep(name, s) else Shape((0,)))


def total(tree: Any) -> int:
    """Return the number of elements of all leaves, arrays or Shapes."""
    return sum(math.prod(getattr(leaf, "shape", leaf)) for _, leaf in named(tree))


def head(tree: Params) -> Array:
    """Return the output head's matrix (V, C): lm_head, or wte if the two are tied."""
    return tree.wte.weight if tree.lm_head is None else tree.lm_head.weight


def crop(tree: Params, context_length: int) -> Params:
    """Return the tree of a model with a shorter context: views, only `wpe` has another shape.

    Raises
    ------
    InputError
        If `context_length` exceeds the number of position embeddings.
    """
    longest = len(tree.wpe.weight)
    if context_length > longest:
        raise InputError(
            f"context_length is {context_length}, but there are positions for {longest}"
        )
    return tree._replace(wpe=Matrix(tree.wpe.weight[:context_length]))


def map_leaves(node: Any, make: Callable[[Any], Any]) -> Any:
    """Return the same tree with `make(leaf)` in place of every leaf, in order."""
    if node is None or isinstance(node, float):
        return node
    if is_leaf(node):
        return make(node)
    children = [map_leaves(child, make) for child in node]
    return tuple(children) if type(node) is tuple else type(node)(*children)


def map_named(tree: Params, make: Callable[[str, Any], Any]) -> Params:
    """Return the same tree with `make(name, leaf)` in place of every leaf, in order."""
    made = iter([make(name, leaf) for name, leaf in named(tree)])
    return map_leaves(tree, lambda _: next(made))


def named(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the name and the array of every leaf of a tree, in order.

    Parameters
    ----------
    node : Params
        A tree of parameters or gradients, or a part of one.
    prefix : str, default ""
        Put before every name, with a dot.

    Yields
    ------
    name : str
        "h.3.attn.c_attn.weight": the name in the released checkpoint.
    leaf : array
        The array itself, not a copy.

    Raises
    ------
    InputError
        If `node` is not a tree.
    """
    if not isinstance(prefix, str):
        raise InputError(f"prefix is {show(prefix)}, but must be a string")
    if node is None or isinstance(node, float):
        return
    if is_leaf(node):
        yield prefix, node
        return
    if not isinstance(node, tuple):
        raise InputError(f"named takes a tree such as model.params, not {show(node)}")
    names = getattr(node, "_fields", range(len(node)))
    for name, child in zip(names, node, strict=True):
        yield from named(child, f"{prefix}.{name}" if prefix else str(name))


def leaves(tree: Any) -> list[Array]:
    """Return the leaves in the order of `named`, faster than that finds their names."""
    found, stack = [], [tree]
    while stack:
        node = stack.pop()
        if isinstance(node, tuple) and not isinstance(node, Shape):
            stack.extend(reversed(node))
        elif node is not None and not isinstance(node, float):
            found.append(node)
    return found


def is_leaf(node: Any) -> bool:
    """Return True for an array, a Shape or a quantized matrix."""
    return isinstance(node, (np.ndarray, Shape, QuantizedMatrix))
