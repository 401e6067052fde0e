"""Trainable and frozen parameters, by patterns of their names.

Within backward, the gradient of a frozen parameter is None: it is not computed. Outside, it is an
array of zeros that takes no memory.
"""

from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from npgpt import arrays
from npgpt.arrays import Array
from npgpt.errors import InputError, show
from npgpt.model.params import Params, Shape, leaves, map_leaves, map_named, named, total, views

ALL: tuple[str, ...] = ("*",)  # the patterns of a model without frozen parameters


def names_of(tree: Params, patterns: Iterable[str]) -> frozenset[str]:
    """Return the names that the patterns match. A pattern may name a layer or a parameter.

    Raises
    ------
    InputError
        If a pattern is not a string or matches nothing, or if there is none.
    """
    names, found = [name for name, _ in named(tree)], set[str]()
    for pattern in patterns:
        if not isinstance(pattern, str):
            raise InputError(f"a pattern is {show(pattern)}, but must be a string")
        both = pattern, f"{pattern}.*"
        matches = [name for name in names if any(fnmatchcase(name, one) for one in both)]
        if not matches:
            raise InputError(
                f"the pattern {show(pattern)} matches no parameter: names are such as {names[0]}, "
                "h.0.attn.c_attn.weight and ln_f.bias"
            )
        found.update(matches)
    if not found:
        raise InputError('no parameter is trainable: give at least one pattern, such as "ln_f"')
    return frozenset(found)


def select(tree: Params, names: frozenset[str]) -> Params:
    """Return the tree with None in place of every leaf that is not in `names`."""
    if all(name in names for name, _ in named(tree)):
        return tree
    return map_named(tree, lambda name, leaf: leaf if name in names else None)


def with_zeros(g: Params, like: Params) -> Params:
    """Return the tree with zeros in place of None, read-only and without memory.

    `like` : the complete tree, whose shapes and dtypes these have.
    """
    found = dict(named(g))
    if len(found) == len(leaves(like)):
        return g
    return map_named(like, lambda name, leaf: found[name] if name in found else zeros(leaf))


def zeros(leaf: Array) -> Array:
    """Return zeros of an array's shape and dtype: one number, seen at every index."""
    return np.broadcast_to(leaf.dtype.type(0), leaf.shape)


def zeros_like(tree: Params, patterns: tuple[str, ...]) -> Params:
    """Return a tree of zeros for gradients, with memory only for parameters that are trained."""
    shapes = map_leaves(tree, lambda leaf: Shape(leaf.shape))
    kept = select(shapes, names_of(tree, patterns))
    return with_zeros(views(kept, arrays.zeros(total(kept), tree.wte.weight.dtype)), tree)


def only(tree: Params, patterns: tuple[str, ...] | None) -> Params:
    """Return the tree with an empty array, or Shape, in place of every frozen parameter."""
    if patterns is None:
        return tree
    names = names_of(tree, patterns)
    return map_named(tree, lambda name, leaf: leaf if name in names else empty(leaf))


def empty(leaf: Array | Shape) -> Array | Shape:
    """Return an empty Shape, or an empty view of an array."""
    return Shape((0,)) if isinstance(leaf, Shape) else leaf.reshape(-1)[:0]


def is_frozen(gradient: Array) -> bool:
    """Return True for the gradient of a frozen parameter, as `with_zeros` makes it."""
    return not any(gradient.strides)


def trained(gradients: Params) -> Params:
    """Return the tree with None in place of the zeros of `with_zeros`, which are of no norm."""
    return map_leaves(gradients, lambda leaf: None if is_frozen(leaf) else leaf)


def is_trained(node: Any) -> bool:
    """Return True if any parameter of a node is trained, by its gradients."""
    return bool(leaves(node))
