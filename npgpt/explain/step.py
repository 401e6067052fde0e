"""One step of an optimizer: moments, update, and what becomes of the loss.

    predicted = <gradient, update>          the first-order change of the loss
    measured  = loss(p + update) - loss(p)

The error of the prediction is of second order: half the step has a quarter of it.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

import npgpt.ops
from npgpt.arrays import Array, flat
from npgpt.config import TrainingConfig
from npgpt.errors import InputError
from npgpt.explain import op_source, threads
from npgpt.explain.gradients import root_mean_square
from npgpt.explain.op_source import Code
from npgpt.explain.readout import distribution
from npgpt.explain.stream import check_text
from npgpt.gpt import GPT
from npgpt.model import finite, inputs, transformer
from npgpt.model.params import Params, copy, head, leaves, named, zeros_like
from npgpt.training import optim, schedule

FRACTIONS = tuple(i / 4 for i in range(9))  # of the update, at which the loss is measured
MOST_EARLIER = 1000
PART = 1 << 16  # numbers


class Rule(NamedTuple):
    """The formula of an update, and its code."""

    op: str  # "adamw", as in npgpt.ops
    formula: str
    code: Code


class Change(NamedTuple):
    """One parameter in the step. Sizes are root mean squares."""

    name: str
    shape: tuple[int, ...]
    weight: float
    gradient: float
    moments: dict[str, float]  # of each moment that the parameter has
    update: float
    predicted: float  # <gradient, update>: its part of the predicted change of the loss


class Entry(NamedTuple):
    """One number of a parameter in the step."""

    before: float
    gradient: float
    moments: dict[str, float]
    update: float


class OneStep(NamedTuple):
    optimizer: str  # with its hyperparameters
    steps: int  # this one is the n-th, which AdamW's correction counts
    scale: float  # of the gradient: below 1 if it was clipped
    rules: tuple[Rule, ...]
    loss: float  # before the step
    predicted: float
    measured: float
    changes: list[Change]  # in the order of the checkpoint
    fractions: Array  # (n,), of the update
    losses: Array  # (n,), of the parameters + fraction * update
    targets: Array  # (T,) int64
    before: Array  # (T, V), the probabilities of the next token
    after: Array  # (T, V)
    parameters: Params  # before the step: the model's own, if there was no earlier one
    gradients: Params
    moments: dict[str, Params]  # after the step
    update: Params


def take(
    model: GPT,
    tokens: Any,
    training: TrainingConfig,
    *,
    earlier: int = 0,
    fractions: tuple[float, ...] = FRACTIONS,
    progress: Callable[[int, int], Any] | None = None,
) -> OneStep:
    """(T + 1,) -> OneStep, of the optimizer in `training` and its learning rate, without dropout.

    The model is not changed. `earlier` steps on the same text come first: they fill the moments.
    `fractions` of the update, at which the loss is measured, are in ascending order from 0.
    `progress` is called with the number of passes done, and of all passes.
    Raises RunError if the loss before or after the step is not finite.
    """
    ids = check_text(model, tokens, least=2, targeted=True)
    if inputs.check_integer("earlier", earlier, least=0) > MOST_EARLIER:
        raise InputError(f"earlier is {earlier}, but must be at most {MOST_EARLIER}")
    with finite.ignore_overflow(), threads.limit(model):
        return take_last(model, ids, training, earlier, fractions, progress)


def take_last(
    model: GPT,
    ids: Array,
    training: TrainingConfig,
    earlier: int,
    fractions: tuple[float, ...],
    progress: Callable[[int, int], Any] | None,
) -> OneStep:
    """Return the last of `earlier` + 1 steps on a copy of the model."""
    config, ops, texts, targets = model.config, model.ops, ids[None, :-1], ids[None, 1:]
    passes = earlier + 1 + len(fractions)
    done = iter(range(1, passes + 1))

    def count() -> None:
        if progress is not None:
            progress(next(done), passes)

    def evaluate(p: Params) -> tuple[float, Array]:
        """Return the loss, and the input of the output head (1, T, C)."""
        count()
        x = transformer.hidden(p, texts, config, ops=ops)
        return float(ops.linear_cross_entropy.evaluate(x, head(p), targets)), x

    def predict(p: Params, x: Array) -> Array:
        return distribution(model, transformer.scores(p, x[0], ops=ops))

    p, g = copy(model.params), zeros_like(model.params)
    optimizer = optim.make(p, training, ops=ops)
    scale = 1.0
    for step in range(earlier + 1):
        if step == earlier:
            start = copy(p) if earlier else model.params
            loss, x = evaluate(p)
            before = predict(p, x)
        value, cache = transformer.loss(p, texts, targets, config, g=g, ops=ops)
        if not np.isfinite(value):
            raise finite.error(f"the loss is {value}", p, model.path if not step else None)
        transformer.backward(cache, g, ops=ops)
        if training.grad_clip is not None:
            scale = schedule.clip_scale(schedule.global_norm(g, ops=ops), training.grad_clip)
        optimizer.step(g, scale=scale)
        count()
    whole, x = evaluate(p)
    after = predict(p, x)
    update = zeros_like(p)
    for delta, new, old in zip(leaves(update), leaves(p), leaves(start), strict=True):
        np.subtract(new, old, out=delta)
    known, losses = {0.0: loss, 1.0: whole}, []
    for fraction in fractions:
        if fraction not in known:
            move(p, start, update, fraction)
            known[fraction] = evaluate(p)[0]
        losses.append(known[fraction])
    changes = list(measure(start, g, optimizer.moments, update))
    return OneStep(
        repr(optimizer), optimizer.steps, scale, rules(training.optimizer), loss,
        sum(change.predicted for change in changes), whole - loss,
        changes, np.array(fractions), np.array(losses), ids[1:], before, after,
        start, g, optimizer.moments, update,
    )  # fmt: skip


def move(p: Params, start: Params, update: Params, fraction: float) -> None:
    """Write start + fraction * update into `p`, in parts that fit into the cache."""
    for trio in zip(leaves(p), leaves(start), leaves(update), strict=True):
        vectors = [flat(leaf) for leaf in trio]
        for first in range(0, len(vectors[0]), PART):
            out, old, delta = (vector[first : first + PART] for vector in vectors)
            np.multiply(delta, fraction, out=out)
            out += old


def rules(optimizer: str) -> tuple[Rule, ...]:
    """Return the formulas of an optimizer: for Muon, also that of AdamW for all but matrices."""
    names = ("muon", "adamw") if optimizer == "muon" else (optimizer,)
    modules = {name: getattr(npgpt.ops, name) for name in names}
    return tuple(
        Rule(name, op_source.formula(module), op_source.code(module.update))
        for name, module in modules.items()
    )


def measure(
    parameters: Params, gradients: Params, moments: dict[str, Params], update: Params
) -> list[Change]:
    """Return the sizes of all parameters in the step."""
    trees = [leaves(tree) for tree in (gradients, update, *moments.values())]
    return [
        Change(
            name,
            p.shape,
            root_mean_square(p),
            root_mean_square(g),
            {key: root_mean_square(m) for key, m in zip(moments, own, strict=True) if m.size},
            root_mean_square(delta),
            float(np.vdot(g, delta)),
        )
        for (name, p), g, delta, *own in zip(named(parameters), *trees, strict=True)
    ]


def errors(found: OneStep) -> Array:
    """Return the error of the first-order prediction at each fraction of the update (n,)."""
    return found.losses - found.loss - found.fractions * found.predicted


def entry(found: OneStep, name: str, index: tuple[int, ...]) -> Entry:
    """Return one number of a parameter in the step."""
    before, gradient, update, *own = (
        find(tree, name)
        for tree in (found.parameters, found.gradients, found.update, *found.moments.values())
    )
    index = check_index(name, index, before.shape)
    return Entry(
        float(before[index]),
        float(gradient[index]),
        {key: float(m[index]) for key, m in zip(found.moments, own, strict=True) if m.size},
        float(update[index]),
    )


def find(tree: Params, name: str) -> Array:
    """Return the array of a parameter. Raise InputError if there is none of this name."""
    arrays = dict(named(tree))
    if name not in arrays:
        raise InputError(f"name is {name!r:.80}, but must be a parameter, such as wte.weight")
    return arrays[name]


def check_index(name: str, index: Any, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the index of one number. Raise InputError if an array of this shape has none there."""
    wrong = InputError(f"the index {index!r:.80} is not one of {name}, whose shape is {shape}")
    if not isinstance(index, (tuple, list)) or len(index) != len(shape):
        raise wrong
    found = tuple(inputs.check_integer("index", i) for i in index)
    if not all(0 <= i < size for i, size in zip(found, shape, strict=True)):
        raise wrong
    return found
