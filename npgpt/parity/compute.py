"""The numbers of a port by their canonical names: what GPT-2 with a mistake computes on a probe."""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

from npgpt.arrays import Array
from npgpt.config import Config
from npgpt.model import params
from npgpt.model.params import Params
from npgpt.parity.identity import Identity
from npgpt.parity.order import mask_names
from npgpt.parity.port import Port, backend
from npgpt.parity.probe import Probe

WITHOUT_PARAMETERS = {"gelu": "mlp.gelu", "attention": "attn.heads"}  # ops of which a block has one
KINDS = ("param", "act", "loss", "logits", "logits_again", "cached_logits", "dact", "grad", "after")


def compute(
    port: Port,
    probe: Probe,
    kinds: Collection[str],
    *,
    dtype: Any = np.float64,
    masks: Mapping[str, Array] | None = None,
) -> dict[str, Array]:
    """Return the numbers of a port by name, in the order of computation.

    Parameters
    ----------
    port : Port
    probe : Probe
        Model, batch and settings.
    kinds : set of str
        The kinds of tensors, from `KINDS`. "after3" stands for the first three steps, "after" for
        all of the settings' steps.
    dtype : dtype, default float64
    masks : dict of str to array, default None
        The dropout masks of the port by name ("embedding", "h.0.attn.probs", "h.0.after_attn",
        "h.0.after_mlp"), not zero where a number is kept. `loss`, `act`, `dact`, `grad` and `after`
        are computed with them, `logits` without. None: no dropout.

    Raises
    ------
    npgpt.parity.port.EditError
        If two mistakes of the port change the same lines.
    Exception
        Any error of the wrong lines, which may not fit the sizes of the probe.
    """
    return dict(tensors(port, probe, kinds, dtype=dtype, masks=masks))


def tensors(
    port: Port,
    probe: Probe,
    kinds: Collection[str],
    *,
    dtype: Any = np.float64,
    masks: Mapping[str, Array] | None = None,
) -> Iterator[tuple[str, Array]]:
    """Yield the numbers of `compute` one by one. Those that are not asked for cost nothing.

    First come the forward and the backward pass, then logits, then steps. The caller may stop at
    any of them.
    """
    modules, config = port.modules(), config_of(probe, masks)
    model, steps = modules["npgpt.model.transformer"], modules["npgpt.parity.steps"]
    tree = steps.tie(cast(probe.params, dtype), config.n_head)
    if "param" in kinds:
        for name, array in params.named(tree):
            yield f"param/{name}", array
    if {"act", "loss", "dact", "grad"} & set(kinds):
        yield from forward_and_backward(port, modules, probe, tree, config, kinds, masks)
    ops = backend(modules, port.replaced)
    for name in ("logits", "logits_again"):
        if name in kinds:
            rng = Masks(masks, config) if masks else None
            yield name, steps.logits(model, tree, probe.tokens, config, rng=rng, ops=ops)
    if "cached_logits" in kinds:
        decoding = port.decoding.modules()
        model, steps = decoding["npgpt.model.transformer"], decoding["npgpt.parity.steps"]
        ops = backend(decoding, port.replaced)
        yield "cached_logits", steps.cached_logits(model, tree, probe.tokens, config, ops=ops)
    count = steps_of(kinds, probe.settings.steps)
    if count:
        model, steps = modules["npgpt.model.transformer"], modules["npgpt.parity.steps"]
        ops = backend(modules, port.replaced)
        settings = replace(probe.settings, steps=count)
        batch = probe.tokens, probe.targets, config, settings
        rng = Masks(masks, config, parts=settings.accumulation, repeat=True) if masks else None
        trained = steps.train(model, params.copy(tree), *batch, rng=rng, ops=ops)
        for k, after in enumerate(trained, 1):
            for name, array in params.named(after):
                yield f"after{k}/{name}", array.copy()


def forward_and_backward(
    port: Port,
    modules: dict[str, ModuleType],
    probe: Probe,
    tree: Params,
    config: Config,
    kinds: Collection[str],
    masks: Mapping[str, Array] | None,
) -> Iterator[tuple[str, Array]]:
    """Yield activations and loss, and then the gradients of both."""
    backwards = not {"dact", "grad"}.isdisjoint(kinds)
    g = params.zeros_like(tree) if backwards else None
    recorder = Recorder(port, tree, g) if {"act", "dact"} & set(kinds) else None
    modules = recorder.modules if recorder else modules
    ops = recorder.ops if recorder else backend(modules, port.replaced)
    model, steps = modules["npgpt.model.transformer"], modules["npgpt.parity.steps"]
    rng = Masks(masks, config) if masks else None
    targets = steps.labels(probe.tokens, probe.targets)
    loss, cache = model.loss(tree, probe.tokens, targets, config, rng=rng, g=g, ops=ops)
    if recorder and "act" in kinds:
        yield from recorder.found.items()
    if "loss" in kinds:
        yield "loss", np.asarray(loss)
    if g is None:
        return
    model.backward(cache, g, ops=ops)
    if recorder and "dact" in kinds:
        yield from recorder.gradients.items()
    if "grad" in kinds:
        for name, grad in params.named(g):
            yield f"grad/{name}", grad


