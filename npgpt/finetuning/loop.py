"""The training loop of chapters 6 and 7 of the book, on one random stream."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from npgpt.arrays import Array
from npgpt.config import Config
from npgpt.errors import InputError, RunError, show
from npgpt.finetuning.batches import Batches
from npgpt.model.inputs import check_integer, check_number
from npgpt.rng import Generator


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of fine-tuning.

    Parameters
    ----------
    epochs : int
    eval_every : int
        Steps from one evaluation to the next; the first follows the first step.
    eval_batches : int, default 5
        Batches of each split in an evaluation, at most.
    batch_size : int, default 8
    lr, weight_decay : float, default 5e-5 and 0.1
        Of AdamW.
    max_length : int or None, default None
        Tokens of a text, at most. None: the model's context length.
    trainable : sequence of str
        Patterns of the names of parameters that are trained.
    seed : int, default 123

    Raises
    ------
    InputError
        If a number is invalid.
    """

    epochs: int
    eval_every: int
    eval_batches: int = 5
    batch_size: int = 8
    lr: float = 5e-5
    weight_decay: float = 0.1
    max_length: int | None = None
    trainable: tuple[str, ...] = ("*",)
    seed: int = 123

    def __post_init__(self) -> None:
        for name in ("epochs", "eval_every", "eval_batches", "batch_size"):
            check_integer(name, getattr(self, name), least=1)
        for name in ("lr", "weight_decay"):
            check_number(name, getattr(self, name), least=0)
        if check_integer("seed", self.seed, least=0) >= 1 << 32:
            raise InputError(f"seed is {show(self.seed)}, but must be below 2**32, as for pandas")

    def longest(self, config: Config) -> int:
        """Return the largest number of tokens of a text. Raises InputError if it does not fit."""
        most = config.context_length
        if self.max_length is None:
            return most
        length = check_integer("max_length", self.max_length, least=1)
        if length > most:
            raise InputError(
                f"max_length is {show(length)}, but must be at most the model's {most}"
            )
        return length


class Task(Protocol):
    """A model and its optimizer. A batch is a tuple of arrays, as `Batches` yields."""

    def update(self, *batch: Any) -> float:
        """Update the parameters and return the loss before the update."""

    def loss(self, *batch: Any) -> float:
        """Return the loss, without dropout."""


@dataclass
class Step:
    """The end of a step: `step` counts from 0, `epoch` from 1, the loss is before the update."""

    step: int
    epoch: int
    examples_seen: int
    loss: float


@dataclass
class Evaluation:
    """The losses of two splits after a step."""

    step: int
    epoch: int
    examples_seen: int
    train_loss: float
    val_loss: float


@dataclass
class EpochEnd:
    """The end of an epoch."""

    step: int
    epoch: int
    examples_seen: int


Event = Step | Evaluation | EpochEnd


@dataclass
class Progress:
    """The position of a run, complete at every `Step` and `EpochEnd`.

    At an `EpochEnd` it is still in that epoch: a run that is resumed there yields it again.
    """

    step: int = 0  # steps made
    epoch: int = 1
    batch: int = 0  # batches of this epoch
    examples_seen: int = 0
    order: Array | None = None  # of this epoch's examples; None before its first batch


def train(
    task: Task, train: Batches, val: Batches, rng: Generator, settings: Settings, done: Progress
) -> Iterator[Event]:
    """Train from `done` on, and yield events. `rng` draws every order, also of evaluations.

    Raises RunError if a loss is not finite.
    """
    while done.epoch <= settings.epochs:
        if done.order is None:
            done.order, done.batch = train.order(rng), 0
        while done.batch < len(train):
            batch, step = train.batch(done.order, done.batch), done.step
            loss = task.update(*batch)
            require_finite("loss", loss, step)
            done.step, done.batch = step + 1, done.batch + 1
            done.examples_seen += len(batch[0])
            if step % settings.eval_every == 0:
                losses = [mean_loss(task, one, rng, settings.eval_batches) for one in (train, val)]
                require_finite("training loss", losses[0], step)
                require_finite("validation loss", losses[1], step)
                yield Evaluation(step, done.epoch, done.examples_seen, *losses)
            yield Step(step, done.epoch, done.examples_seen, loss)
        yield EpochEnd(done.step - 1, done.epoch, done.examples_seen)
        done.epoch, done.order = done.epoch + 1, None


def mean_loss(task: Task, batches: Batches, rng: Generator, limit: int | None = None) -> float:
    """Return the mean of the losses of all batches, or of the first `limit`."""
    total, count = 0.0, 0
    for batch in batches.draw(rng, limit):
        total += task.loss(*batch)  # one by one: sum() rounds in another way
        count += 1
    return total / count


def require_finite(name: str, value: float, step: int) -> None:
    """Raise RunError unless `value` is finite."""
    if not math.isfinite(value):
        raise RunError(f"the {name} became {value} at step {step}. Try a lower --lr")
