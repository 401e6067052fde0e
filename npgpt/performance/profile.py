"""Where the time of a training step, or of a new token, goes: op by op.

The model takes its backend as an argument. Here it is given one that computes as another does,
keeps the time of every call, and counts what the call has to do at the least: operations of matrix
products (npgpt/performance/flops.py), and bytes of arrays that go in or come out. The floor of a
call is what that takes at the machine's peaks (npgpt/performance/roofline.py).
"""

import inspect
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import NamedTuple

from npgpt import backends
from npgpt.config import Config, RunConfig
from npgpt.errors import InputError
from npgpt.gpt import GPT
from npgpt.inference.generate import generate
from npgpt.model import params
from npgpt.performance import flops, roofline
from npgpt.rng import Generator
from npgpt.system.machine import gib, memory
from npgpt.training.trainer import Trainer

MOST_ROWS = 512  # positions for which the rate of products is measured: more are no faster


class Work(NamedTuple):
    """What one call has to do at the least."""

    operations: int = 0
    bytes: int = 0
    note: str = ""  # what tells it from other calls of its op


class Call(NamedTuple):
    """One call of an op."""

    op: str  # "linear.forward 768 -> 3072"
    seconds: float
    work: Work


class Round(NamedTuple):
    """One step or token: the seconds of all of it, and its calls."""

    seconds: float
    calls: list[Call]


class Peaks(NamedTuple):
    """What the machine does at most."""

    operations: float  # a second, in matrix products
    bytes: float  # a second, read from memory

    def floor(self, work: Work) -> float:
        """Seconds that this work takes at the least."""
        return max(work.operations / self.operations, work.bytes / self.bytes)


class Row(NamedTuple):
    """All calls of one op in a round."""

    op: str
    calls: int
    seconds: float
    operations: int
    bytes: int
    floor: float  # seconds


class Timed:
    """A backend that computes as `ops` does. `calls`: what was called, in order."""

    def __init__(self, ops):
        self.calls: list[Call] = []
        for name in ops.__all__:
            functions = inspect.getmembers(getattr(ops, name), inspect.isfunction)
            timed = {own: self.timed(f"{name}.{own}", function) for own, function in functions}
            setattr(self, name, SimpleNamespace(**timed))

    def timed(self, op: str, function: Callable) -> Callable:
        """The function, which now leaves a Call behind."""
        count = COUNTS.get(op, lambda *args, **options: Work())

        def call(*args, **options):
            work = count(*args, **options)
            started = time.perf_counter()
            out = function(*args, **options)
            seconds = time.perf_counter() - started
            self.calls.append(Call(f"{op} {work.note}".rstrip(), seconds, work))
            return out

        return call


# What is profiled


def training_step(settings: RunConfig, ops) -> Callable[[], object]:
    """A function that makes one training step of these settings, on the backend `ops`.

    Raises InputError where parameters, gradients and moments do not fit into memory.
    """
    config, training = settings.config, settings.training
    check_memory(4 * bytes_of(settings), "parameters, gradients and both moments")
    rng = Generator(training.seed, ops=backends.get(settings.ops, dtype=settings.dtype))
    model = GPT(config, seed=rng, dtype=settings.parameter_dtype, scheme=settings.init, ops=ops)
    rows, T = training.batch_size * training.grad_accumulation, config.context_length
    tokens = rng.randint(0, config.vocab_size, rows * T + 1)
    trainer = Trainer(model, tokens, tokens, training, rng, prompt=[0])
    batch = tokens[:-1].reshape(rows, T), tokens[1:].reshape(rows, T)
    # a learning rate of 0, so that the numbers stay what they are: it is the time that counts
    return lambda: trainer.update(*batch, 0.0)