def watch_passes(
    port: Port,
    probe: Probe,
    watch: Callable[[str, Array], None],
    *,
    backwards: bool,
    with_logits: bool = True,
    masks: Mapping[str, Array] | None = None,
) -> None:
    """Call `watch` with each tensor of the forward and backward pass as soon as it is computed.

    It may raise an exception to stop. The gradients of the embeddings and of the head are left out.
    `with_logits`: not that of the logits, which is another product of the head.
    All is computed in the dtype of the probe's parameters.
    """
    config = config_of(probe, masks)
    tree = port.modules()["npgpt.parity.steps"].tie(probe.params, config.n_head)
    g = params.zeros_like(tree) if backwards else None
    recorder = Recorder(port, tree, g, watch, with_logits=with_logits)
    model = recorder.modules["npgpt.model.transformer"]
    targets = recorder.modules["npgpt.parity.steps"].labels(probe.tokens, probe.targets)
    rng = Masks(masks, config) if masks else None
    loss, cache = model.loss(tree, probe.tokens, targets, config, rng=rng, g=g, ops=recorder.ops)
    watch("loss", np.asarray(loss))
    if g is not None:
        model.backward(cache, g, ops=recorder.ops)


def steps_of(kinds: Collection[str], all_steps: int) -> int:
    """Return the number of optimizer steps that the kinds need."""
    wanted = [kind.removeprefix("after") for kind in kinds if kind.startswith("after")]
    return max((int(k) if k else all_steps for k in wanted), default=0)


def cast(tree: Params, dtype: Any) -> Params:
    """Return the parameters in a dtype. They are shared if they have it already."""
    if tree.wte.weight.dtype == dtype:
        return tree
    twin = params.map_leaves(tree, lambda leaf: params.Shape(leaf.shape))
    flat = np.empty(params.total(twin), dtype)
    for source, destination in zip(
        params.leaves(tree), params.leaves(twin := params.views(twin, flat)), strict=True
    ):
        np.copyto(destination, source)
    return twin


def config_of(probe: Probe, masks: Mapping[str, Array] | None) -> Config:
    """Return the model's config, with the dropout of the settings if there are masks."""
    return replace(probe.config, dropout=probe.settings.dropout if masks else 0.0)


class Masks:
    """The port's dropout masks in the order of drawing, in place of a generator.

    `parts`: micro-batches, which are consecutive rows. `repeat`: begin again after the last.
    """

    def __init__(
        self, masks: Mapping[str, Array], config: Config, *, parts: int = 1, repeat: bool = False
    ):
        everything = [np.ones((), bool)] * parts  # where the port has no dropout
        rows = [np.array_split(masks[name], parts) if name in masks else everything
                for name in mask_names(config)]  # fmt: skip
        self.order = [mask[part] for part in range(parts) for mask in rows]
        self.position, self.repeat = 0, repeat

    def bernoulli(self, p: float, shape: Any, *, out: Array | None = None) -> Array:
        """Return the next mask, True where a number is kept."""
        if self.position == len(self.order) and self.repeat:
            self.position = 0
        mask = np.broadcast_to(self.order[self.position] != 0, shape)
        self.position += 1
        if out is None:
            return mask
        np.copyto(out, mask)
        return out


