"""Estimate how fast a config trains on this machine, from one minute of measurements.

Training steps are timed, with fewer layers if all of them would take too much time or memory. Every
block does the same work, so the time of a step is linear in the number of layers: a constant for
embedding, head and loss, plus a constant per block. The line goes through the smallest and the
largest model that was timed. A third model between them shows the error of the line.
"""

import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Literal

from npgpt import backends
from npgpt.config import Config, RunConfig
from npgpt.performance import flops, roofline
from npgpt.performance.profile import PEAK_ROWS, prepare_training_step, training_bytes
from npgpt.system.machine import memory

BUDGET = 45.0  # seconds for all timed steps; the rest of the minute is for the peak
STEPS = 2  # least number of steps per model; the first one allocates memory and is not counted
MIN_SECONDS = 2.0  # least time spent on one model
SLOWDOWN = 2.0  # assumed time of a step over its lower bound, before one has been timed
MEMORY_FRACTION = 0.8  # of the available memory that may be used
ACTIVATIONS = 20  # arrays (N, C) per block: 16 are kept for backward, the others are short-lived


@dataclass(frozen=True)
class TimedModel:
    """The number of layers of a model that was timed, and the seconds of one step."""

    layers: int
    seconds: float


@dataclass(frozen=True)
class Measurement:
    """The result of the measurements so far."""

    batch_size: int  # windows per step
    blas_rate: float  # operations per second of NumPy's BLAS in the products of a block
    points: tuple[TimedModel, ...]  # one layer, as many as the time allows, and some between


@dataclass(frozen=True)
class Estimate:
    """The training speed with all layers."""

    seconds: float  # of one step
    method: Literal["measured", "line", "operations"]
    line_error: float | None  # of the line at the model between its ends, relative to its time
    tokens_per_s: float
    operations: int  # of one step
    utilization: float  # operations per second over `blas_rate`


# Measuring


def measure(settings: RunConfig, *, budget: float = BUDGET) -> Iterator[Measurement]:
    """Time steps for at most `budget` seconds, not counting compilation.

    Yields the measurement after each of STAGES stages. Raises InputError if not even a model of one
    layer fits into memory.
    """
    config = settings.config
    rows = min(settings.training.batch_size * config.context_length, PEAK_ROWS)
    blocks = flops.linears(config)[:-1]
    rate = roofline.matmul_throughput(blocks, rows, backward=True, dtype=settings.parameter_dtype)
    measured = Measurement(batch_size(settings, rate, budget), rate, ())
    yield measured
    training = replace(settings.training, batch_size=measured.batch_size)
    settings = replace(settings, training=training)
    compile_settings = replace(settings, config=smallest(config))
    prepare_training_step(compile_settings, backends.get(settings.ops, dtype=settings.dtype))()
    yield measured
    for _ in range(3):
        layers = next_layers(settings, measured.points, budget, memory()[1])
        if layers is not None:
            point = TimedModel(layers, step_seconds(settings, layers))
            measured = replace(measured, points=(*measured.points, point))
        yield measured


STAGES = 5


def step_seconds(settings: RunConfig, layers: int) -> float:
    """Return the median seconds of one step with this number of layers."""
    settings = replace(settings, config=replace(settings.config, n_layer=layers))
    step = prepare_training_step(settings, backends.get(settings.ops, dtype=settings.dtype))
    seconds: list[float] = []
    while len(seconds) < STEPS or sum(seconds) < MIN_SECONDS:
        started = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[1:])


def smallest(config: Config) -> Config:
    """Return a config that needs the same kernels and almost no time."""
    return replace(config, vocab_size=64, context_length=16, n_layer=1, n_head=1, n_embd=16)


def batch_size(settings: RunConfig, rate: float, budget: float) -> int:
    """Return the settings' batch size, halved until one layer takes a third of the budget."""
    batch, one = settings.training.batch_size, replace(settings.config, n_layer=1)
    while batch > 1:
        lower_bound = flops.training_step(one, batch, one.context_length) / rate
        if STEPS * SLOWDOWN * lower_bound <= budget / 3:
            break
        batch //= 2
    return batch


def next_layers(
    settings: RunConfig, points: tuple[TimedModel, ...], budget: float, available: int | None
) -> int | None:
    """Return the number of layers to time next, or None if nothing else fits or is needed.

    `available`: bytes of memory, None if unknown.
    """
    config, batch = settings.config, settings.training.batch_size
    left = budget - sum(STEPS * point.seconds for point in points)
    match points:
        case ():
            return 1
        case (one,):  # as many as fit into half of the remaining time, or else into all of it
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
    """Return True if a step with this number of layers fits into memory."""
    config, itemsize = settings.config, 8 if settings.dtype == "float64" else 4
    rows = settings.training.batch_size * config.context_length
    activations = ACTIVATIONS * layers * rows * config.n_embd * itemsize
    needed = training_bytes(replace(settings, config=replace(config, n_layer=layers)))
    return available is None or needed + activations <= MEMORY_FRACTION * available


# Extrapolating


def extrapolate(config: Config, measured: Measurement) -> Estimate:
    """Return the training speed with all layers."""
    L, T, batch, points = (
        config.n_layer,
        config.context_length,
        measured.batch_size,
        measured.points,
    )
    one, *more = points
    timed = {point.layers: point.seconds for point in points}
    method: Literal["measured", "line", "operations"]
    line_error = None
    if L in timed:
        seconds, method = timed[L], "measured"
    elif more:
        seconds, method = on_line(points, L), "line"
        for between in more[1:]:
            line_error = on_line(points, between.layers) / between.seconds - 1
    else:
        seconds, method = by_operations(config, batch, one, L), "operations"
    operations = flops.training_step(config, batch, T)
    utilization = operations / seconds / measured.blas_rate
    return Estimate(seconds, method, line_error, batch * T / seconds, operations, utilization)


def on_line(points: tuple[TimedModel, ...], layers: int) -> float:
    """Return the seconds of a step, on the line through the first two points."""
    one, most = points[:2]
    slope = (most.seconds - one.seconds) / (most.layers - one.layers)
    return one.seconds + (layers - one.layers) * slope


def by_operations(config: Config, batch: int, point: TimedModel, layers: int) -> float:
    """Return the seconds of a step, if they are proportional to its operations."""

    def operations(count: int) -> int:
        return flops.training_step(replace(config, n_layer=count), batch, config.context_length)

    return point.seconds * operations(layers) / operations(point.layers)
