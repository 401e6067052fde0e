"""Reject mistakes of a large model early: in float32, by the first tensor that is far away.

A pass ends at that tensor, or at the first one that a mistake must explain. The head is most of a
small batch's work: if it is right, forward computes its loss alone, and backward begins with the
gradient that the right port has computed.
"""

from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np

from npgpt.arrays import Array
from npgpt.model import transformer
from npgpt.model.params import head
from npgpt.ops import linear_cross_entropy
from npgpt.parity.budget import Task
from npgpt.parity.compute import Masks, compute, config_of, watch_passes
from npgpt.parity.mistakes import Mistake
from npgpt.parity.mistakes.variants import is_of_backward
from npgpt.parity.order import kind_of, stage_of
from npgpt.parity.port import RIGHT, Edit, Port, backend

HEAD, STEPS = "npgpt.ops.linear_cross_entropy", "npgpt.parity.steps"
TIE = f"{STEPS}:tie"
CLOSE = 2  # budgets of the right port's: a tensor that a mistake reproduces is within them
FEW = 4  # tokens that are fed one by one
Near = Callable[..., bool]  # of a tensor's name and numbers, and a limit in budgets


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
                self.compute(RIGHT, beyond, beyond, lambda *tensor: True)
            self.known[key] = self.compute(Port(edits), beyond, beyond, near)
        if (far := self.known[key]) is not None or self.last <= beyond:
            return far
        # it is near up to there: does it reproduce what follows?
        port = Port(tuple(edit for one in chain for edit in one.edits))
        return self.compute(port, beyond, self.last, near)

    @property
    def last(self) -> int:
        """The index of the last tensor of the backward pass."""
        return max((i for i, name in enumerate(self.task.names) if stage_of(name) == "backward"),
                   default=-1)  # fmt: skip

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

    def compute(self, port: Port, beyond: int, end: int, near: Near) -> int | None:
        """Run a port up to the tensor `end`, and return the index of the first one that is far.

        `beyond` if this tensor is that of the right port, or if it is not close, and a later one
        is far.
        """
        far: int | None = None
        is_right, is_close = port is RIGHT, True
        backwards = stage_of(self.task.names[end]) == "backward"

        def watch(name: str, x: Array) -> None:
            nonlocal far, is_close
            index = self.indices.get(name, end + 1)
            if index > end:
                return
            if index == beyond:
                if is_right:
                    self.right[beyond] = x.copy()
                elif np.array_equal(x, self.right[beyond]):
                    far = beyond
                is_close = near(name, x, CLOSE)
            if far is None and not near(name, x):
                far = index if is_close else min(index, beyond)
            if far is not None or index == end:
                raise Enough

        try:
            if self.task.names[end] == "loss" and port.edits and all(map(is_of_head, port.edits)):
                watch("loss", np.asarray(self.loss(port)))
            if not any(edit.module == HEAD for edit in port.edits):
                port = port.replace_op(
                    "linear_cross_entropy", **self.light_head(is_right, backwards)
                )
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

    @cached_property
    def hidden(self) -> Array:
        """The input of the right port's head."""
        probe, masks = self.task.probe, self.task.masks
        config = config_of(probe, masks)
        ops, rng = backend(RIGHT.modules()), Masks(masks, config) if masks else None
        return transformer.hidden_forward(probe.params, probe.tokens, config, rng=rng, ops=ops)[0]

    def loss(self, port: Port) -> np.floating:
        """Return the loss of a port that is wrong in its targets or its head alone."""
        modules, probe = port.modules(), self.task.probe
        targets = modules[STEPS].labels(probe.tokens, probe.targets)
        return modules[HEAD].forward(self.hidden, head(probe.params), targets, frozen=True)[0]

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
            found = linear_cross_entropy.forward(x, weight, targets, frozen=True)
            if is_right:
                self.head = x.copy(), weight.ctypes.data, found
            return found

        def backward(dloss: float, cache: Any, g: Array, **options: Any) -> Array:
            return cache.dx.copy()

        return {"forward": forward, "backward": backward}


def is_of_head(edit: Edit) -> bool:
    """Return True for an edit of the head with the loss, or of the steps around the model."""
    return edit.module in (HEAD, STEPS) and edit.where != TIE
