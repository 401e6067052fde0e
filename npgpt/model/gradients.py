"""Between `loss` and `backward`: gradient trees whose memory is reused, and caches valid once."""

import threading
import weakref
from typing import Any

import numpy as np

from npgpt import arrays
from npgpt.arrays import Array, TokenIds
from npgpt.config import Config
from npgpt.errors import InputError
from npgpt.model import inputs, trainable, transformer
from npgpt.model.backend import Backend, Random
from npgpt.model.params import Params, Shape, head, leaves, map_leaves, named, total, views
from npgpt.model.quantize import require_float

SPARE_TREES = 2  # one that the caller still holds, and one to write into


class Samples:
    """Evenly spaced numbers of some arrays, which tell whether the arrays have been written to.

    A few dozen of each array take microseconds to compare. An optimizer changes nearly every
    number. A change of a single row may go unnoticed.
    """

    def __init__(self, leaves: list[Array]):
        self.views = [leaf[tuple(slice(None, None, -(-n // 8)) for n in leaf.shape)]
                      for leaf in leaves]  # fmt: skip

    def read(self) -> bytes:
        """Return the numbers as they are now."""
        return b"".join(view.tobytes() for view in self.views)


class LossCache:
    """The activations of one `loss`, for one `backward`.

    Attributes
    ----------
    activations : npgpt.model.transformer.Cache or None
        The caches of all ops. None once `backward` has used them.
    """

    def __init__(self, activations: Any, gradients: Params, parameters: Params, samples: Samples):
        self.activations, self.gradients, self.parameters = activations, gradients, parameters
        self.head = Samples(leaves(head(gradients)))  # none of a frozen one
        self.samples = samples
        self.seen = samples.read(), self.head.read()

    def __repr__(self) -> str:
        return f"LossCache({'used' if self.activations is None else 'valid for one backward'})"

    def use(self, parameters: Params, samples: Samples) -> tuple[Any, Params]:
        """Return the activations and the gradient tree, once. `samples`: of the model's workspace.

        Raises
        ------
        InputError
            If the cache was used, or if the parameters or the gradient tree changed since `loss`.
        """
        if self.activations is None:
            raise InputError(
                "this cache was used already: it is valid for one backward. Call loss again"
            )
        if parameters is not self.parameters:
            raise InputError(
                "this cache was computed with other parameters: pass it to the model whose loss "
                "returned it, or call loss again"
            )
        if samples is not self.samples:
            raise InputError(
                "set_trainable was called since loss returned this cache: call loss again"
            )
        if self.samples.read() != self.seen[0]:
            raise InputError(
                "the parameters have changed since loss returned this cache: call backward before "
                "the optimizer's step, or call loss again"
            )
        if self.head.read() != self.seen[1]:
            raise InputError(
                "the gradient tree has changed since loss wrote the output head's gradient into "
                "it: another loss or backward was given the same out=. Call backward first, or use "
                "a tree for each loss"
            )
        found, self.activations = (self.activations, self.gradients), None
        del self.gradients, self.head  # their memory is the caller's now
        return found


class Workspace:
    """The memory for the gradients of one tree of parameters, of which some are trained.

    `own` is the tree that `loss_and_gradients` overwrites. `take` returns a tree for the caller;
    its memory is reused once the caller has deleted all of its arrays. In both, a frozen parameter
    is None.
    """

    def __init__(self, parameters: Params, patterns: tuple[str, ...] = trainable.ALL):
        require_float(parameters)
        self.parameters, self.names = parameters, trainable.names_of(parameters, patterns)
        self.samples = Samples(leaves(parameters))
        shapes = map_leaves(parameters, lambda leaf: Shape(leaf.shape))
        self.shapes = trainable.select(shapes, self.names)
        self.dtype = parameters.wte.weight.dtype
        self.spare: list[tuple[memoryview, weakref.ref]] = []
        self.lock = threading.Lock()
        self._own: Params | None = None
        self._blocks: Array | None = None  # the part of `own` that backward writes last
        self.has_warned = False

    def forward(
        self, tokens: TokenIds, targets: TokenIds, rng: Random | None, g: Params, config: Config,
        ops: Backend,
    ) -> tuple[float, transformer.Cache]:  # fmt: skip
        """Return the loss and the activations; write the head's gradient into `g`."""
        ids, labels = inputs.check_pair(tokens, targets, config)
        inputs.check_masks(rng)
        if rng is None and config.dropout and not self.has_warned:
            self.has_warned = True
            inputs.warn_of_dropout(config, stacklevel=4)
        with arrays.reuse(self._blocks if g is self._own else None):  # for the logits
            value, cache = transformer.loss(
                self.parameters, ids, labels, config, rng=rng, g=g, ops=ops
            )
        return float(value), cache

    def backward(
        self, activations: Any, g: Params, out: Params | None, dloss: float, ops: Backend,
        on_block: transformer.OnBlock = transformer.do_nothing,
    ) -> Params:  # fmt: skip
        """Return the gradients: `out`, or the tree `g` with zeros for frozen parameters."""
        transformer.backward(activations, g, dloss=dloss, on_block=on_block, ops=ops)
        return trainable.with_zeros(g, self.parameters) if out is None else out

    @property
    def own(self) -> Params:
        """The model's own gradient tree."""
        if self._own is None:
            flat = arrays.zeros(total(self.shapes), self.dtype)
            self._own = views(self.shapes, flat)
            start = total((self.shapes.wte, self.shapes.wpe))
            self._blocks = flat[start : start + total(self.shapes.h)]
        return self._own

    def take(self) -> Params:
        """Return a tree that no other array shares memory with. Its numbers are undefined."""
        with self.lock:
            free = [memory for memory, last in self.spare if last() is None]
            memory = free[0] if free else arrays.zeros(total(self.shapes), self.dtype).data
            busy = [(pages, last) for pages, last in self.spare if pages is not memory]
            # all views refer to `flat`, because `flat` itself refers to no array
            flat = np.frombuffer(memory, self.dtype)
            self.spare = [(memory, weakref.ref(flat)), *busy][:SPARE_TREES]
            return views(self.shapes, flat)

    def check(self, out: Params) -> Params:
        """Return `out` with None in place of frozen parameters, whose gradients are set to zero.

        Raises InputError unless `out` is a gradient tree of these parameters.
        """
        check_gradients(out, self.parameters, "out")
        for name, leaf in named(out):
            if not (leaf.flags.carray or (trainable.is_frozen(leaf) and name not in self.names)):
                raise InputError(f"out: {name} must be writable and C-contiguous")
        if np.may_share_memory(out.wte.weight, self.parameters.wte.weight):
            raise InputError("out shares memory with the parameters: it must be a tree of its own")
        for name, leaf in named(out):
            if name not in self.names and leaf.flags.writeable:
                leaf.fill(0)
        return trainable.select(out, self.names)


def check_gradients(tree: Params, parameters: Params, what: str) -> None:
    """Raise InputError unless `tree` has the names, shapes and dtype of the parameters."""
    how = "make it with npgpt.zeros_like(model.params)"
    if not isinstance(tree, Params):
        kind = type(tree).__name__
        if kind == "tuple":
            how = "loss, gradients = model.loss_and_gradients(...)"
        raise InputError(f"{what} must be a tree like model.params, not a {kind}: {how}")
    pairs = leaves(parameters), leaves(tree)
    signatures = [[(leaf.shape, leaf.dtype) for leaf in some] for some in pairs]
    if signatures[0] == signatures[1]:
        return
    expected, found = list(named(parameters)), list(named(tree))
    if [name for name, _ in expected] != [name for name, _ in found]:
        raise InputError(f"{what} has not the names of the parameters: {how}")
    for (name, leaf), (_, array) in zip(expected, found, strict=True):
        if leaf.size and (array.shape, array.dtype) != (leaf.shape, leaf.dtype):
            raise InputError(
                f"{what}: {name} is {array.dtype} {array.shape}, but must be {leaf.dtype} "
                f"{leaf.shape}: {how}"
            )
