"""The backward pass of GPT-2, step by step: each op, the gradient that arrives, and its code.

The model's own backward runs, on a backend that records every call.
"""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

import npgpt.ops
from npgpt.arrays import Array
from npgpt.backends import Backend
from npgpt.config import Config
from npgpt.explain import op_source
from npgpt.explain.op_source import Code
from npgpt.explain.readout import distribution
from npgpt.explain.stream import check_text
from npgpt.gpt import GPT
from npgpt.model import finite, trace, transformer
from npgpt.model.params import Params, named, zeros_like
from npgpt.model.quantize import require_float

Progress = Callable[[int, int], Any]  # of calls, how many are done, and of how many


class Step(NamedTuple):
    """One call in backward."""

    op: str  # "linear", as in npgpt.ops, or "residual": a sum of two gradients
    name: str  # of the op's output: "h.0.mlp.c_fc"; "loss" for the output head
    layer: int | None  # the block, None outside of all
    formula: str  # of forward
    code: tuple[Code, ...]  # of npgpt/ops, or of npgpt/model/block.py
    ran: str  # "npgpt/fused/linear.py": the file of the backend that computed
    parameters: tuple[str, ...]  # whose gradients are written
    dout: Array  # (T,), the length of the gradient that arrives, per token
    dx: Array  # (T,), the length of the gradient that leaves, per token


class Stream(NamedTuple):
    """d(loss)/d(residual stream), from the bottom to the top."""

    names: list[str]  # "embedding", "h.0.after_attn", "h.0.after_mlp", ...: 2 L + 1
    norms: Array  # (2 L + 1, T), the length of the gradient, per token


class Backward(NamedTuple):
    tokens: Array  # (T,) int64
    targets: Array  # (T,) int64, the token that follows each
    loss: float  # mean cross-entropy, in nats per token
    losses: Array  # (T,), of each target
    probs: Array  # (T, V), of the next token
    steps: list[Step]  # in the order of computation: from the loss to the embeddings
    stream: Stream
    gradients: Params  # of the loss, those of `model.backward`
    activations: dict[str, Array]  # by the names of `model.trace`, (1, T, ...)
    dactivations: dict[str, Array]  # d(loss)/d(activation): "h.0.attn.c_attn", (1, T, 3C)
    inputs: dict[str, Array]  # of each linear layer in a block: "h.0.attn.c_attn", (1, T, C)


@finite.ignore_overflow()
def run(
    model: GPT, tokens: Any, *, ops: Backend | None = None, progress: Progress | None = None
) -> Backward:
    """(T + 1,) -> Backward: each of the first T tokens predicts the one after it, without dropout.

    ops : the backend that computes, by default the model's own
    progress : called with the number of calls done, and of all calls; what it raises ends the run
    Raises RunError if the loss is not finite.
    """
    require_float(model.params)
    ids = check_text(model, tokens, least=2, targeted=True)
    tokens, targets = ids[:-1], ids[1:]
    ops = model.ops if ops is None else ops
    g, p = zeros_like(model.params), model.params
    recorder = Recorder(ops, model.config, [name for name, _ in named(p)], progress)
    loss, cache = transformer.loss(
        p, tokens[None], targets[None], model.config, g=g, ops=recorder.backend
    )
    if not np.isfinite(loss):
        raise finite.error(f"the loss is {loss}", p, model.path)
    transformer.backward(cache, g, ops=recorder.backend)
    probs = distribution(model, transformer.scores(p, recorder.found["ln_f"][0], ops=ops))
    stream = Stream(recorder.streamed[::-1], np.stack(recorder.lengths[::-1]))
    return Backward(
        tokens, targets, float(loss), -np.log(probs[np.arange(len(targets)), targets]), probs,
        recorder.steps, stream, g, recorder.found,
        {name.removesuffix(".grad"): array for name, array in recorder.gradients.items()},
        recorder.inputs,
    )  # fmt: skip


