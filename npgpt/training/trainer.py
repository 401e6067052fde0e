"""The training loop. `Trainer.events()` yields events; callers display and store them."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from npgpt.arrays import Array
from npgpt.config import TrainingConfig
from npgpt.data.loader import Loader, windows
from npgpt.data.mapped_loader import MappedLoader
from npgpt.data.mapped_tokens import MappedTokens, MixedTokens, require_windows
from npgpt.errors import InputError, RunError, show
from npgpt.gpt import GPT
from npgpt.inference.generate import generate
from npgpt.model import finite, lora, params, trainable
from npgpt.model.inputs import check_integer, check_kind, check_pair, check_sequence
from npgpt.ops.linear_cross_entropy import IGNORED
from npgpt.rng import Generator
from npgpt.training import optim, schedule
from npgpt.training.evaluation import make_evaluation, one_by_one
from npgpt.training.events import Evaluation, Event, Order, Progress, Sample, Step


class Trainer:
    """A training run: a model, its data, its optimizer, its random stream and its position.

    Parameters
    ----------
    model : GPT
        Model to train. Its parameters are updated in place.
    train_tokens, val_tokens : (N,) int array-like, MappedTokens or MixedTokens
        Token ids of the training and the validation split.
    training : TrainingConfig
        Hyperparameters. Its `trainable` is set in the model; None: as it is set there.
    rng : Generator
        Random stream of shuffling and dropout; with `eval_rng="shared"`, also of evaluations.
    prompt : sequence of int, default ()
        Token ids that the sample after each epoch continues. Empty: no samples.
    progress : Progress, optional
        Position to resume from; by default, the start.

    Attributes
    ----------
    optimizer : SGD, RMSprop, Adam, AdamW or Muon
    gradients : params.Params
        Gradient of the last step, before clipping.
    total_steps : int
    tokens_per_step : int
    tokens_per_epoch : int

    Raises
    ------
    InputError
        If a split is too short for one batch.

    Examples
    --------
    >>> for event in Trainer(model, train, val, TrainingConfig(), Generator(123)).events():
    ...     print(event)
    """

    def __init__(
        self,
        model: GPT,
        train_tokens: Array | MappedTokens | MixedTokens,
        val_tokens: Array | MappedTokens | MixedTokens,
        training: TrainingConfig,
        rng: Generator,
        *,
        prompt: Sequence[int] = (),
        progress: Progress | None = None,
    ) -> None:
        check_kind("model", model, GPT)
        check_kind("training", training, TrainingConfig)
        check_kind("rng", rng, Generator)
        mapped = MappedTokens | MixedTokens  # whose ids are checked when they are read
        if not isinstance(train_tokens, mapped):
            train_tokens = check_sequence(train_tokens, model.config, "training tokens")
        if not isinstance(val_tokens, mapped):
            val_tokens = check_sequence(val_tokens, model.config, "validation tokens")
        self.prompt: list[int] = check_sequence(prompt, model.config, "prompt").tolist()
        if progress is not None and not isinstance(progress, Progress):
            raise InputError(f"progress must be a Progress or None, not {show(progress)}")
        if training.lora_rank is not None and model.adapters is None:
            targets = training.lora_targets
            model.add_lora(training.lora_rank, training.lora_alpha, targets, seed=rng)
        if training.trainable is not None:
            model.set_trainable(*training.trainable)
        training = replace(training, trainable=model.trainable)  # which is None if it is all
        self.model, self.training, self.rng = model, training, rng
        self.progress = Progress() if progress is None else progress
        T, per_step = model.config.context_length, training.batch_size * training.grad_accumulation
        stride = training.stride or T
        self.steps_data = make_loader(train_tokens, T, stride, per_step, training.seed)
        if not len(self.steps_data):
            raise InputError(
                f"the training split makes {self.steps_data.size} windows ({len(train_tokens)} "
                f"tokens, context {T}, stride {stride}), but one step needs {per_step} (batch size "
                f"{training.batch_size}, accumulation {training.grad_accumulation})"
            )
        self.evaluations = tuple(
            make_evaluation(tokens, training, model.config, what)
            for tokens, what in ((train_tokens, "training"), (val_tokens, "validation"))
        )

        self.optimizer = optim.make(model.params, training, ops=model.ops)
        self.gradients: params.Params  # of the last step
        # no memory until they are written to
        self.part_gradients = trainable.zeros_like(model.params, model.trainable)
        self.tokens_per_step = per_step * T
        self.tokens_per_epoch = len(self.steps_data) * self.tokens_per_step
        self.total_steps = schedule.count_steps(
            training, len(self.steps_data), self.tokens_per_step
        )
        self.seconds = 0.0  # of the steps since the last evaluation
        self.tokens_timed = 0  # trained on in these seconds

    def events(self) -> Iterator[Event]:
        """Train to the last step and yield events.

        After any Step the caller may stop iterating; a new call continues from that step.

        Yields
        ------
        Evaluation or Sample or Step
            For each step: an Evaluation every `eval_every` steps, a Sample at the end of an epoch,
            and then always a Step.

        Raises
        ------
        RunError
            If a loss or the gradient's norm is not finite. The parameters are those before the
            step.
        """
        p = self.progress
        while p.step < self.total_steps:
            if p.order is None:
                p.order = self._order(p.epoch)
            for tokens, targets in self.steps_data.batches(p.order, start=p.position):
                yield from self._step_events(tokens, targets)
                if p.step == self.total_steps or p.order is None:
                    break

    def _order(self, epoch: int) -> Order:
        """Return the order of the windows in an epoch: drawn, or of mapped windows, computed."""
        data = self.steps_data
        return data.order(epoch) if isinstance(data, MappedLoader) else data.order(self.rng)

    def _step_events(self, tokens: Array, targets: Array) -> Iterator[Event]:
        """Make one step on a batch (B, T) and yield its events."""
        p, index, epoch = self.progress, self.progress.step, self.progress.epoch + 1
        started = time.perf_counter()
        lr = self.learning_rate(index)
        loss, norm = self.update(tokens, targets, lr)
        seconds = time.perf_counter() - started
        self.seconds += seconds
        self.tokens_timed += tokens.size
        p.step, p.position, p.tokens_seen = p.step + 1, p.position + 1, p.tokens_seen + tokens.size
        speed = self.tokens_timed / self.seconds

        if self.evaluates_after(index):
            train_loss, val_loss = self.split_losses()
            require_finite("training loss", train_loss, index)
            require_finite("validation loss", val_loss, index)
            evaluation = Evaluation(index, epoch, p.tokens_seen, train_loss, val_loss, lr, speed)
            p.history.append(vars(evaluation))
            self.seconds, self.tokens_timed = 0.0, 0
            yield evaluation
        ends_epoch = p.position == len(self.steps_data)
        if ends_epoch:
            p.epoch, p.position, p.order = p.epoch + 1, 0, None
            if self.prompt:
                sample = Sample(index, epoch, self.sample())
                p.samples.append(vars(sample))
                yield sample
        yield Step(index, epoch, p.tokens_seen, loss, lr, norm, seconds, speed, ends_epoch)

    @finite.ignore_overflow()
    def update(self, tokens: Array, targets: Array, lr: float) -> tuple[float, float | None]:
        """Update the parameters: forward, backward, clipping and the optimizer.

        With gradient accumulation, the batch is split into parts whose sizes differ by at most one
        row. Each part's loss is scaled by its share of the targets that are not ignored: the sum of
        the parts' gradients is the gradient of the batch. A mean of the parts' means would give
        targets in a part with few of them more weight.

        Parameters
        ----------
        tokens, targets : (B, T) int array
            Inputs and the tokens that follow them. Targets of -100 are ignored.
        lr : float
            Learning rate.

        Returns
        -------
        loss : float
            Mean cross-entropy before the update, in nats per token.
        norm : float or None
            Global norm of the gradient, or None if gradients are not clipped.

        Raises
        ------
        RunError
            If the loss or the norm is not finite; the parameters are unchanged.
        InputError
            If every target is ignored, or the model cannot read the tokens.
        """
        tokens, targets = check_pair(tokens, targets, self.model.config)
        loss, out, counts = 0.0, None, targets != IGNORED
        for part in np.array_split(np.arange(len(tokens)), self.training.grad_accumulation):
            if not (count := np.count_nonzero(counts[part])):
                continue
            parts = np.count_nonzero(counts) / count  # of this size; exact if none is ignored
            value, found = self.model.loss_and_gradients(
                tokens[part], targets[part], self.rng, out=out, dloss=1 / parts
            )
            loss += value / parts
            if out is None:
                self.gradients, out = found, self.part_gradients  # the first is the model's own
            else:
                add(self.gradients, found)
        if self.progress.step == 0 and not np.isfinite(loss):  # the learning rate is not to blame
            raise finite.error(f"the loss is {loss}", self.model.params, self.model.path)
        norm, scale, clip = None, 1.0, self.training.grad_clip
        if clip is not None:
            norm = schedule.global_norm(self.gradients, ops=self.model.ops)
            if self.progress.step >= self.training.warmup_steps:
                scale = schedule.clip_scale(norm, clip)
        require_finite("loss", loss, self.progress.step)
        require_finite("gradient's norm", norm or 0.0, self.progress.step)
        self.optimizer.step(self.gradients, lr=lr, scale=scale)
        self.model.path = None  # an error must not blame the file for what training has changed
        return loss, norm

    def learning_rate(self, index: int) -> float:
        """Return the learning rate of a step.

        Parameters
        ----------
        index : int
            Index of the step, counted from 0. After the last step the rate stays the same.

        Returns
        -------
        lr : float

        Raises
        ------
        InputError
            If `index` is negative or not an integer.
        """
        step = check_integer("index", index, least=0)
        return schedule.rate_of_step(self.training, step, self.total_steps)

    @finite.ignore_overflow()
    def split_losses(self) -> tuple[float, float]:
        """Return the losses of the training and the validation split, without dropout.

        Returns
        -------
        train_loss, val_loss : float
            Mean cross-entropy over about `eval_tokens` tokens of each, in nats per token. Without
            `eval_tokens`, over at most `eval_batches` batches.
        """
        rng = self.rng
        if self.training.eval_rng == "separate":
            # seeded by the step, so that a checkpoint needs no second random state
            rng = Generator(self.progress.step, ops=rng.ops)
        train, val = self.evaluations
        return train.loss(self.model, rng, self.each), val.loss(self.model, rng, self.each)

    def evaluates_after(self, index: int) -> bool:
        """Return True if an evaluation follows a step.

        Parameters
        ----------
        index : int
            Index of the step, counted from 0.

        Returns
        -------
        bool
        """
        return index % self.training.eval_every == 0

    def each(self, function: Callable[[int], float], count: int) -> list[float]:
        """Return the losses of an evaluation's batches.

        Parameters
        ----------
        function : callable
            `function(i)` returns the loss of batch i.
        count : int
            Number of batches.

        Returns
        -------
        (count,) list of float
        """
        return one_by_one(function, count)

    @finite.ignore_overflow()
    def sample(self) -> list[int]:
        """Return the prompt and its greedy continuation.

        Returns
        -------
        tokens : list of int
            The prompt's token ids and `sample_tokens` new ones.
        """
        model = self.model
        if model.adapters is not None:  # merged, because a token is faster without them
            model = GPT.from_params(model.config, lora.merge(model.params), ops=model.ops)
        new = generate(model, self.prompt, self.training.sample_tokens)
        return [*self.prompt, *new]

    def gather_moments(self) -> dict[str, params.Params]:
        """Return the moments of the optimizer for a checkpoint. They are not copied.

        Returns
        -------
        dict of Params
            By their names, such as "m" and "v".
        """
        return self.optimizer.moments

    def moments_to_copy(self) -> dict[str, params.Params]:
        """Return trees of the size of those of `gather_moments`, whose numbers do not matter.

        Returns
        -------
        dict of Params
            The moments, or on many ranks, whose moments are not gathered for it, zeros.
        """
        return self.gather_moments()

    def load_moments(self, moments: dict[str, params.Params], steps: int) -> None:
        """Continue with the moments of a checkpoint.

        Parameters
        ----------
        moments : dict of Params
            As returned by `gather_moments`.
        steps : int
            Number of steps made so far.
        """
        for name, tree in moments.items():
            setattr(self.optimizer, name, tree)
        self.optimizer.steps = steps


def make_loader(
    tokens: Array | MappedTokens | MixedTokens, T: int, stride: int, batch_size: int, seed: int
) -> Any:
    """Return the loader of the training split: a Loader, or a MappedLoader. Both are shuffled."""
    if isinstance(tokens, MappedTokens | MixedTokens):
        require_windows(tokens, T, "training")
        return MappedLoader(tokens, T, stride, batch_size=batch_size, seed=seed)
    inputs, targets = windows(tokens, T, stride, what="training")
    return Loader(inputs, targets, batch_size=batch_size, shuffle=True, drop_last=True)


def require_finite(name: str, value: float, step: int) -> None:
    """Raise RunError unless `value` is finite."""
    if not np.isfinite(value):
        raise RunError(
            f"the {name} became {value} at step {step}. "
            "Try a lower --lr, a longer warmup, or --grad-clip 1"
        )


def add(total: params.Params, other: params.Params) -> None:
    """Add the arrays of `other` to those of `total`, in place, but not those that are frozen."""
    pairs = (params.leaves(trainable.trained(tree)) for tree in (total, other))
    for a, b in zip(*pairs, strict=True):
        a += b
