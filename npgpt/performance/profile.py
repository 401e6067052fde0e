"""Profile a training step, or the generation of a token, op by op.

The model takes its backend as an argument. `TimedBackend` computes as another backend does, times
every call, and counts the work that the call cannot avoid: operations of matrix products
(npgpt/performance/flops.py), and bytes of its input and output arrays. The lower bound of a call is
the time of that work at the machine's peaks (npgpt/performance/roofline.py).
"""

import inspect
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np

from npgpt import backends
from npgpt.arrays import Array
from npgpt.config import Config, RunConfig
from npgpt.errors import ConfigError, InputError
from npgpt.gpt import GPT
from npgpt.inference.generate import generate
from npgpt.model import lora, params, trainable
from npgpt.ops.lora import Params as LoRA
from npgpt.ops.muon import ITERATIONS
from npgpt.performance import flops, roofline
from npgpt.rng import Generator
from npgpt.system.machine import format_gib, memory
from npgpt.training import optim
from npgpt.training.trainer import Trainer

PEAK_ROWS = 512  # positions for which the rate of products is measured: more are no faster


@dataclass(frozen=True)
class Work:
    """The least work of one call."""

    operations: int = 0
    bytes: int = 0
    note: str = ""  # distinguishes it from other calls of its op


@dataclass(frozen=True)
class Call:
    """One call of an op."""

    op: str  # "linear.forward 768 -> 3072"
    seconds: float
    work: Work


@dataclass(frozen=True)
class Round:
    """One step or token: its seconds, and its calls."""

    seconds: float
    calls: list[Call]


@dataclass(frozen=True)
class Peaks:
    """The machine's two limits."""

    operations: float  # per second, in matrix products
    bytes: float  # per second, read from memory

    def lower_bound(self, work: Work) -> float:
        """Return the least seconds that this work takes."""
        return max(work.operations / self.operations, work.bytes / self.bytes)


@dataclass(frozen=True)
class Row:
    """All calls of one op in a round."""

    op: str
    calls: int
    seconds: float
    operations: int
    bytes: int
    lower_bound: float  # seconds


