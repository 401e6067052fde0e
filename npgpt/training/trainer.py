"""The training loop: a generator of events. It computes; whoever looks on shows and keeps."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from npgpt.arrays import Array
from npgpt.config import TrainingConfig
from npgpt.data.loader import Loader, windows
from npgpt.errors import InputError, RunError
from npgpt.gpt import GPT
from npgpt.inference.generate import generate
from npgpt.model import params
from npgpt.rng import Generator
from npgpt.training import optim

# what overflows is looked for afterwards, in the loss and in the norm
QUIETLY = np.errstate(over="ignore", invalid="ignore", divide="ignore")


@dataclass
class Evaluation:
    """Loss of both splits after `step`, which counts from 0. One line of metrics.jsonl."""

    step: int
    epoch: int  # from 1
    tokens_seen: int
    train_loss: float  # nats per token; exp of it is the perplexity
    val_loss: float
    lr: float
    tokens_per_s: float  # trained, the time of evaluations not counted


@dataclass
class Sample:
    """What the model says after an epoch: the prompt and what it continues with, greedily."""

    step: int
    epoch: int
    tokens: list[int]


@dataclass
class Step:
    """The end of one step, with everything that belongs to it done: the moment to stop or save."""

    step: int
    epoch: int
    loss: float  # of the batches of this step, before the step
    lr: float
    norm: float | None  # of the gradient, before clipping; None where nothing is clipped
    tokens_seen: int
    tokens_per_s: float
    ends_epoch: bool


Event = Evaluation | Sample | Step


@dataclass
class Progress:
    """How far a run is. With the parameters, both moments and the random state it is all of it."""

    step: int = 0  # steps made
    epoch: int = 0  # epochs finished
    position: int = 0  # batches of this epoch that are done
    tokens_seen: int = 0
    order: Array | None = None  # of this epoch's windows; None between two epochs
    history: list[dict[str, Any]] = field(default_factory=list)  # one per Evaluation
    samples: list[dict[str, Any]] = field(default_factory=list)  # one per Sample

    def __post_init__(self):
        for name in ("step", "epoch", "position", "tokens_seen"):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < 0:
                raise InputError(f"{name} is {getattr(self, name)!r}, but has to be 0 or more")


class Trainer:
    """A run: a model, its data, its optimiser, its generator, and how far it is."""

    def __init__(
        self,
        model: GPT,
        train_tokens: Array,
        val_tokens: Array,
        training: TrainingConfig,
        rng: Generator,
        *,
        prompt: list[int],
        progress: Progress | None = None,
    ):
        """`train_tokens`, `val_tokens` (N,) integers; `prompt` the ids each sample continues.

        Raises InputError where a split is too short for one batch.
        """
        self.model, self.training, self.rng, self.prompt = model, training, rng, prompt
        self.progress = Progress() if progress is None else progress
        T, per_step = model.config.context_length, training.batch_size * training.grad_accumulation
        stride = training.stride or T
        inputs, targets = windows(train_tokens, T, stride, what="training")
        if len(inputs) < per_step:
            raise InputError(
                f"the training split makes {len(inputs)} windows ({len(train_tokens)} tokens, "
                f"context {T}, stride {stride}), but one step needs {per_step} (batch size "
                f"{training.batch_size}, accumulation {training.grad_accumulation})"
            )
        self.steps_data = Loader(inputs, targets, batch_size=per_step, shuffle=True, drop_last=True)
        once = dict(batch_size=training.batch_size)
        self.train_data = Loader(inputs, targets, **once, shuffle=True, drop_last=True)
        inputs, targets = windows(val_tokens, T, stride, what="validation")
        self.val_data = Loader(inputs, targets, **once, shuffle=False, drop_last=False)

        self.optimizer = optim.AdamW(
            model.params,
            lr=training.lr,
            betas=(training.beta1, training.beta2),
            eps=training.eps,
            weight_decay=training.weight_decay,
            decays=optim.DECAYS[training.decay],
            ops=model.ops,
        )
        self.gradients = params.zeros(model.config, model.dtype)
        if training.grad_accumulation > 1:
            self.more_gradients = params.zeros_like(self.gradients)
        self.tokens_per_epoch = len(self.steps_data) * per_step * T
        self.total_steps = training.epochs * len(self.steps_data)
        if training.steps is not None:
            self.total_steps = training.steps
        self.seconds = self.trained = 0.0  # since the last evaluation: time, and tokens in it

    def events(self) -> Iterator[Event]:
        """Trains to the end, telling what happens. May be left after any Step, and gone on with."""
        p = self.progress
        while p.step < self.total_steps:
            if p.order is None:
                p.order = self.steps_data.order(self.rng)
            for tokens, targets in self.steps_data.batches(p.order, start=p.position):
                yield from self.step(tokens, targets)
                if p.step == self.total_steps or p.order is None:
                    break

    def step(self, tokens: Array, targets: Array) -> Iterator[Event]:
        """One step, and what is due after it; at the end of an epoch, a sample."""
        p, index, epoch = self.progress, self.progress.step, self.progress.epoch + 1
        started = time.perf_counter()
        lr = self.learning_rate(index)
        loss, norm = self.update(tokens, targets, lr)
        self.seconds += time.perf_counter() - started
        self.trained += tokens.size
        p.step, p.position, p.tokens_seen = p.step + 1, p.position + 1, p.tokens_seen + tokens.size
        speed = self.trained / self.seconds

        if index % self.training.eval_every == 0:
            losses = self.evaluate()
            for what, value in zip(("training loss", "validation loss"), losses, strict=True):
                stop_unless_finite(what, value, index)
            seen = Evaluation(index, epoch, p.tokens_seen, *losses, lr, speed)
            p.history.append(vars(seen))
            self.seconds = self.trained = 0.0
            yield seen
        ends_epoch = p.position == len(self.steps_data)
        if ends_epoch:
            p.epoch, p.position, p.order = p.epoch + 1, 0, None
            sample = Sample(index, epoch, self.sample())
            p.samples.append(vars(sample))
            yield sample
        yield Step(index, epoch, loss, lr, norm, p.tokens_seen, speed, ends_epoch)

    @QUIETLY
    def update(self, tokens: Array, targets: Array, lr: float) -> tuple[float, float | None]:
        """Forward, backward, AdamW. Returns the loss and the gradient's norm (None: not clipped).

        With accumulation, the batch goes through in parts of equal size, each with its share of the
        loss: the sum of their gradients is the gradient of the whole.
        """
        parts = self.training.grad_accumulation
        loss = 0.0
        for i, part in enumerate(np.split(np.arange(len(tokens)), parts)):
            home = self.gradients if i == 0 else self.more_gradients
            value, cache = self.model.loss(tokens[part], targets[part], self.rng, out=home)
            loss += float(value) / parts
            self.model.backward(cache, out=home, dloss=1 / parts)
            if i > 0:
                add(self.gradients, home)
        norm, scale, clip = None, 1.0, self.training.grad_clip
        if clip is not None:
            norm = optim.global_norm(self.gradients, ops=self.model.ops)
            if self.progress.step >= self.training.warmup_steps:
                scale = optim.clip_scale(norm, clip)
        stop_unless_finite("loss", loss, self.progress.step)
        stop_unless_finite("gradient's norm", norm or 0.0, self.progress.step)
        self.optimizer.step(self.gradients, lr=lr, scale=scale)
        return loss, norm

    def learning_rate(self, index: int) -> float:
        """Of the step `index`, counted from 0."""
        t = self.training
        return optim.learning_rate(
            index,
            total=self.total_steps,
            warmup=t.warmup_steps,
            peak=t.lr,
            initial=t.initial_lr,
            lowest=t.lr if t.min_lr is None else t.min_lr,
        )

    @QUIETLY
    def evaluate(self) -> tuple[float, float]:
        """Training and validation loss without dropout, each the mean over some batches."""
        rng = self.rng
        if self.training.eval_rng == "separate":  # the step for a seed: nothing to save and restore
            rng = Generator(self.progress.step, ops=rng.ops)
        return self.mean_loss(self.train_data, rng), self.mean_loss(self.val_data, rng)

    def mean_loss(self, data: Loader, rng: Generator) -> float:
        """Over `eval_batches` batches of a pass."""
        most = self.training.eval_batches or len(data)
        batches = zip(range(most), data.batches(data.order(rng)), strict=False)
        losses = [float(self.model.evaluate(*batch)) for _, batch in batches]
        return sum(losses) / len(losses)

    @QUIETLY
    def sample(self) -> list[int]:
        """The prompt and its greedy continuation."""
        new = generate(self.model, self.prompt, self.training.sample_tokens)
        return [*self.prompt, *(int(token[0]) for token in new)]


def stop_unless_finite(what: str, value: float, step: int) -> None:
    """Raises RunError for a number that has become none."""
    if not np.isfinite(value):
        raise RunError(
            f"the {what} became {value} at step {step}. "
            "Try a lower --lr, a longer warmup, or --grad-clip 1"
        )


def add(total: params.Params, more: params.Params) -> None:
    """`more` added into `total`, name by name."""
    for (_, a), (_, b) in zip(params.named(total), params.named(more), strict=True):
        a += b
