"""A training run as it happens: the events of the trainer, with sizes of gradients and samples."""

from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from npgpt.arrays import Array
from npgpt.config import RunConfig, TrainingConfig
from npgpt.data.dataset import read_tokens
from npgpt.explain.gradients import root_mean_square
from npgpt.model.params import named
from npgpt.training import run
from npgpt.training.events import Evaluation, Step
from npgpt.training.trainer import Trainer


class Point(NamedTuple):
    """One step."""

    step: int
    loss: float  # nats per token
    lr: float
    norm: float | None  # of the gradient, before clipping
    tokens_per_s: float
    sizes: Array | None  # (n,), root mean square of each parameter's gradient; None between


class Losses(NamedTuple):
    """The losses of both splits after a step."""

    step: int
    train: float
    val: float


class Text(NamedTuple):
    """A greedy continuation of the prompt after a step."""

    step: int
    text: str


class Rate(NamedTuple):
    """A new learning rate, the largest of the curve."""

    step: int  # the first one that has it
    lr: float


Event = Point | Losses | Text | Rate


class Live:
    """A run. `events` makes the steps; the caller stops it by iterating no further.

    `settings`: as for `npgpt train`. A model is drawn, or loaded from `init_from`.
    """

    def __init__(self, settings: RunConfig, *, sizes_every: int = 5, sample_every: int = 50):
        tokens = read_tokens(settings)
        self.tokenizer = tokens.tokenizer
        self.trainer: Trainer = run.start(settings, tokens)
        self.model = self.trainer.model
        self.names = [name for name, _ in named(self.model.params)]
        self.total = self.trainer.total_steps
        self.sizes_every, self.sample_every = sizes_every, sample_every
        self.changed = deque[TrainingConfig](maxlen=1)  # the last one counts

    def events(self) -> Iterator[Event]:
        """Train to the last step. After any event the caller may stop; a new call continues."""
        waiting = list[Event]()  # the trainer may be left only after a step
        for event in self.trainer.events():
            if isinstance(event, Evaluation):
                waiting.append(Losses(event.step, event.train_loss, event.val_loss))
            if not isinstance(event, Step):
                continue
            yield self.point(event)
            yield from waiting
            waiting.clear()
            if event.step % self.sample_every == 0 or event.step == self.total - 1:
                tokens = self.trainer.sample()
                yield Text(event.step, self.tokenizer.decode(tokens, unknown="\ufffd"))
            if self.changed and event.step < self.total - 1:
                self.trainer.training = self.changed.popleft()
                yield Rate(event.step + 1, self.trainer.training.lr)

    def change(self, **settings: Any) -> None:
        """Change settings of the learning rate while another thread iterates over `events`.

        They hold from the next step on, which an event tells.
        """
        self.changed.append(replace(self.trainer.training, **settings))

    def point(self, event: Step) -> Point:
        """Return the numbers of a step, with the sizes of its gradients every few steps."""
        sizes = None
        if event.step % self.sizes_every == 0:
            found = (root_mean_square(g) for _, g in named(self.trainer.gradients))
            sizes = np.fromiter(found, np.float64, len(self.names))
        return Point(event.step, event.loss, event.lr, event.norm, event.tokens_per_s, sizes)
