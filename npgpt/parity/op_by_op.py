"""Run each op on the port's own inputs: which ops are wrong, however many.

The model computes forward and backward once. Where the port dumped a tensor, the computed one is
compared with it, and replaced by it. An op therefore reads what the port's op has read, and an
error before it is not carried on.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import numpy as np

import npgpt.ops
from npgpt.arrays import Array, rows
from npgpt.model import transformer
from npgpt.model.params import copy, head, map_leaves, named, zeros_like
from npgpt.ops import attention, embedding, gelu, layernorm, linear
from npgpt.ops.attention import merge_heads, softmax, split_heads
from npgpt.ops.linear_cross_entropy import IGNORED
from npgpt.parity import steps
from npgpt.parity.budget import (
    MULTIPLE,
    Layouts,
    distance,
    largest_of,
    nudge,
    nudge_parameters,
    runs_of,
    scale_of,
)
from npgpt.parity.compute import cast
from npgpt.parity.graph import has_inputs, op_of
from npgpt.parity.order import kind_of
from npgpt.parity.probe import Probe
from npgpt.parity.rounding import EPS

CHECKED = ("act", "logits", "loss", "dact", "grad")  # kinds


@dataclass(frozen=True)
class Checked:
    """A tensor that the port dumped, and what the right ops make of the port's own inputs."""

    name: str
    since: str  # the tensor of the port that was the last input, "" for the parameters and tokens
    computed: Array


def run(probe: Probe, own: Mapping[str, Array]) -> list[Checked]:
    """Return every tensor of the port, by its canonical names, and what it should have been.

    `own`: the tensors of the dump. All is computed in the dtype of the probe's parameters.
    """
    forced = ForcedOps(probe, own)
    g = zeros_like(probe.params)
    with np.errstate(all="ignore"):
        _, cache = transformer.loss(
            probe.params, probe.tokens, probe.targets, probe.config, g=g, ops=forced.backend
        )
        transformer.backward(cache, g, ops=forced.backend)
        forced.finish(g)
    return forced.checked


