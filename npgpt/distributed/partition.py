"""The slice of each rank: parameters, gradients and moments are cut alike (ZeRO-1).

A tree is one flat array (npgpt/model/params.py). Rank r owns the numbers from bounds[r] to
bounds[r + 1]: it sums their gradients, keeps their moments and updates them. Each leaf consists of
blocks of BLOCK numbers, and every bound is the start of a block, so that a block's sum of squares
does not depend on the number of ranks.

Rajbhandari et al. 2020, "ZeRO: Memory Optimizations Toward Training Trillion Parameter Models",
section 5.1: P_os, the optimizer's state is partitioned.
"""

import bisect
import math
from collections.abc import Callable

import numpy as np

from npgpt.arrays import Array
from npgpt.errors import InputError
from npgpt.model import params
from npgpt.model.params import Params, Shape

BLOCK = 1 << 16  # numbers; the norm's bits depend on it

Whole = Callable[[str, Shape], bool]  # by the name and the shape of a parameter


def flat_of(tree: Params) -> Array:
    """Return the flat array (n,) whose consecutive views are the leaves of a tree, not copied."""
    leaves = [leaf for leaf in params.leaves(tree) if leaf.size]
    address = start = leaves[0].ctypes.data
    for leaf in leaves:
        if leaf.ctypes.data != address or not leaf.flags.c_contiguous:
            raise InputError("the tree is not one flat array: copy it with npgpt.model.params.copy")
        address += leaf.nbytes
    first = leaves[0].reshape(-1)
    size = (address - start) // first.itemsize
    return np.lib.stride_tricks.as_strided(first, (size,))  # its base is the memory of all leaves


def nothing(name: str, shape: Shape) -> bool:
    """Allow a cut within every parameter."""
    return False


def matrices_of_blocks(name: str, shape: Shape) -> bool:
    """Keep a block's matrices on one rank each: Muon needs all numbers of a matrix."""
    return name.startswith("h.") and len(shape) == 2


def nearest(numbers: list[int], target: float) -> int:
    """Return the number that is nearest to `target`; the smaller one of two."""
    return min(numbers, key=lambda number: abs(number - target))


class Partition:
    """The bounds of `size` ranks in the trees of one model.

    Parameters
    ----------
    parameters : Params
        The tree, of arrays or of Shapes.
    size : int
        N, the number of ranks.
    whole : callable
        `whole(name, shape)` returns True for parameters that must not be cut.

    Attributes
    ----------
    bounds : (N + 1,) list of int
        Rank r owns the numbers from bounds[r] to bounds[r + 1] of the flat array.
    blocks : list of (int, int)
        Start and end of every block, in order.
    block_bounds : (N + 1,) list of int
        Rank r owns the blocks from block_bounds[r] to block_bounds[r + 1].
    """

    def __init__(self, parameters: Params, size: int, whole: Whole = nothing):
        self.shapes = params.map_leaves(parameters, lambda x: Shape(getattr(x, "shape", x)))
        self.size, self.blocks = size, []
        total = 0
        cuts: list[int] = []
        for name, shape in params.named(self.shapes):
            end = total + math.prod(shape)
            inside = range(total, end, BLOCK)
            self.blocks += [(start, min(start + BLOCK, end)) for start in inside]
            cuts += [total] if whole(name, shape) else inside
            total = end
        cuts.append(total)
        ideal = [total * r / size for r in range(size + 1)]
        self.bounds = [nearest(cuts, target) for target in ideal]
        starts = [start for start, _ in self.blocks]
        self.block_bounds = [bisect.bisect_left(starts, bound) for bound in self.bounds]

    def views(self, flat: Array, rank: int) -> Params:
        """Return the tree of a rank's numbers: views into the flat array of all.

        A leaf that the rank owns completely keeps its shape, a part of one is a vector, and a leaf
        of other ranks is empty.
        """
        low, high = self.bounds[rank : rank + 2]
        start = 0

        def part(shape: Shape) -> Array:
            nonlocal start
            begin, end = start, start + math.prod(shape)
            start = end
            if low <= begin and end <= high:
                return flat[begin:end].reshape(shape)
            return flat[max(begin, low) : max(begin, low, min(end, high))]

        return params.map_leaves(self.shapes, part)