def new_token(
    settings: RunConfig, ops, *, position: int | None, count: int
) -> Callable[[], object]:
    """A function that makes one token of each row, `count` times at most, on the backend `ops`.

    The first call reads a prompt, so that the second one's token stands at `position` (None: in the
    middle of the context). Raises InputError where so many tokens do not fit into the context, or
    the parameters into memory.
    """
    config, rows = settings.config, settings.training.batch_size
    last = config.context_length - count
    if last < 1:
        raise InputError(
            f"a context of {config.context_length} has no room for {count} tokens: choose fewer "
            "--rounds or a longer --context-length"
        )
    position = min(config.context_length // 2, last) if position is None else position
    if not 1 <= position <= last:
        raise InputError(
            f"position is {position}, but has to be in 1 to {last}: the context is "
            f"{config.context_length}, and {count} tokens are made"
        )
    check_memory(bytes_of(settings), "parameters")
    rng = Generator(settings.training.seed, ops=backends.get(settings.ops, dtype=settings.dtype))
    model = GPT(config, seed=rng, dtype=settings.parameter_dtype, scheme=settings.init, ops=ops)
    tokens = generate(model, rng.randint(0, config.vocab_size, (rows, position)), count)
    return lambda: next(tokens)


def bytes_of(settings: RunConfig) -> int:
    """Of the parameters."""
    return params.size(settings.config) * (8 if settings.dtype == "float64" else 4)


def check_memory(needed: int, what: str) -> None:
    """Raises InputError where so many bytes are not to be had."""
    _, available = memory()
    if available is not None and needed > available:
        raise InputError(
            f"{what} take {gib(needed)}, but {gib(available)} of memory are available: "
            "choose fewer --n-layer or a smaller --n-embd"
        )


# How it is profiled


def rounds(run: Callable[[], object], timed: Timed, count: int) -> Iterator[Round]:
    """So many rounds of what runs on the timed backend.

    The first is not like the others: kernels are compiled, memory is new.
    """
    for _ in range(count):
        timed.calls.clear()
        started = time.perf_counter()
        run()
        yield Round(time.perf_counter() - started, list(timed.calls))


def measure_peaks(config: Config, rows: int, *, backward: bool, dtype: str) -> Peaks:
    """Of this machine, at the shapes of this model with so many positions."""
    rows = min(rows, MOST_ROWS)
    rate = roofline.multiplying(flops.linears(config), rows, backward=backward, dtype=dtype)
    return Peaks(rate, roofline.reading())


def middle(found: list[Round]) -> Round:
    """The round with the median time, so that its parts add up."""
    return sorted(found, key=lambda one: one.seconds)[len(found) // 2]


def table(one: Round, best: Peaks) -> list[Row]:
    """What happened in a round, op by op, the longest first; at the end what is between ops."""
    made: dict[str, Row] = {}
    for op, seconds, work in one.calls:
        row = made.get(op, Row(op, 0, 0.0, 0, 0, 0.0))
        made[op] = Row(op, row.calls + 1, row.seconds + seconds, row.operations + work.operations,
                       row.bytes + work.bytes, row.floor + best.floor(work))  # fmt: skip
    between = one.seconds - sum(row.seconds for row in made.values())
    ordered = sorted(made.values(), key=lambda row: row.seconds, reverse=True)
    return [*ordered, Row("between the ops", 0, between, 0, 0, 0.0)]


# What a call has to do: functions of its arguments, by the name of the op


def linear_forward(x, p, **_) -> Work:
    """x (N, I) @ weight (I, O)"""
    (I, O), N = p.weight.shape, x.size // x.shape[-1]
    return Work(2 * N * I * O, x.itemsize * (N * I + I * O + N * O), f"{I} -> {O}")


def linear_backward(dout, cache, g, **_) -> Work:
    """Reads dout, x, weight; writes dx and the weight's gradient."""
    (I, O), N = g.weight.shape, dout.size // dout.shape[-1]
    return Work(4 * N * I * O, dout.itemsize * (N * O + 2 * N * I + 2 * I * O), f"{I} -> {O}")


def attention_forward(qkv, *, past=None, **_) -> Work:
    """Reads queries, keys and values, remembered ones too; writes as many numbers as queries."""
    B, T, C = *qkv.shape[:-1], qkv.shape[-1] // 3
    start = past.length if past is not None else 0
    numbers = B * (4 * T + 2 * start) * C
    return Work(flops.attention(C, B, T, start), qkv.itemsize * numbers)


def attention_backward(dout, cache, **_) -> Work:
    """Reads dout, queries, keys, values; writes the gradients of the last three."""
    B, T, C = dout.shape
    return Work(2 * flops.attention(C, B, T), 7 * dout.nbytes)


def decode_forward(x, blocks, *, past, **_) -> Work:
    """Reads the blocks' parameters, and the keys and values that are remembered."""
    B, C, L, start = len(x), x.shape[-1], len(blocks), past[0].length
    arrays = [array for _, array in params.named(blocks)]
    weights = sum(array.nbytes for array in arrays)
    matrices = sum(array.size for array in arrays if array.ndim == 2)
    remembered = 2 * L * B * start * C * x.itemsize
    return Work(2 * B * matrices + L * flops.attention(C, B, 1, start), weights + remembered)


def passes(count: int) -> Callable[..., Work]:
    """Arrays of the first argument's size that go in or come out."""
    return lambda x, *args, **options: Work(bytes=count * x.nbytes)


def dropout_forward(x, *, rate, rng=None, **_) -> Work:
    """x and out, where anything is dropped."""
    return Work(bytes=2 * x.nbytes if rng is not None and rate else 0)


def dropout_backward(dout, cache, **_) -> Work:
    """dout and dx, where anything was dropped."""
    return Work(bytes=2 * dout.nbytes if cache.keep is not None else 0)


def embedding_forward(tokens, p, **_) -> Work:
    """A row of each matrix in for every row out, the positions' once for all sequences."""
    (B, T), (_, C) = tokens.shape, p.wte.shape
    return Work(bytes=p.wte.itemsize * (2 * B * T + T) * C)


def embedding_backward(dout, cache, g) -> Work:
    """dout in; a row of tokens in and out for each of it; all positions out."""
    return Work(bytes=3 * dout.nbytes + g.wpe.nbytes)


def head_forward(x, weight, targets, **_) -> Work:
    """Three products: the logits, and the gradients of both factors."""
    (V, C), N = weight.shape, targets.size
    return Work(6 * N * V * C, 2 * (x.nbytes + weight.nbytes))


def head_backward(dloss, cache, g, **_) -> Work:
    """Two gradients, scaled."""
    return Work(bytes=2 * (cache.dx.nbytes + g.nbytes))


def head_evaluate(x, weight, targets, **_) -> Work:
    """One product: the logits."""
    (V, C), N = weight.shape, targets.size
    return Work(2 * N * V * C, x.nbytes + weight.nbytes)


COUNTS: dict[str, Callable[..., Work]] = {
    "embedding.forward": embedding_forward,
    "embedding.backward": embedding_backward,
    "layernorm.forward": passes(2),
    "layernorm.backward": passes(3),
    "linear.forward": linear_forward,
    "linear.backward": linear_backward,
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
    "adamw.update": passes(7),
    "adamw.square_sum": passes(1),
}
