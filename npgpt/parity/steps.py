"""The lines around a model that a port writes too: targets, accumulation, clipping, steps, cache.

They compute as npgpt.training.trainer does, without its events, files and checks. The model and the
backend are arguments, so that those of any port can be inserted.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from npgpt.arrays import Array
from npgpt.config import Config, TrainingConfig
from npgpt.model import kv_cache, params
from npgpt.model.backend import Backend, Random
from npgpt.model.params import Params
from npgpt.ops.linear_cross_entropy import IGNORED
from npgpt.training import optim, schedule


def tie(p: Params, n_head: int) -> Params:
    """Return the parameters as the port holds them: the output head is wte."""
    return p


def labels(tokens: Array, targets: Array) -> Array:
    """(B, T), (B, T) -> (B, T), the targets of the loss: position t predicts token t + 1."""
    return targets


def loss_and_gradients(
    model: Any, p: Params, tokens: Array, targets: Array, config: Config, *,
    rng: Random | None, ops: Backend,
) -> tuple[np.floating, Params]:  # fmt: skip
    """Return the loss and a new tree of gradients."""
    g = params.zeros_like(p)
    loss, cache = model.loss(p, tokens, labels(tokens, targets), config, rng=rng, g=g, ops=ops)
    model.backward(cache, g, ops=ops)
    return loss, g


def accumulate(
    model: Any, p: Params, tokens: Array, targets: Array, config: Config, settings: Any,
    g: Params, *, rng: Random | None, ops: Backend,
) -> None:  # fmt: skip
    """Add the gradients of a batch to `g`, micro-batch by micro-batch."""
    counts = np.count_nonzero(targets != IGNORED)
    for part in np.array_split(np.arange(len(tokens)), settings.accumulation):
        if not (count := np.count_nonzero(targets[part] != IGNORED)):
            continue
        _, found = loss_and_gradients(
            model, p, tokens[part], targets[part], config, rng=rng, ops=ops
        )
        share = count / counts  # a mean of the parts' means would give all parts the same weight
        for total, grad in zip(params.leaves(g), params.leaves(found), strict=True):
            total += share * grad


def train(
    model: Any, p: Params, tokens: Array, targets: Array, config: Config, settings: Any, *,
    rng: Random | None, ops: Backend,
) -> Iterator[Params]:  # fmt: skip
    """Update `p` in place, and yield it after each step on the same batch."""
    optimizer = make_optimizer(p, settings, ops=ops)
    g = params.zeros_like(p)
    for _ in range(settings.steps):
        zero(g)
        accumulate(model, p, tokens, targets, config, settings, g, rng=rng, ops=ops)
        scale = clip(g, settings.grad_clip, ops=ops)
        optimizer.step(g, scale=scale)
        yield p


def zero(g: Params) -> None:
    """Set all gradients to 0."""
    for grad in params.leaves(g):
        grad.fill(0)


def clip(g: Params, max_norm: float | None, *, ops: Backend) -> float:
    """Return the factor of the gradients."""
    if max_norm is None:
        return 1.0
    return schedule.clip_scale(schedule.global_norm(g, ops=ops), max_norm)


def make_optimizer(p: Params, settings: Any, *, ops: Backend) -> Any:
    """Return the optimizer that the settings describe."""
    beta1, beta2 = settings.betas
    training = TrainingConfig(
        optimizer=settings.optimizer,
        lr=settings.lr,
        weight_decay=settings.weight_decay,
        decay=settings.decay,
        beta1=beta1,
        beta2=beta2,
        eps=settings.eps,
        momentum=settings.momentum if settings.optimizer in ("sgd", "muon") else None,
    )
    return optim.make(p, training, ops=ops)


def logits(
    model: Any, p: Params, tokens: Array, config: Config, *, rng: Random | None, ops: Backend
) -> Array:
    """(B, T) -> (B, T, V), without dropout."""
    return model.logits(p, tokens, config, ops=ops)


def cached_logits(model: Any, p: Params, tokens: Array, config: Config, *, ops: Backend) -> Array:
    """(B, T) -> (B, T, V): the tokens one by one, through a key/value cache."""
    past = kv_cache.empty_cache(len(tokens), config, p.wte.weight.dtype)
    one_by_one = np.split(tokens, tokens.shape[1], axis=1)
    return np.concatenate(
        [model.logits(p, token, config, past=past, ops=ops) for token in one_by_one], axis=1
    )