class ForcedOps:
    """The NumPy ops, whose results become those of the port where it dumped them.

    Each op is called once per layer, in order: the n-th call of an op has the n-th of its names.
    A tensor is overwritten in place, because the block adds the same array to what follows.
    """

    def __init__(self, probe: Probe, own: Mapping[str, Array]):
        config = probe.config
        self.own, self.checked, self.last = own, list[Checked](), ""
        self.n_head, self.head = config.n_head, head(probe.params)
        self.targets, self.scale = probe.targets, 1 / (1 - probe.settings.dropout)
        self.caches: dict[int, tuple[str, Any]] = {}  # which are kept, so that no id is reused
        self.inputs: dict[str, str] = {}  # the last tensor before the gradients of a layer
        blocks = [f"h.{i}" for i in range(config.n_layer)]
        linears = "attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"
        drops = ["embedding"] + [f"{b}.{x}" for b in blocks for x in ("after_attn", "after_mlp")]
        self.streams = iter(drops)
        self.names: dict[str, Iterator[str]] = {
            "dropout": iter(drops),
            "layernorm": iter([f"{b}.{x}" for b in blocks for x in ("ln_1", "ln_2")] + ["ln_f"]),
            "linear": iter([f"{b}.{x}" for b in blocks for x in linears]),
            "attention": iter([f"{b}.attn.heads" for b in blocks]),
            "gelu": iter([f"{b}.mlp.gelu" for b in blocks]),
        }
        parts = "embedding", "dropout", "layernorm", "linear", "attention", "gelu"
        self.backend: Any = SimpleNamespace(
            linear_cross_entropy=SimpleNamespace(
                forward=self.head_forward, backward=self.head_backward
            ),
            **{
                part: SimpleNamespace(
                    forward=getattr(self, f"{part}_forward"),
                    backward=getattr(self, f"{part}_backward"),
                )
                for part in parts
            },
        )

    def force(self, name: str, array: Array) -> Array:
        """Compare an array with the port's, and overwrite it. Return the array."""
        if name in self.own:
            self.checked.append(Checked(name, self.last, array.copy()))
            array[...] = self.own[name]
            self.last = name
        return array

    def begin(self, op: str, cache: Any) -> str:
        """Return the name of an op's next call, and remember it for backward."""
        name = next(self.names[op])
        self.caches[id(cache)] = name, cache
        return name

    def arrive(self, dout: Array, cache: Any) -> str:
        """Force the gradient that arrives at an op. Return the name of the op's output."""
        name, _ = self.caches[id(cache)]
        self.force(f"dact/{name}", dout)
        self.inputs[name] = self.last
        return name

    def finish(self, g: Any) -> None:
        """Compare the gradients of the parameters, which no op reads."""
        for name, array in named(g):
            if (full := f"grad/{name}") in self.own:
                since = self.inputs.get(name.rpartition(".")[0], self.last)
                self.checked.append(Checked(full, since, array))

    def mask(self, name: str, x: Array) -> Array:
        """Return a copy of `x`, multiplied with the dropout mask of the port if it has one."""
        mask = self.own.get(f"mask/{name}")
        return x.copy() if mask is None else x * ((mask != 0) * x.dtype.type(self.scale))

    # forward and backward of each op

    def embedding_forward(self, tokens: Array, p: Any) -> Any:
        """Return token plus position embedding."""
        return embedding.forward(tokens, p)

    def embedding_backward(self, dout: Array, cache: Any, g: Any) -> None:
        """Write the gradients of both tables."""
        self.inputs["wte"] = self.inputs["wpe"] = self.last
        embedding.backward(dout, cache, g)

    def dropout_forward(self, x: Array, *, rate: float, rng: Any = None) -> Any:
        """Apply the mask of the port."""
        cache = SimpleNamespace()
        name = self.begin("dropout", cache)
        return self.mask(name, x), cache

    def dropout_backward(self, dout: Array, cache: Any) -> Array:
        """Apply the mask of the port to the gradient."""
        return self.mask(self.arrive(dout, cache), dout)

    def layernorm_forward(self, x: Array, p: Any) -> Any:
        """Normalize the residual stream, which is forced first."""
        self.force(f"act/{next(self.streams)}", x)
        out, cache = layernorm.forward(x, p)
        return self.force(f"act/{self.begin('layernorm', cache)}", out), cache

    def layernorm_backward(self, dout: Array, cache: Any, g: Any, *, dx: Any = None) -> Array:
        """Return the gradient of the residual stream."""
        self.arrive(dout, cache)
        return layernorm.backward(dout, cache, g)

    def linear_forward(self, x: Array, p: Any) -> Any:
        """Return the output of a linear layer."""
        out, cache = linear.forward(x, p)
        return self.force(f"act/{self.begin('linear', cache)}", out), cache

    def linear_backward(self, dout: Array, cache: Any, g: Any) -> Array:
        """Return the gradient of a linear layer's input."""
        self.arrive(dout, cache)
        return linear.backward(dout, cache, g)

    def gelu_forward(self, x: Array) -> Any:
        """Return the activations of the MLP."""
        out, cache = gelu.forward(x)
        return self.force(f"act/{self.begin('gelu', cache)}", out), cache

    def gelu_backward(self, dout: Array, cache: Any, *, dx: Any = None) -> Array:
        """Return the gradient of GELU's input."""
        self.arrive(dout, cache)
        return gelu.backward(dout, cache)

    def attention_forward(self, qkv: Array, *, n_head: int, **dropout: Any) -> Any:
        """Return the heads' outputs, computed with the probabilities of the port."""
        _, cache = attention.forward(qkv, n_head=n_head)
        name = self.begin("attention", cache)
        probs = self.force(f"act/{probs_of(name)}", cache.probs)
        out = merge_heads(self.mask(probs_of(name), probs) @ cache.v)
        return self.force(f"act/{name}", out), cache

    def attention_backward(self, dout: Array, cache: Any) -> Array:
        """Return the gradient of queries, keys and values."""
        name = probs_of(self.arrive(dout, cache))
        q, k, v, probs, _ = cache
        dy = split_heads(dout, self.n_head)
        dv = self.mask(name, probs).mT @ dy
        dprobs = self.force(f"dact/{name}", self.mask(name, dy @ v.mT))
        dscores = probs * (dprobs - (dprobs * probs).sum(-1, keepdims=True)) * q.shape[-1] ** -0.5
        parts = dscores @ k, dscores.mT @ q, dv
        return np.concatenate([merge_heads(part) for part in parts], axis=-1)

    def head_forward(
        self, x: Array, weight: Array, targets: Array, *, dweight: Array, frozen: bool = False
    ) -> Any:
        """Return the loss, computed with the logits of the port, and the gradient of `x`."""
        logits = self.force("logits", x @ weight.T)
        before = self.last
        counts = targets != IGNORED
        probs = softmax(logits)
        rows_counted = *np.nonzero(counts), targets[counts]
        loss = -np.log(probs[rows_counted]).mean()
        if "loss" in self.own:
            self.checked.append(Checked("loss", before, np.asarray(loss)))
        dlogits = probs
        dlogits[rows_counted] -= 1
        dlogits[~counts] = 0
        dlogits /= np.count_nonzero(counts)
        self.force("dact/logits", dlogits)
        self.inputs["lm_head"] = self.last
        np.matmul(rows(dlogits).T, rows(x), out=dweight)
        return loss, dlogits @ weight

    def head_backward(self, dloss: float, cache: Any, g: Array) -> Array:
        """Return the gradient of the head's input."""
        return cache


def probs_of(name: str) -> str:
    """Return the name of an attention's probabilities, by that of its output."""
    return name.removesuffix("heads") + "probs"


