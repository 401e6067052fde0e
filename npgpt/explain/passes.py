"""Both passes through one text in float64, layer by layer.

Kept are the residual stream between the layers, and the gradient of the loss with respect to it.
The blocks are cast to float64 one by one, into the same memory.
"""

import itertools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from npgpt.arrays import Array, rows
from npgpt.backends import Backend
from npgpt.explain.backward import Progress
from npgpt.explain.stream import check_text
from npgpt.gpt import GPT
from npgpt.model import block, finite
from npgpt.model.params import Matrix, head, map_leaves, named
from npgpt.model.quantize import require_float
from npgpt.ops.embedding import Params as Embedding

ROWS = 2048  # tokens that are computed at once, which limits the memory


class Embeddings(NamedTuple):
    wte: Matrix
    wpe: Matrix


class Passes:
    """The forward pass of a text, and its backward pass down to the lowest layer asked for.

    Layers are numbered: 0 is the embedding, then come the blocks, the last LayerNorm, and the head.
    `ops`: the backend that computes, by default the model's own.

    Attributes, once `read` has run: `loss`; `outputs` (1, T, C) of all layers below the head;
    `gradients`, d(loss)/d(output), from the top; `head` (V, C).
    """

    loss: float
    head: Array

    def __init__(self, model: GPT, tokens: Any, *, ops: Backend | None = None):
        require_float(model.params)
        ids = check_text(model, tokens, least=2, targeted=True)
        self.tokens, self.targets = ids[None, :-1], ids[None, 1:]
        self.model, p = model, model.params
        self.ops = by_rows(model.ops if ops is None else ops)
        self.layers: list[Any] = [Embeddings(p.wte, p.wpe), *p.h, p.ln_f]
        self.last = len(self.layers) - 1
        self.prefixes = ["", *(f"h.{i}" for i in range(len(p.h))), "ln_f"]
        self.outputs: list[Array] = []
        self.gradients: list[Array] = []
        self.buffers: dict[Any, Array] = {}
        self.watch("wte.weight", None, 0)

    def watch(self, name: str, progress: Progress | None, calls: int) -> None:
        """Report every layer that is computed from now on, until `losses` was called `calls` times.

        progress : called with the number of layers computed, and of all; what it raises ends the
            computation
        """
        number = self.layer_of(name)
        forward = 0 if self.gradients else self.last + 2
        backward = max(0, self.last + 1 - number - max(1, len(self.gradients)))
        self.progress, self.done = progress, 0
        self.total = forward + backward + 1 + calls * (self.last + 2 - number)

    def report(self) -> None:
        """Report that one more layer is computed."""
        self.done += 1
        if self.progress is not None:
            self.progress(min(self.done, self.total), self.total)

    def read(self) -> None:
        """Compute the outputs, the loss, and its gradient with respect to the input of the head.

        Do nothing the second time. Raises RunError if the loss is not finite.
        """
        if self.gradients:
            return
        self.head = head(self.model.params).astype(np.float64)
        x: Any = None
        self.outputs = []
        for number in range(len(self.layers)):
            x, _ = self.forward(number, self.cast(number), x)
            self.outputs.append(x)
            self.report()
        op = self.ops.linear_cross_entropy
        value, cache = op.forward(x, self.head, self.targets, frozen=True)
        if not np.isfinite(value):
            raise finite.error(f"the loss is {value}", self.model.params, self.model.path)
        self.loss = float(value)
        self.gradients.append(op.backward(1.0, cache, None))
        self.report()

    def cast(self, number: int) -> Any:
        """Return the parameters of a layer in float64, until those of the next one are cast."""
        if number == 0:
            wte, wpe = self.layers[0]
            tied = self.model.config.tied
            return Embeddings(
                Matrix(self.head if tied else wte.weight.astype(np.float64)),
                Matrix(wpe.weight.astype(np.float64)),
            )
        numbers = itertools.count()

        def copy(leaf: Array) -> Array:
            key = next(numbers), leaf.shape
            if key not in self.buffers:
                self.buffers[key] = np.empty(leaf.shape)
            np.copyto(self.buffers[key], leaf)
            return self.buffers[key]

        return map_leaves(self.layers[number], copy)

    def forward(self, number: int, p: Any, x: Array) -> tuple[Array, Any]:
        """(B, T, C) -> (B, T, C), Cache: compute a layer with these parameters."""
        if number == 0:
            return self.ops.embedding.forward(self.tokens, Embedding(p.wte.weight, p.wpe.weight))
        if number == self.last:
            return self.ops.layernorm.forward(x, p)
        return block.forward(x, p, n_head=self.model.config.n_head, ops=self.ops)

    def backward(self, number: int, p: Any, g: Any) -> Any:
        """Compute a layer anew and go back through it. Write `g`; return (1, T, C), None for 0."""
        dout = self.gradient_of_output(number)
        _, cache = self.forward(number, p, self.outputs[number - 1])
        if number == 0:
            return self.ops.embedding.backward(dout, cache, Embedding(g.wte.weight, g.wpe.weight))
        if number == self.last:
            return self.ops.layernorm.backward(dout, cache, g)
        return block.backward(dout, cache, g, ops=self.ops)

    def gradient_of_output(self, number: int) -> Array:
        """Return d(loss)/d(output) of a layer (1, T, C), from the top down to it."""
        while (reached := self.last + 1 - len(self.gradients)) > number:  # its output has one
            p = self.cast(reached)
            self.gradients.append(self.backward(reached, p, map_leaves(p, lambda leaf: None)))
            self.report()
        return self.gradients[self.last - number]

    def layer_of(self, name: str) -> int:
        """Return the number of the layer, the lowest one, that has a parameter."""
        first, *others = name.split(".")
        if first == "h":
            return 1 + int(others[0])
        return {"ln_f": self.last, "lm_head": self.last + 1}.get(first, 0)

    def is_head(self, name: str) -> bool:
        """Return True for the matrix of the output head, which may be that of the embedding."""
        return name == ("wte.weight" if self.model.config.tied else "lm_head.weight")

    def gradient(self, name: str) -> Array:
        """Return the gradient of the loss with respect to a parameter."""
        number, found = self.layer_of(name), np.empty(0)
        if self.is_head(name):
            found = np.zeros(self.head.shape)
            op = self.ops.linear_cross_entropy
            _, cache = op.forward(self.outputs[-1], self.head, self.targets, dweight=found)
            op.backward(1.0, cache, found)
        if number <= self.last:
            self.gradient_of_output(number)  # casts the layers above
            p = self.cast(number)
            g = map_leaves(p, lambda leaf: np.zeros(leaf.shape))  # touches no page
            if self.is_head(name):  # the embedding adds to the gradient of the head
                g = g._replace(wte=Matrix(found))
            self.backward(number, p, g)
            found = dict(named(g, self.prefixes[number]))[name]
        self.report()
        return found

    def losses(self, name: str, index: tuple[int, ...], offsets: Array) -> Array:
        """(n,) -> (n,): return the losses with each offset added to one number of a parameter.

        The layer that has the parameter is computed for each offset, and those above it for all at
        once.
        """
        most = max(1, ROWS // self.tokens.size)
        parts = [offsets[i : i + most] for i in range(0, len(offsets), most)]
        return np.concatenate([self.losses_at_once(name, index, part) for part in parts])

    def losses_at_once(self, name: str, index: tuple[int, ...], offsets: Array) -> Array:
        """(n,) -> (n,)"""
        number = self.layer_of(name)
        if number > self.last:
            x = np.repeat(self.outputs[-1], len(offsets), 0)
        else:
            p, below = self.cast(number), self.outputs[number - 1]
            array = dict(named(p, self.prefixes[number]))[name]
            moved = nudged(array, index, offsets, lambda i: self.forward(number, p, below)[0])
            x = np.concatenate(moved)
            self.report()
        for above in range(number + 1, self.last + 1):
            x, _ = self.forward(above, self.cast(above), x)
            self.report()
        if self.is_head(name):
            found = np.concatenate(
                nudged(self.head, index, offsets, lambda i: self.log_probs(x[i : i + 1]))
            )
        else:
            found = self.log_probs(x)
        self.report()
        return -found.mean(-1)

    def log_probs(self, x: Array) -> Array:
        """(B, T, C) -> (B, T): return the log-probabilities of the targets."""
        targets = np.repeat(self.targets, len(x), 0)
        return self.ops.linear_cross_entropy.log_probs(x, self.head, targets)[0]


def nudged(
    array: Array, index: tuple[int, ...], offsets: Array, compute: Callable[[int], Array]
) -> list[Array]:
    """Return compute(i) with the i-th offset added to one number of an array."""
    value, found = array[index], []
    try:
        for i, offset in enumerate(offsets):
            array[index] = value + offset
            found.append(compute(i))
    finally:
        array[index] = value
    return found


def by_rows(ops: Backend) -> Any:
    """Return a backend whose linear layers multiply all rows at once.

    NumPy multiplies the matrices of a batch one by one, and reads the weights for each.
    """

    def forward(x: Array, p: Any) -> tuple[Array, Any]:
        out, cache = ops.linear.forward(rows(x), p)
        return out.reshape(*x.shape[:-1], -1), cache

    def backward(dout: Array, cache: Any, g: Any) -> Array:
        return ops.linear.backward(rows(dout), cache, g).reshape(*dout.shape[:-1], -1)

    names = "embedding", "layernorm", "attention", "dropout", "gelu", "linear_cross_entropy"
    linear = SimpleNamespace(forward=forward, backward=backward)
    return SimpleNamespace(linear=linear, **{name: getattr(ops, name) for name in names})
