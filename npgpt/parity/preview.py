"""Reject mistakes of a large model early: in float32, by the first tensor that is far away.

A pass ends at that tensor, or at the first one that a mistake must explain. The head is most of a
small batch's work: if it is right, forward computes its loss alone, and backward begins with the
gradient that the right port has computed.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from npgpt.arrays import Array
from npgpt.ops import linear_cross_entropy
from npgpt.parity.budget import Task
from npgpt.parity.compute import compute, watch_passes
from npgpt.parity.mistakes import Mistake
from npgpt.parity.mistakes.variants import is_of_backward
from npgpt.parity.order import kind_of, stage_of
from npgpt.parity.port import RIGHT, Edit, Port

HEAD = "npgpt.ops.linear_cross_entropy"
FEW = 4  # tokens that are fed one by one
Near = Callable[[str, Array], bool]


class Enough(Exception):
    """The tensor that decides is computed."""


class Preview:
    """Passes of GPT-2 with mistakes in float32, as far as they are needed."""

    def __init__(self, task: Task):
        self.task = task
        self.indices = {name: i for i, name in enumerate(task.names)}
        self.right: dict[int, Array] = {}  # tensors of the right port by their index
        self.head: tuple[Array, int, Any] | None = None  # of the right one: x, weight, results
        self.own: object = None
        self.known: dict[tuple[tuple[Edit, ...], int], int | None] = {}  # of a port

    def rejects(
        self, chain: tuple[Mistake, ...], beyond: int, own: object, near: Near
    ) -> int | None:
        """Return the index of the first tensor up to `beyond` that is far away, None if none is.

        -1 if the mistakes cannot compute it. The last mistake must change the tensor `beyond`.
        """
        name = self.task.names[beyond]
        if own is not self.own:
            self.own, self.known = own, {}
        if name == "cached_logits":
            return self.decode(chain, beyond, near)
        if kind_of(name) not in ("act", "loss", "dact", "grad"):
            return None
        backwards = stage_of(name) == "backward"
        edits = tuple(edit for one in chain for edit in one.edits
                      if backwards or not is_of_backward(edit))  # fmt: skip
        key = edits, beyond  # of a mistake and of its variant, forward is the same
        if key not in self.known:
            if beyond not in self.right:
                self.compute(RIGHT, beyond, lambda name, x: True)
            port = Port(tuple(edit for one in chain for edit in one.edits))
            self.known[key] = self.compute(port, beyond, near, alone=len(chain) == 1)
        return self.known[key]

    def decode(self, chain: tuple[Mistake, ...], beyond: int, near: Near) -> int | None:
        """Return `beyond` if the logits of the first tokens, one by one, are far away."""
        probe = self.task.probe
        short = probe.with_batch(probe.tokens[:, :FEW], probe.targets[:, :FEW])
        port = Port(tuple(edit for one in chain for edit in one.edits))
        try:
            with np.errstate(all="ignore"):
                found = compute(port, short, {"cached_logits"}, dtype=np.float32)["cached_logits"]
        except MemoryError:  # is no property of the mistake
            raise
        except Exception:
            return -1
        return None if near("cached_logits", found) else beyond

    def compute(self, port: Port, beyond: int, near: Near, *, alone: bool = False) -> int | None:
        """Run a port up to a tensor, and return the index of the first one that is far away."""
        far: int | None = None
        is_right = port is RIGHT
        backwards = stage_of(self.task.names[beyond]) == "backward"

        def watch(name: str, x: Array) -> None:
            nonlocal far
            index = self.indices.get(name, beyond + 1)
            if index > beyond:
                return
            if index == beyond and is_right:
                self.right[beyond] = x.copy()
            same = alone and index == beyond and np.array_equal(x, self.right.get(index, np.inf))
            if same or not near(name, x):
                far = index
            if far is not None or index == beyond:
                raise Enough

        if not any(edit.module == HEAD for edit in port.edits):
            port = port.replace_op("linear_cross_entropy", **self.light_head(is_right, backwards))
        try:
            with np.errstate(all="ignore"):
                watch_passes(port, self.task.probe, watch, backwards=backwards,
                             with_logits="dact/logits" in self.indices,
                             masks=self.task.masks)  # fmt: skip
        except Enough:
            pass
        except MemoryError:  # is no property of the mistake
            raise
        except Exception:
            return -1
        return far

    def light_head(self, is_right: bool, backwards: bool) -> dict[str, Any]:
        """Return the functions of a right head, without the gradient of its weight."""

        def forward(x: Array, weight: Array, targets: Array, **options: Any) -> Any:
            if options.get("frozen"):  # for the gradient of the logits
                return linear_cross_entropy.forward(x, weight, targets, **options)
            if not backwards:
                return linear_cross_entropy.evaluate(x, weight, targets), None
            if self.head and weight.ctypes.data == self.head[1]:
                if np.array_equal(x, self.head[0]):
                    return self.head[2]
            found = linear_cross_entropy.forward(x, weight, targets)
            if is_right:
                self.head = x.copy(), weight.ctypes.data, found
            return found

        def backward(dloss: float, cache: Any, g: Array, **options: Any) -> Array:
            return cache.dx.copy()

        return {"forward": forward, "backward": backward}