@dataclass(frozen=True)
class WrongOp:
    """An op that is wrong on the port's own inputs."""

    op: str  # "attention backward"
    name: str  # of the tensor that it computed
    since: str  # of the port's tensor that was the last input, "" for parameters and tokens


def wrong_ops(probe: Probe, tensors: Mapping[str, Layouts], arithmetic: str) -> list[WrongOp]:
    """Return the ops whose results differ by more than rounding from what their inputs give.

    probe : with the port's own parameters
    tensors : the port's, by canonical names. A tensor of several layouts is no input.
    """
    own = {name: found[0] for name, found in tensors.items() if len(found) == 1}
    if any(name.startswith("mask/") for name in own):
        own.pop("logits", None)  # which are computed without dropout
    checked = [name for name in own if kind_of(name) in CHECKED]
    if not any(has_inputs(name, own, probe.config) for name in checked):
        return wrong_step(probe, own)
    exact = run(replace(probe, params=cast(probe.params, np.float64)), own)
    errors = [EPS["float32"] * scale_of(one.computed) for one in exact]
    for seed in range(runs_of(probe)):
        rng = np.random.default_rng(seed)
        inputs = {name: nudge(x, rng) if is_read(name) else x for name, x in own.items()}
        for i, rough in enumerate(run(nudge_parameters(probe, seed), inputs)):
            errors[i] = max(errors[i], scale_of(rough.computed - exact[i].computed))
    scale = MULTIPLE * EPS[arithmetic] / EPS["float32"]
    return [
        WrongOp(op_of(one.name), one.name, one.since)
        for one, error in zip(exact, errors, strict=True)
        if has_inputs(one.name, own, probe.config)
        and not largest_of(distance(own[one.name], one.computed)) <= scale * error
    ] + wrong_step(probe, own)


def activations(probe: Probe, tensors: Mapping[str, Layouts]) -> dict[str, Array]:
    """Return what the right ops make of the port's own inputs, by the names of activations."""
    own = {name: found[0] for name, found in tensors.items() if len(found) == 1}
    if not any(name.startswith("act/") for name in own):
        return {}
    wide = replace(probe, params=cast(probe.params, np.float64))
    return {one.name: one.computed for one in run(wide, own) if one.name.startswith("act/")}


def is_read(name: str) -> bool:
    """Return True for a tensor that an op reads as a float."""
    return name.startswith(("act/", "dact/", "logits"))


def wrong_step(probe: Probe, own: Mapping[str, Array]) -> list[WrongOp]:
    """Return the parameters that differ after clipping and a step by the port's own gradients.

    A gradient of almost 0, relative to the largest of its tensor, may be one of rounding. Where its
    sign decides, as in Adam, both results are right.
    """
    names = [name for name, _ in named(probe.params)]
    given = [own.get(f"grad/{name}", np.nan) for name in names]  # nan: a step has none, or nan
    if "after1" not in map(kind_of, own) or not all(np.isfinite(one).all() for one in given):
        return []
    exact = step(probe, own)
    rng = np.random.default_rng(0)
    signs = {name: rng.choice((-1, 1), own[f"grad/{name}"].shape) for name in names}
    opposite = [step(probe, own, {name: sign * one for name, one in signs.items()})
              for sign in (-1, 1)]  # fmt: skip
    found = []
    for name in names:
        after = own.get(f"after1/{name}")
        spread = np.max([np.abs(one[name] - exact[name]) for one in opposite], 0)
        budget = MULTIPLE * (EPS["float32"] * largest_of(exact[name]) + spread)
        if after is not None and not (np.abs(after - exact[name]) <= budget).all():
            found.append(WrongOp("clipping or optimizer", f"after1/{name}", f"grad/{name}"))
    return found


def step(
    probe: Probe, own: Mapping[str, Array], signs: Mapping[str, Array] | None = None
) -> dict[str, Array]:
    """Return the parameters after a step by the port's own gradients, in float64.

    `signs`: of an error of a few ulps, which is added to each gradient.
    """
    p = copy(cast(probe.params, np.float64))
    g = zeros_like(p)
    for name, leaf in named(g):
        leaf[...] = own[f"grad/{name}"]
        if signs is not None:
            leaf += signs[name] * EPS["float32"] * largest_of(leaf)
    ops: Any = npgpt.ops
    scale = steps.clip(g, probe.settings.grad_clip, ops=ops)
    steps.make_optimizer(p, probe.settings, ops=ops).step(g, scale=scale)
    return dict(named(p))


def with_parameters(probe: Probe, own: Mapping[str, Array]) -> Probe:
    """Return the probe with the parameters that the port used, where it dumped them."""
    if all(np.array_equal(own.get(f"param/{name}", leaf), leaf)
           for name, leaf in named(probe.params)):  # fmt: skip
        return probe
    used = (own.get(f"param/{name}", leaf).astype(leaf.dtype) for name, leaf in named(probe.params))
    return replace(probe, params=map_leaves(probe.params, lambda leaf: next(used)))
