"""Activations and their gradients by name: the model runs on a backend that keeps them.

The names follow the checkpoint's: "h.0.attn.c_attn" is the output of the layer with this weight.
"""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np

from npgpt.arrays import Array, TokenIds
from npgpt.config import Config
from npgpt.model import inputs, transformer
from npgpt.model.backend import Backend
from npgpt.model.gradients import Workspace
from npgpt.model.params import Params
from npgpt.ops import attention as numpy_attention
from npgpt.ops.attention import softmax, split_heads
from npgpt.ops.linear_cross_entropy import IGNORED


def trace(
    p: Params, tokens: TokenIds, targets: TokenIds | None, config: Config, *, ops: Backend
) -> dict[str, Array]:
    """Return the activations by name; with targets, their gradients too."""
    recorder = Recorder(ops, config, embedding_drops=targets is not None)
    found, backend = recorder.found, recorder.backend
    if targets is None:
        ids = inputs.check_tokens(tokens, config)
        found["logits"] = transformer.logits(p, ids, config, ops=backend)
        return found
    ids, targets = inputs.check_pair(tokens, targets, config)
    g = Workspace(p).take()  # of all parameters, frozen ones too
    loss, cache = transformer.loss(p, ids, targets, config, g=g, ops=backend)
    transformer.backward(cache, g, ops=backend)
    found["logits"] = transformer.scores(p, found["ln_f"], ops=ops)
    found["loss"] = np.asarray(loss)
    dlogits, counts = softmax(found["logits"]), targets != IGNORED
    dlogits[*np.nonzero(counts), targets[counts]] -= 1
    dlogits[~counts] = 0
    dlogits /= np.count_nonzero(counts)
    return found | recorder.gradients | {"logits.grad": dlogits}


class Recorder:
    """A backend that computes as `ops` does, and keeps copies of activations and gradients.

    Each op is called once per layer, in order: the n-th call of an op has the n-th of its names.
    """

    def __init__(self, ops: Backend, config: Config, *, embedding_drops: bool):
        self.ops, self.n_head = ops, config.n_head
        self.found: dict[str, Array] = {}
        self.gradients: dict[str, Array] = {}
        self.caches: dict[int, tuple[str, Any]] = {}  # which are kept, so that no id is reused
        blocks = [f"h.{i}" for i in range(config.n_layer)]
        linears = "attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"
        drops = [f"{b}.{name}" for b in blocks for name in ("after_attn", "after_mlp")]
        # the residual stream is read by the next LayerNorm
        self.streams = iter(["embedding", *drops])
        names = {
            "embedding": ["embedding"],
            "dropout": [*(["embedding"] if embedding_drops else []), *drops],
            "layernorm": [*(f"{b}.{ln}" for b in blocks for ln in ("ln_1", "ln_2")), "ln_f"],
            "linear": [*(f"{b}.{name}" for b in blocks for name in linears), "logits"],
            "attention": [f"{b}.attn.heads" for b in blocks],
            "gelu": [f"{b}.mlp.gelu" for b in blocks],
        }
        wrapped = {op: self.wrap(op, iter(own)) for op, own in names.items()}
        self.backend: Any = SimpleNamespace(
            linear_cross_entropy=ops.linear_cross_entropy, **wrapped
        )

    def wrap(self, op: str, names: Any) -> SimpleNamespace:
        """Return the op with functions that record."""
        module = getattr(self.ops, op)
        return SimpleNamespace(
            forward=self.forward(op, module.forward, names),
            backward=self.backward(op, module.backward),
        )

    def forward(self, op: str, function: Callable, names: Any) -> Callable:
        """Return a forward that keeps its output, and the residual stream before a LayerNorm."""

        def call(x: Array, *args: Any, **options: Any) -> tuple[Array, Any]:
            name = next(names)
            if op == "layernorm":
                self.found[next(self.streams)] = x.copy()
            if op == "attention":
                _, plain = numpy_attention.forward(x, n_head=self.n_head)
                self.found[name.replace("heads", "probs")] = plain.probs
            out, cache = function(x, *args, **options)
            if op not in ("dropout", "embedding"):
                self.found[name] = out.copy()
            values = plain.v if op == "attention" else None
            self.caches[id(cache)] = name, (cache, values)
            return out, cache

        return call

    def backward(self, op: str, function: Callable) -> Callable:
        """Return a backward that keeps the gradient of its output."""

        def call(dout: Array, cache: Any, *args: Any, **options: Any) -> Any:
            name, (_, values) = self.caches[id(cache)]
            self.gradients[f"{name}.grad"] = dout.copy()
            if op == "attention":
                probs = name.replace("heads", "probs")
                self.gradients[f"{probs}.grad"] = split_heads(dout, self.n_head) @ values.mT
            return function(dout, cache, *args, **options)

        return call
