"""How fast would a config train here, and how long would it take? From a minute of measuring.

Real training steps are timed, with fewer layers where all of them would take too long or too much
memory. Every block does the same work, so the seconds of a step are a straight line over the number
of layers: what embedding, head and loss take, and so much for each block. The line goes through the
smallest and the largest model that was timed; one between them shows how far the line is off.
"""

import statistics
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from typing import NamedTuple

from npgpt import backends
from npgpt.config import Config, RunConfig
from npgpt.model import params
from npgpt.performance import flops, roofline
from npgpt.performance.profile import MOST_ROWS, training_step
from npgpt.system.machine import memory

BUDGET = 45.0  # seconds for all steps that are timed; the rest of the minute is for the peak
STEPS = 2  # of each model, at least; the first of them meets new memory and is not counted
ENOUGH = 2.0  # seconds of steps that are soon done
SLOW = 2.0  # times its floor: what a step is taken to need before one has been timed
ROOM = 0.8  # of the available memory that may be used
ACTIVATIONS = 20  # arrays (N, C) of a block: 16 wait for backward, the others are soon gone


class Point(NamedTuple):
    """A model that was timed."""

    layers: int
    seconds: float  # of one step


class Measured(NamedTuple):
    """What was measured."""

    batch: int  # windows of a step
    rate: float  # operations a second of NumPy's BLAS in the products of a block
    points: tuple[Point, ...]  # one layer, as many as there is time for, some between


class Estimate(NamedTuple):
    """What follows from it."""

    seconds: float  # of one step with all layers
    way: str  # to the seconds: "measured", "line" or "operations"
    miss: float | None  # how far the line is off between its ends, relative to what was timed there
    tokens_per_s: float
    operations: int  # of one step
    share: float  # operations a second, of the rate that products alone reach


# Measuring


def measure(settings: RunConfig, *, budget: float = BUDGET) -> Iterator[Measured]:
    """Times steps for so many seconds at most, the compiling of kernels not counted.

    Yields what is known after each of STAGES stages. Raises InputError where not even a model of
    one layer fits into memory.
    """
    config = settings.config
    rows = min(settings.training.batch_size * config.context_length, MOST_ROWS)
    blocks = flops.linears(config)[:-1]
    rate = roofline.multiplying(blocks, rows, backward=True, dtype=settings.parameter_dtype)
    known = Measured(batch_size(settings, rate, budget), rate, ())
    yield known
    settings = replace(settings, training=replace(settings.training, batch_size=known.batch))
    training_step(
        replace(settings, config=smallest(config)), backends.get(settings.ops, dtype=settings.dtype)
    )()
    yield known
    for _ in range(3):
        layers = next_layers(settings, known.points, budget, memory()[1])
        if layers is not None:
            point = Point(layers, seconds_of(settings, layers))
            known = known._replace(points=(*known.points, point))
        yield known


STAGES = 5


def seconds_of(settings: RunConfig, layers: int) -> float:
    """Of one step, with so many layers."""
    config = replace(settings.config, n_layer=layers)
    step, taken = (
        training_step(
            replace(settings, config=config), backends.get(settings.ops, dtype=settings.dtype)
        ),
        [],
    )
    while len(taken) < STEPS or sum(taken) < ENOUGH:
        started = time.perf_counter()
        step()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken[1:])


def smallest(config: Config) -> Config:
    """A model that needs the same kernels, and no time."""
    return replace(config, vocab_size=64, context_length=16, n_layer=1, n_head=1, n_embd=16)


def batch_size(settings: RunConfig, rate: float, budget: float) -> int:
    """The config's own, or so much less that one layer takes at most a third of the budget."""
    batch, one = settings.training.batch_size, replace(settings.config, n_layer=1)
    while batch > 1:
        floor = flops.training_step(one, batch, one.context_length) / rate
        if STEPS * SLOW * floor <= budget / 3:
            break
        batch //= 2
    return batch


def next_layers(
    settings: RunConfig, points: tuple[Point, ...], budget: float, available: int | None
) -> int | None:
    """How many layers to time next; None where there is no time, no memory, or no need."""
    config, batch = settings.config, settings.training.batch_size
    left = budget - sum(STEPS * point.seconds for point in points)
    match points:
        case ():
            return 1
        case (one,):  # as many as half the time is enough for, or else all of it
            for share, layers in product((0.5, 1.0), range(config.n_layer, 1, -1)):
                seconds = STEPS * by_operations(config, batch, one, layers)
                if seconds <= share * left and fits(settings, layers, available):
                    return layers
        case (one, most) if 2 < most.layers < config.n_layer:
            layers = (one.layers + most.layers) // 2
            if STEPS * on_line(points, layers) <= left:
                return layers
    return None


def fits(settings: RunConfig, layers: int, available: int | None) -> bool:
    """Is there memory for a step with so many layers?"""
    config, size = settings.config, 8 if settings.dtype == "float64" else 4
    numbers = 4 * params.size(replace(config, n_layer=layers))  # gradients, and two moments
    rows = settings.training.batch_size * config.context_length
    numbers += ACTIVATIONS * layers * rows * config.n_embd
    return available is None or numbers * size <= ROOM * available


# What follows


def estimate(config: Config, measured: Measured) -> Estimate:
    """What was measured, carried over to all layers."""
    L, T, (batch, rate, points) = config.n_layer, config.context_length, measured
    one, *more = points
    timed, miss = {point.layers: point.seconds for point in points}, None
    if L in timed:
        seconds, way = timed[L], "measured"
    elif more:
        seconds, way = on_line(points, L), "line"
        for between in more[1:]:
            miss = on_line(points, between.layers) / between.seconds - 1
    else:
        seconds, way = by_operations(config, batch, one, L), "operations"
    operations = flops.training_step(config, batch, T)
    share = operations / seconds / rate
    return Estimate(seconds, way, miss, batch * T / seconds, operations, share)


def on_line(points: tuple[Point, ...], layers: int) -> float:
    """Seconds with so many layers, on the line through the first two points."""
    one, most = points[:2]
    each = (most.seconds - one.seconds) / (most.layers - one.layers)
    return one.seconds + (layers - one.layers) * each


def by_operations(config: Config, batch: int, point: Point, layers: int) -> float:
    """Seconds with so many layers, if a step takes as long for each of its operations."""

    def operations(count):
        return flops.training_step(replace(config, n_layer=count), batch, config.context_length)

    return point.seconds * operations(layers) / operations(point.layers)