class Recorder(trace.Recorder):
    """A backend that computes as `ops` does, and notes every call of backward."""

    def __init__(
        self, ops: Backend, config: Config, parameters: list[str], progress: Progress | None
    ):
        super().__init__(ops, config, embedding_drops=True)
        self.progress, self.done, self.calls = progress, 0, 2 * (10 * config.n_layer + 4)
        self.tied, self.parameters = config.tied, parameters
        self.steps: list[Step] = []
        self.streamed: list[str] = []  # names of the stream, from the top
        self.lengths: list[Array] = []  # of its gradient, per token
        self.inputs: dict[str, Array] = {}
        head = ops.linear_cross_entropy
        self.backend.linear_cross_entropy = SimpleNamespace(
            forward=self.count(head.forward), backward=self.head(head.backward)
        )

    def count(self, function: Callable) -> Callable:
        """Return a function that reports its end."""

        def call(*args: Any, **options: Any) -> Any:
            found = function(*args, **options)
            self.done += 1
            if self.progress is not None:
                self.progress(self.done, self.calls)
            return found

        return call

    def forward(self, op: str, function: Callable, names: Any) -> Callable:
        """Return a forward that keeps its output, and reports its end."""
        return self.count(super().forward(op, function, names))

    def backward(self, op: str, function: Callable) -> Callable:
        """Return a backward that keeps the gradient of its output, and is a step."""
        recorded = super().backward(op, function)

        def call(dout: Array, cache: Any, *args: Any, **options: Any) -> Any:
            name, (own, _) = self.caches[id(cache)]
            arrived = lengths(dout)  # now, because the result may be written over it
            dx = recorded(dout, cache, *args, **options)
            if op == "dropout":
                self.meet(name, arrived)
            else:
                leaves = arrived if dx is None else lengths(dx)
                self.add(op, name, arrived, leaves)
            if op == "linear":
                self.inputs[name] = own.x
            return dx

        return self.count(call)

    def head(self, function: Callable) -> Callable:
        """Return the backward of the output head as a step: d(loss)/d(loss) = 1 arrives."""

        def call(dloss: float, *args: Any, **options: Any) -> Array:
            dx = function(dloss, *args, **options)
            arrived = np.full(dx.shape[1], abs(dloss), dx.dtype)
            self.add("linear_cross_entropy", "loss", arrived, lengths(dx))
            return dx

        return self.count(call)

    def meet(self, name: str, arrived: Array) -> None:
        """Note the gradient of the stream. Below the top, it is the sum of two."""
        if self.streamed:
            self.add("residual", name, self.lengths[-1], arrived)
        self.streamed.append(name)
        self.lengths.append(arrived)

    def add(self, op: str, name: str, dout: Array, dx: Array) -> None:
        """Append a step."""
        code: tuple[Code, ...]
        block = layer_of(name)
        if op == "residual":
            first = name.endswith("after_attn")
            module, code = None, (op_source.residual(first),)
            ran = code[0].file
            if not first:  # the sum ends the backward of the block above
                block = 0 if block is None else block + 1
        else:
            module = getattr(npgpt.ops, op)
            code = op_source.backward_of(module)
            ran = op_source.code(getattr(self.ops, op).backward).file
        formula, parameters = op_source.formula(module), self.written(op, name)
        self.steps.append(Step(op, name, block, formula, code, ran, parameters, dout, dx))

    def written(self, op: str, name: str) -> tuple[str, ...]:
        """Return the names of the parameters whose gradients a step writes."""
        match op:
            case "linear_cross_entropy":
                return ("wte.weight" if self.tied else "lm_head.weight",)
            case "embedding":
                return "wte.weight", "wpe.weight"
            case "linear" | "layernorm":
                return tuple(one for one in self.parameters if one.startswith(f"{name}."))
        return ()


def layer_of(name: str) -> int | None:
    """Return the number of the block in a name, None outside of all."""
    parts = name.split(".")
    return int(parts[1]) if parts[0] == "h" else None


def lengths(x: Array) -> Array:
    """(1, T, ...) -> (T,): return the Euclidean length of each token's part."""
    return np.linalg.norm(x[0].reshape(x.shape[1], -1), axis=-1)