class TimedBackend:
    """A backend that computes as `ops` does and records every call in `calls`, in order."""

    def __init__(self, ops: Any):
        self.calls: list[Call] = []
        for name in ops.__all__:
            functions = inspect.getmembers(getattr(ops, name), inspect.isfunction)
            timed = {own: self.timed(f"{name}.{own}", function) for own, function in functions}
            setattr(self, name, SimpleNamespace(**timed))

    def timed(self, op: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function with recording of its calls."""
        count = COUNTS.get(op, lambda *args, **options: Work())

        def call(*args: Any, **options: Any) -> Any:
            work = count(*args, **options)
            started = time.perf_counter()
            out = function(*args, **options)
            seconds = time.perf_counter() - started
            self.calls.append(Call(f"{op} {work.note}".rstrip(), seconds, work))
            return out

        return call


# Functions to profile


def prepare_training_step(settings: RunConfig, ops: Any) -> Callable[[], object]:
    """Return a function that makes one training step on the backend `ops`.

    Raises InputError if parameters, gradients and moments do not fit into memory.
    """
    config, training = settings.config, settings.training
    require_memory(training_bytes(settings), "parameters, gradients and moments")
    rng = Generator(training.seed, ops=backends.get(settings.ops, dtype=settings.dtype))
    model = GPT(config, seed=rng, dtype=settings.parameter_dtype, scheme=settings.init, ops=ops)
    rows, T = training.batch_size * training.grad_accumulation, config.context_length
    tokens = rng.randint(0, config.vocab_size, rows * T + 1)
    trainer = Trainer(model, tokens, tokens, training, rng)
    batch = tokens[:-1].reshape(rows, T), tokens[1:].reshape(rows, T)
    # With a learning rate of 0 the parameters do not change, so that every step is alike.
    return lambda: trainer.update(*batch, 0.0)


def prepare_generation(
    settings: RunConfig, ops: Any, *, position: int | None, count: int
) -> Callable[[], object]:
    """Return a function that generates one token per sequence on the backend `ops`.

    It may be called `count` times. The first call reads a prompt, so that the second call's token
    has the given position (None: the middle of the context). Raises InputError if `count` tokens do
    not fit into the context, or the parameters into memory.
    """
    config, rows = settings.config, settings.training.batch_size
    last = config.context_length - count
    if last < 1:
        raise ConfigError(
            f"a context of {config.context_length} is too short for {count} tokens: choose fewer "
            "--rounds or a longer --context-length"
        )
    position = min(config.context_length // 2, last) if position is None else position
    if not 1 <= position <= last:
        raise ConfigError(
            f"position is {position}, but must be in 1 to {last}: the context is "
            f"{config.context_length}, and {count} tokens are generated"
        )
    require_memory(parameter_bytes(settings), "parameters")
    rng = Generator(settings.training.seed, ops=backends.get(settings.ops, dtype=settings.dtype))
    model = GPT(config, seed=rng, dtype=settings.parameter_dtype, scheme=settings.init, ops=ops)
    tokens = generate(model, rng.randint(0, config.vocab_size, (rows, position)), count)
    return lambda: next(tokens)


def parameter_bytes(settings: RunConfig) -> int:
    """Return the size of the parameters in bytes."""
    return params.size(settings.config) * (8 if settings.dtype == "float64" else 4)


def training_bytes(settings: RunConfig) -> int:
    """Return the size of the parameters, their gradients and the optimizer's moments in bytes."""
    training = settings.training
    shapes = lora.shapes(params.shapes(settings.config), lora.of_run(training))
    gradients = trainable.only(shapes, training.trainable)
    trees = shapes, gradients, *optim.moment_shapes(training, shapes).values()
    numbers = sum(map(params.total, trees))
    return numbers * (8 if settings.dtype == "float64" else 4)


def require_memory(needed: int, what: str) -> None:
    """Raise InputError if `needed` bytes of memory are not available."""
    _, available = memory()
    if available is not None and needed > available:
        raise InputError(
            f"{what} take {format_gib(needed)}, but {format_gib(available)} of memory are "
            "available: choose fewer --n-layer or a smaller --n-embd"
        )


# Measuring


def run_rounds(run: Callable[[], object], backend: TimedBackend, count: int) -> Iterator[Round]:
    """Call `run`, which uses the timed backend, `count` times and yield the rounds.

    The first round differs from the others: it compiles kernels and allocates memory.
    """
    for _ in range(count):
        backend.calls.clear()
        started = time.perf_counter()
        run()
        yield Round(time.perf_counter() - started, list(backend.calls))


def measure_peaks(config: Config, rows: int, *, backward: bool, dtype: str) -> Peaks:
    """Measure this machine's peaks, at the shapes of this model with `rows` positions."""
    rows, linears = min(rows, PEAK_ROWS), flops.linears(config)
    rate = roofline.matmul_throughput(linears, rows, backward=backward, dtype=dtype)
    return Peaks(rate, roofline.memory_bandwidth())


def median_round(rounds: list[Round]) -> Round:
    """Return the round with the median time, so that its parts add up."""
    return sorted(rounds, key=lambda one: one.seconds)[len(rounds) // 2]


def summarize(one: Round, peaks: Peaks) -> list[Row]:
    """Return one row per op, the slowest first, and at the end the time between the ops."""
    rows: dict[str, Row] = {}
    for call in one.calls:
        op, work = call.op, call.work
        row = rows.get(op, Row(op, 0, 0.0, 0, 0, 0.0))
        rows[op] = Row(
            op,
            row.calls + 1,
            row.seconds + call.seconds,
            row.operations + work.operations,
            row.bytes + work.bytes,
            row.lower_bound + peaks.lower_bound(work),
        )
    between = one.seconds - sum(row.seconds for row in rows.values())
    ordered = sorted(rows.values(), key=lambda row: row.seconds, reverse=True)
    return [*ordered, Row("between the ops", 0, between, 0, 0, 0.0)]


# The least work of a call: functions of its arguments, by the name of the op


def linear_forward(x: Array, p: Any, **_: Any) -> Work:
    """Count x (N, I) @ weight (I, O), and the two products of an adapter."""
    (I, O), N, adapter = p.weight.shape, x.size // x.shape[-1], adapter_size(p)
    numbers = N * I + I * O + N * O + adapter
    return Work(2 * N * (I * O + adapter), x.itemsize * numbers, f"{I} -> {O}")


def linear_backward(dout: Array, cache: Any, g: Any, **_: Any) -> Work:
    """Count two products; dout, x and weight are read, dx and the weight's gradient written.

    Of a frozen weight it is one product. An adapter has four.
    """
    (I, O), N, adapter = cache.p.weight.shape, dout.size // dout.shape[-1], adapter_size(cache.p)
    products = 1 if g.weight is None else 2
    numbers = N * O + products * (N * I + I * O) + 2 * adapter
    operations = 2 * N * (products * I * O + 2 * adapter)
    return Work(operations, dout.itemsize * numbers, f"{I} -> {O}")


def adapter_size(p: Any) -> int:
    """Return the number of parameters of a linear layer's adapter, 0 without one."""
    return p.lora_a.size + p.lora_b.size if isinstance(p, LoRA) else 0


def attention_forward(qkv: Array, *, past: Any = None, **_: Any) -> Work:
    """Count the reads of queries, keys and values, cached ones included, and the output."""
    B, T, C = *qkv.shape[:-1], qkv.shape[-1] // 3
    start = past.length if past is not None else 0
    numbers = B * (4 * T + 2 * start) * C
    return Work(flops.attention(C, B, T, start), qkv.itemsize * numbers)


def attention_backward(dout: Array, cache: Any, **_: Any) -> Work:
    """Count the reads of dout, queries, keys and values, and the gradients of the last three."""
    B, T, C = dout.shape
    return Work(2 * flops.attention(C, B, T), 7 * dout.nbytes)


def decode_forward(x: Array, blocks: Any, *, past: Any, **_: Any) -> Work:
    """Count the reads of the blocks' parameters, and of the cached keys and values."""
    B, C, L, start = len(x), x.shape[-1], len(blocks), int(np.mean(past[0].length))
    arrays = [array for _, array in params.named(blocks)]
    weights = sum(array.nbytes for array in arrays)
    matrices = sum(array.size for array in arrays if array.ndim == 2)
    cached = 2 * L * B * start * C * x.itemsize
    return Work(2 * B * matrices + L * flops.attention(C, B, 1, start), weights + cached)


def passes(count: int) -> Callable[..., Work]:
    """Return a function that counts `count` arrays of the first argument's size."""
    return lambda x, *args, **options: Work(bytes=count * x.nbytes)


def dropout_forward(x: Array, *, rate: float, rng: Any = None, **_: Any) -> Work:
    """Count x and out, if anything is dropped."""
    return Work(bytes=2 * x.nbytes if rng is not None and rate else 0)


def dropout_backward(dout: Array, cache: Any, **_: Any) -> Work:
    """Count dout and dx, if anything was dropped."""
    return Work(bytes=2 * dout.nbytes if cache.keep is not None else 0)


def embedding_forward(tokens: Array, p: Any, **_: Any) -> Work:
    """Count a row of wte and one of out per token, and the rows of wpe once for all sequences."""
    (B, T), (_, C) = tokens.shape, p.wte.shape
    return Work(bytes=p.wte.itemsize * (2 * B * T + T) * C)


def embedding_backward(dout: Array, cache: Any, g: Any) -> Work:
    """Count dout, the rows of wte read and written for each of its rows, and all of wpe."""
    return Work(bytes=3 * dout.nbytes + g.wpe.nbytes)


def head_forward(x: Array, weight: Array, targets: Array, **_: Any) -> Work:
    """Count three products: the logits, and the gradients of both factors."""
    (V, C), N = weight.shape, targets.size
    return Work(6 * N * V * C, 2 * (x.nbytes + weight.nbytes))


def head_backward(dloss: float, cache: Any, g: Any, **_: Any) -> Work:
    """Count two gradients, scaled in place."""
    return Work(bytes=2 * (cache.dx.nbytes + g.nbytes))


def head_evaluate(x: Array, weight: Array, targets: Array, **_: Any) -> Work:
    """Count one product: the logits."""
    (V, C), N = weight.shape, targets.size
    return Work(2 * N * V * C, x.nbytes + weight.nbytes)


def muon_update(p: Array, *_: Any, parts: int = 1, **options: Any) -> Work:
    """Count three products per iteration; p, grad and m are read, and two of them written."""
    small, large = sorted((p.shape[0], p.shape[1] // parts))
    operations = 2 * small * small * (2 * large + small)
    return Work(ITERATIONS * parts * operations, 5 * p.nbytes)


def sgd_update(p: Array, grad: Array, m: Array | None, **_: Any) -> Work:
    """Count p and grad, and m if there is momentum; all but grad are written too."""
    return Work(bytes=(3 if m is None else 5) * p.nbytes)


COUNTS: dict[str, Callable[..., Work]] = {
    "embedding.forward": embedding_forward,
    "embedding.backward": embedding_backward,
    "layernorm.forward": passes(2),
    "layernorm.backward": passes(3),
    "linear.forward": linear_forward,
    "linear.backward": linear_backward,
    "lora.forward": linear_forward,
    "lora.backward": linear_backward,
    "attention.forward": attention_forward,
    "attention.backward": attention_backward,
    "decode.forward": decode_forward,
    "gelu.forward": passes(2),
    "gelu.backward": passes(3),
    "dropout.forward": dropout_forward,
    "dropout.backward": dropout_backward,
    "linear_cross_entropy.forward": head_forward,
    "linear_cross_entropy.backward": head_backward,
    "linear_cross_entropy.evaluate": head_evaluate,
    "linear_cross_entropy.log_probs": head_evaluate,
    "adam.update": passes(7),
    "adamw.update": passes(7),
    "adamw.square_sum": passes(1),
    "muon.update": muon_update,
    "rmsprop.update": passes(5),
    "sgd.update": sgd_update,
}
