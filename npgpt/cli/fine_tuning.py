"""Fit the defaults of fine-tuning to the memory of this machine and to the length of the text."""

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from npgpt.config import RunConfig

if TYPE_CHECKING:
    from npgpt.data.dataset import Tokens

STEPS = 16  # least number of steps per epoch: larger batches would make fewer
WARMUP = 10  # the warmup takes at most one of this number of steps


def fit(settings: RunConfig, tokens: "Tokens", given: frozenset[str]) -> RunConfig:
    """Return the settings with a smaller batch and a shorter warmup if the run needs them.

    The batch is halved until a step fits into memory and an epoch has STEPS steps. `given`: names
    of the settings that the user has chosen, which stay.
    """
    from npgpt.training import schedule

    T, training = settings.config.context_length, settings.training
    windows = max(0, (len(tokens.train) - T - 1) // (training.stride or T) + 1)
    per_epoch = windows // (training.batch_size * training.grad_accumulation)
    if "batch_size" not in given:
        for smaller in batches(settings):
            training = smaller.training
            per_epoch = windows // (training.batch_size * training.grad_accumulation)
            if per_epoch >= STEPS and fits_into_memory(smaller):
                break
    if "warmup_steps" not in given:
        step = training.batch_size * training.grad_accumulation * T
        total = schedule.count_steps(training, per_epoch, step)
        training = replace(training, warmup_steps=min(training.warmup_steps, total // WARMUP))
    return replace(settings, training=training)


def batches(settings: RunConfig) -> Iterator[RunConfig]:
    """Yield the settings with their batch size, half of it, and so on, down to one window."""
    size = settings.training.batch_size
    while size:
        yield replace(settings, training=replace(settings.training, batch_size=size))
        size //= 2


def fits_into_memory(settings: RunConfig) -> bool:
    """Return True if a step fits into the memory that is available."""
    from npgpt.performance import estimate
    from npgpt.system import memory

    return estimate.fits(settings, settings.config.n_layer, memory.available())


def describe(settings: RunConfig) -> str:
    """Return a line about the settings that decide how much a model changes."""
    t = settings.training
    stride = t.stride or settings.config.context_length
    end = "" if t.min_lr is None else f", falling to {t.min_lr:g}"
    return (
        f"Fine-tuning: batch size {t.batch_size}, stride {stride}, learning rate {t.lr:g} after "
        f"{t.warmup_steps} warmup steps{end}"
    )
