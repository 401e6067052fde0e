"""Start a training run, or resume one from a checkpoint."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from npgpt import backends
from npgpt.config import LEARNING_RATE, RunConfig, TrainingConfig
from npgpt.data.dataset import Tokens
from npgpt.data.mapped_loader import MappedLoader
from npgpt.download.resolve import resolve
from npgpt.errors import ConfigError, InputError, WeightFileError
from npgpt.gpt import GPT
from npgpt.model import finite
from npgpt.model.params import crop
from npgpt.rng import Generator
from npgpt.training import schedule
from npgpt.training.events import Progress
from npgpt.training.trainer import Trainer
from npgpt.weights import checkpoint, formats
from npgpt.weights.tokenizer_files import TokenizerName
from npgpt.weights.weight_file import WeightFile


def start(
    settings: RunConfig,
    tokens: Tokens,
    *,
    model: GPT | None = None,
    kind: Callable[..., Trainer] = Trainer,
) -> Trainer:
    """Return the Trainer of a new run. Without `model`, its parameters are drawn or loaded.

    One generator, seeded by the settings, draws the parameters first and all else after them.
    `kind`: the class of the trainer.
    """
    rng = Generator(settings.training.seed, ops=backends.get(settings.ops, dtype=settings.dtype))
    model = initial_model(settings, rng, tokens.tokenizer.origin) if model is None else model
    return make_trainer(settings, tokens, model, rng, kind=kind)


def initial_model(settings: RunConfig, rng: Generator, tokenizer: TokenizerName) -> GPT:
    """Return the model at the start of a run: drawn from `rng`, or loaded from `init_from`."""
    if settings.init_from is not None:
        source = open_trainable(settings.init_from, verify=True)
        free = {name: getattr(source.config, name) for name in ("context_length", "dropout")}
        if replace(settings.config, **free) != source.config:
            raise ConfigError(
                f"{settings.init_from} holds a model with {source.config}, not {settings.config}"
            )
        tree = crop(source.params("float32"), settings.config.context_length)
        model = GPT.from_params(settings.config, tree, ops=rng.ops, tokenizer=tokenizer)
        model.path = source.path
        finite.check_trainable(tree, source.path)
        return model
    return GPT(
        settings.config,
        seed=rng,
        dtype=settings.dtype,
        scheme=settings.init,
        ops=rng.ops,
        tokenizer=tokenizer,
    )


def open_trainable(path: str | Path, *, verify: bool = False) -> WeightFile:
    """Open the weights at `path` to train from them. Raise InputError if they are int8."""
    source = formats.open_weights(resolve(path), verify=verify)
    if source.weights == "int8":
        raise InputError(
            f"{source.path} holds int8 weights, which are too coarse to train. "
            "Start from the float32 model that was quantized"
        )
    return source


def make_trainer(
    settings: RunConfig,
    tokens: Tokens,
    model: GPT,
    rng: Generator,
    progress: Progress | None = None,
    kind: Callable[..., Trainer] = Trainer,
) -> Trainer:
    """Return a Trainer for these settings, at the start or at `progress`."""
    prompt = tokens.tokenizer.encode(settings.training.prompt)
    if not prompt:
        raise ConfigError("the prompt is empty: give --prompt at least one character")
    return kind(
        model, tokens.train, tokens.val, settings.training, rng, prompt=prompt, progress=progress
    )


def resume(
    settings: RunConfig,
    tokens: Tokens,
    model: GPT,
    saved: checkpoint.TrainingState,
    kind: Callable[..., Trainer] = Trainer,
) -> Trainer:
    """Return the Trainer of a saved run. It continues bit for bit like one never interrupted."""
    require_same_text(settings, tokens, saved.state["data_sha256"])
    rng = Generator.from_state(saved.random_state, ops=model.ops)
    order = saved.order if saved.order.size else None
    progress = Progress(**saved.state["progress"], order=order)
    trainer = make_trainer(settings, tokens, model, rng, progress, kind)
    count, batches = trainer.steps_data.size, len(trainer.steps_data)
    if order is not None and len(order) != count:
        raise WeightFileError(
            f"the checkpoint has an order of {len(order)} windows, the text makes {count}"
        )
    within = order is not None or isinstance(trainer.steps_data, MappedLoader)
    if progress.position >= (batches if within else 1):
        raise WeightFileError(
            f"the checkpoint is {progress.position} batches into an epoch of {batches} batches"
        )
    trainer.load_moments(saved.moments, progress.step)
    return trainer


def require_same_text(settings: RunConfig, tokens: Tokens, data_sha256: str) -> None:
    """Raise InputError unless `data_sha256` is the digest of the tokens."""
    if tokens.sha256 != data_sha256:
        raise InputError(
            f"the text {', '.join(settings.sources)} is not the one this run was trained on: "
            f"its tokens hash to {tokens.sha256[:12]}, not {data_sha256[:12]}"
        )


def describe_new_rate(before: TrainingConfig, trainer: Trainer) -> str | None:
    """Return a line about a learning rate that other settings, or another length, have changed.

    `before`: the settings of the run until now.
    """
    now, step, total = trainer.training, trainer.progress.step, trainer.total_steps
    old_total = schedule.count_steps(before, len(trainer.steps_data), trainer.tokens_per_step)
    changes = [
        f"{name} is {getattr(now, name)}, before {getattr(before, name)}"
        for name in LEARNING_RATE
        if getattr(now, name) != getattr(before, name)
    ]
    if total != old_total and now.min_lr is not None:
        changes.append(f"its curve ends at step {total}, before {old_total}")
    if not changes or not 0 < step < total:
        return None
    old = schedule.rate_of_step(before, step, old_total)
    new = schedule.rate_of_step(now, step, total)
    return f"Learning rate: {'; '.join(changes)}. Step {step} has {new:.3g}, before {old:.3g}"