class Recorder:
    """A port whose activations and their gradients are kept, by the names of `GPT.trace`.

    `with_logits`: the gradient of the logits is among them.

    npgpt.model.trace counts the calls of an op and reads the residual stream before a LayerNorm. A
    port may leave out a layer or move it. So a layer is known here by its weight, and the residual
    stream by its variable in npgpt.model.block.
    """

    def __init__(
        self,
        port: Port,
        tree: Params,
        g: Params | None,
        watch: Callable[[str, Array], None] | None = None,
        *,
        with_logits: bool = True,
    ):
        self.watch, self.overwritten = watch, port.overwritten
        self.found: dict[str, Array] = {}
        self.gradients: dict[str, Array] = {}
        names = [name.removesuffix(".weight") for name, _ in params.named(tree)]
        trees = (tree,) if g is None else (tree, g)
        self.layers = {id(leaf): name for one in trees
                       for name, leaf in zip(names, params.leaves(one), strict=True)}  # fmt: skip
        self.modules = port.modules(self.keep)
        self.ops: Any = SimpleNamespace(**vars(backend(self.modules, port.replaced)))
        for op in ("linear", "layernorm", "gelu", "attention"):
            setattr(self.ops, op, self.wrap(op, getattr(self.ops, op)))
        if g is not None and with_logits:
            self.ops.linear_cross_entropy = self.wrap_head(self.ops.linear_cross_entropy)
        block = self.modules["npgpt.model.block"]
        self.modules["npgpt.model.transformer"].block = SimpleNamespace(  # type: ignore[attr-defined]
            forward=self.block_forward(block.forward),
            backward=self.block_backward(block.backward),
            needed=block.needed,
        )
        self.block = 0  # of the current call
        self.inside = False  # a block's forward
        self.blocks: dict[int, int] = {}  # by the id of their caches
        self.left = 0  # blocks whose backward is to come
        self.streams: Iterator[str] = iter(())  # names of the residual stream to come
        self.into = self.found, "act"

    def keep(self, variable: str, value: Array) -> None:
        """Keep the value of a variable in attention or in a block."""
        found, kind = self.into
        if variable == ("probs" if kind == "act" else "dprobs"):
            self.put(found, f"{kind}/h.{self.block}.attn.probs", value)
        elif variable == ("x" if kind == "act" else "dx"):
            self.put(found, f"{kind}/{next(self.streams)}", value)

    def put(self, found: dict[str, Array], name: str, value: Array) -> None:
        """Keep a copy of a tensor, or its array if that is to be overwritten."""
        kept = name.startswith("act/") and name.endswith(self.overwritten)
        found[name] = value if kept else value.copy()
        if self.watch:
            self.watch(name, value)

    def block_forward(self, function: Any) -> Any:
        """Return a block's forward that keeps the residual stream: before it, and twice in it."""

        def call(x: Array, *args: Any, **options: Any) -> Any:
            if "act/embedding" not in self.found:
                self.block = 0
                self.put(self.found, "act/embedding", x)
            name = f"h.{self.block}"
            self.streams = iter([f"{name}.after_attn", f"{name}.after_mlp"])
            self.inside = True
            result = function(x, *args, **options)
            self.inside = False
            self.blocks[id(result[1])] = self.block
            self.block += 1
            self.left += 1
            return result

        return call

    def block_backward(self, function: Any) -> Any:
        """Return a block's backward that keeps the gradient of the residual stream."""

        def call(dx: Array, cache: Any, *args: Any, **options: Any) -> Any:
            self.left -= 1
            self.block = self.blocks.get(id(cache), self.left)  # of another one: a mistake's
            self.put(self.gradients, f"dact/h.{self.block}.after_mlp", dx)
            self.streams = iter([f"h.{self.block}.after_attn"])
            result = function(dx, cache, *args, **options)
            if self.left == 0:
                self.put(self.gradients, "dact/embedding", result)
            return result

        return call

    def layer(self, op: str, args: tuple[Any, ...]) -> str | None:
        """Return the name of an op's layer in the current block; None of the head.

        `args`: of the call, from the layer's parameters or their gradients on.
        """
        if op in WITHOUT_PARAMETERS:
            return f"h.{self.block}.{WITHOUT_PARAMETERS[op]}"
        name = self.layers.get(id(args[0].weight))
        if name is None and op == "layernorm":  # whose weight a mistake has replaced
            name = f"h.{self.block}.ln_1" if self.inside else "ln_f"
        if name is None or not name.startswith("h."):
            return name
        name = f"h.{self.block}.{name.split('.', 2)[2]}"
        found, kind = self.into
        taken = f"{kind}/{name}" in found  # a port may use a LayerNorm for another one too
        return name.replace("ln_1", "ln_2") if taken else name

    def wrap_head(self, functions: Any) -> SimpleNamespace:
        """Return the head with the loss, of which the gradient of the logits is kept.

        It is the gradient of the input of a head whose weight is the identity.
        """

        def forward(x: Array, weight: Array, targets: Array, **options: Any) -> Any:
            _, cache = functions.forward(x @ weight.T, Identity(len(weight)), targets, frozen=True)
            self.put(self.gradients, "dact/logits", cache.dx)
            return functions.forward(x, weight, targets, **options)

        return SimpleNamespace(forward=forward, backward=functions.backward)

    def wrap(self, op: str, functions: Any) -> SimpleNamespace:
        """Return an op that keeps its output, and the gradient of it."""

        def forward(x: Array, *args: Any, **options: Any) -> Any:
            name = self.layer(op, args)
            out, cache = functions.forward(x, *args, **options)
            if name:
                self.put(self.found, f"act/{name}", out)
            return out, cache

        def backward(dout: Array, cache: Any, *args: Any, **options: Any) -> Any:
            self.into = self.gradients, "dact"
            name = self.layer(op, args)
            self.put(self.gradients, f"dact/{name}", dout)
            result = functions.backward(dout, cache, *args, **options)
            if self.watch and args:
                for leaf, grad in args[0]._asdict().items():
                    self.watch(f"grad/{name}.{leaf}", grad)
            return result

        return SimpleNamespace(forward=forward, backward=backward)
