"""The flags of `npgpt train`: their defaults, and checks against a run or model named by a flag."""

import argparse
import contextlib
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import tyro

from npgpt.cli.common import OptimizerFlag, default
from npgpt.config import LEARNING_RATE, VOCABULARIES, Config, PresetName, RunConfig, TrainingConfig
from npgpt.errors import ConfigError
from npgpt.preset import FINE_TUNING, PRESETS, defaults

if TYPE_CHECKING:
    from npgpt.cli.train import Train

Sources = Annotated[tuple[str, ...], tyro.conf.arg(metavar="DATA [DATA ...]")]
Weights = Annotated[
    tuple[float, ...], default("in proportion to their windows", "NUMBER [NUMBER ...]")
]
ValSources = Annotated[tuple[str, ...], default("a part of --data", "DATA [DATA ...]")]
Patterns = Annotated[tuple[str, ...], default("all", "PATTERN [PATTERN ...]")]
Targets = Annotated[tuple[str, ...], tyro.conf.arg(metavar="LAYER [LAYER ...]")]
REPEATABLE = ("--data", "--data-weights", "--val-data", "--trainable", "--lora-targets")


# Values are validated after parsing: an error in __post_init__ would end in tyro's own message.
class ModelShape(Config):
    """Shape of the model."""

    def __post_init__(self) -> None:
        pass


class Hyperparameters(TrainingConfig):
    """Hyperparameters."""

    optimizer: OptimizerFlag  # type: ignore[assignment]
    trainable: Patterns
    lora_targets: Targets = ("c_attn",)

    def __post_init__(self) -> None:
        pass


@dataclass(frozen=True, kw_only=True)
class RunFlags(RunConfig):
    """Everything that determines the result of a run."""

    data: Sources
    data_weights: Weights
    val_data: ValSources
    tokenizer: Annotated[str, tyro.conf.arg(metavar="{byte,gpt2,PATH}")] = "byte"
    config: ModelShape
    training: Hyperparameters

    def __post_init__(self) -> None:
        pass

    @classmethod
    def of(cls, settings: RunConfig) -> "RunFlags":
        """Return flags with these values as defaults."""
        trainable = settings.training.trainable or ()
        parts: dict[str, Any] = {
            "data": settings.sources,
            "data_weights": settings.data_weights or (),
            "val_data": settings.val_sources,
            "config": ModelShape(**vars(settings.config)),
            "training": Hyperparameters(**vars(settings.training) | {"trainable": trainable}),
        }
        return cls(**vars(settings) | parts)

    def replace(self, values: dict[str, Any]) -> "RunFlags":
        """Return these flags with other values, by the names of the flags."""
        parts = {}
        for name in ("config", "training"):
            part = getattr(self, name)
            parts[name] = dataclasses.replace(part, **pick(values, part))
        return dataclasses.replace(self, **pick(values, self) | parts)

    def validated(self) -> RunConfig:
        """Return the settings. Raise ConfigError if they are invalid."""
        from npgpt.data.tokenizer_choice import absolute_tokenizer

        parts: dict[str, Any] = {
            "config": Config(**vars(self.config)),
            "training": TrainingConfig(**vars(self.training)),
            "tokenizer": absolute_tokenizer(self.tokenizer),
        }
        return RunConfig(**vars(self) | parts)


def pick(values: dict[str, Any], part: Any) -> dict[str, Any]:
    """Return those of the values that are fields of `part`."""
    found = {name: value for name, value in values.items() if hasattr(part, name)}
    for name, value in found.items():
        if isinstance(getattr(part, name), tuple):  # a flag with several values
            found[name] = (value,) if isinstance(value, str) else tuple(value or ())
    return found


def join_repeated(arguments: Sequence[str]) -> list[str]:
    """Return the arguments with all values of a REPEATABLE flag behind its first occurrence.

    --data A --data B is --data A B: argparse would take B alone.
    """
    groups: list[list[str]] = [[]]  # each but the first one begins with a flag
    current = groups[0]
    for argument in arguments:
        flag, _, value = argument.partition("=")
        flag = flag.replace("_", "-")
        if flag in REPEATABLE:
            current = next((group for group in groups if group[:1] == [flag]), [flag])
            current += [value] if value else []
        elif argument.startswith("--"):
            current = [argument]
        else:
            current.append(argument)
        if not any(group is current for group in groups):
            groups.append(current)
    return [argument for group in groups for argument in group]


FITTED = ("batch_size", "warmup_steps")  # by fine_tuning.fit
LENGTHS = ("epochs", "steps", "max_tokens")
# Settings that may change when a run is resumed, because its past does not depend on them.
FREE_TO_CHANGE = {
    *LENGTHS, *LEARNING_RATE, "eval_every", "eval_batches", "eval_tokens", "eval_rng",
    "checkpoint_every",
    "checkpoint_minutes", "keep", "log_every", "tensorboard",
    "prompt", "sample_tokens", "deterministic", "leaves", "comm_dtype", "overlap",
    "outer_lr", "outer_momentum",
    "data", "val_data",  # their tokens are compared later
}  # fmt: skip


def length_of(training: TrainingConfig) -> str:
    """Return the name of the setting that decides when a run ends."""
    given = (name for name in ("steps", "max_tokens") if getattr(training, name) is not None)
    return next(given, "epochs")


class Defaults(NamedTuple):
    """Settings below the flags of `npgpt train`."""

    before: RunConfig  # of a preset, of a run to resume, or of weights to start from
    flags: RunFlags  # these settings, and the configuration file's: the defaults of the flags
    given: frozenset[str]  # settings that are given, among those which may be fitted to the run


def train_defaults(arguments: Sequence[str]) -> Defaults:
    """Return the defaults of the flags. A length that is given replaces one that is not."""
    known = find_flags(arguments)
    given: dict[str, Any] = {}
    if known.config is not None:
        from npgpt.cli import config_file

        given = config_file.read(Path(known.config))
    before = settings_before(known, given)
    if known.tokenizer not in (None, given.get("tokenizer")):
        given.pop("vocab_size", None)  # it was that of the file's tokenizer
    lengths = [name for name in LENGTHS if getattr(known, name) not in (None, "None")]
    if len(lengths) > 1:
        names = " and ".join(f"--{name.replace('_', '-')}" for name in lengths)
        raise ConfigError(f"{names} are given, but a run has one length: leave all but one out")
    flags = RunFlags.of(before)
    if any(given.get(name) is not None for name in LENGTHS):
        flags = flags.replace({"steps": None, "max_tokens": None})
    flags = flags.replace(given)
    if lengths:
        flags = flags.replace({"steps": None, "max_tokens": None})
    return Defaults(
        before, flags, frozenset(name for name in FITTED if name in named(known, given))
    )


def find_flags(arguments: Sequence[str]) -> argparse.Namespace:
    """Return the flags on which the defaults of the others depend; None if they are not given."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for name in ("config", "preset", "tokenizer", "resume", "init_from", *LENGTHS, *FITTED):
        first.add_argument(f"--{name}", f"--{name.replace('_', '-')}", dest=name)
    with contextlib.suppress(argparse.ArgumentError):  # the real parser reports the mistake
        known, _ = first.parse_known_args(arguments[1:] if arguments[:1] == ["train"] else [])
        return known
    return first.parse_args([])


def settings_before(known: argparse.Namespace, given: dict[str, Any]) -> RunConfig:
    """Return the settings of a preset, of a run to resume, or of weights to start from.

    `given`: the settings of the configuration file, which the flags `known` override.
    """
    if known.resume is not None:
        from npgpt.training import run_state

        return run_state.read_settings(Path(known.resume))
    found = named(known, given)
    preset, tokenizer, model = map(found.get, ("preset", "tokenizer", "init_from"))
    if preset not in (None, FINE_TUNING.preset, *PRESETS):
        return defaults("tiny")  # the real parser reports the mistake
    if model not in (None, "None"):
        settings = defaults(preset) if preset in PRESETS else FINE_TUNING
        return with_weights(settings, Path(model), tokenizer)
    if preset == FINE_TUNING.preset:
        raise ConfigError(f"preset {preset} is for a model to start from: give --init-from")
    return with_tokenizer(preset or "tiny", tokenizer)


def named(known: argparse.Namespace, given: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of the configuration file and the flags that override them."""
    return given | {name: value for name, value in vars(known).items() if value is not None}


def with_tokenizer(preset: PresetName, name: str | None) -> RunConfig:
    """Return the settings of a preset, with the vocabulary of another tokenizer if one is given."""
    if name is None or name in VOCABULARIES:
        return defaults(preset, tokenizer_name=name)
    from npgpt.data.tokenizer import tokenizer
    from npgpt.data.tokenizer_choice import absolute_tokenizer

    settings, size = defaults(preset), tokenizer(name).n_vocab
    config = dataclasses.replace(settings.config, vocab_size=size)
    return dataclasses.replace(settings, tokenizer=absolute_tokenizer(name), config=config)


def with_weights(settings: RunConfig, path: Path, tokenizer: str | None) -> RunConfig:
    """Return the settings with the shape, the tokenizer and the dtype of the weights at `path`."""
    from npgpt.data.tokenizer import describe
    from npgpt.data.tokenizer_choice import KINDS, absolute_tokenizer, choose
    from npgpt.training import run

    source = run.open_trainable(path)
    config = dataclasses.replace(source.config, dropout=settings.config.dropout)
    name, found = choose(source, tokenizer)
    if name is None:
        raise ConfigError(
            f"the tokenizer of {source.path} is unknown ({found}): give --tokenizer {KINDS}"
        )
    names: dict[str, Any] = {
        "tokenizer": absolute_tokenizer(tokenizer or describe(name)),
        "dtype": source.dtype.name,
    }
    return dataclasses.replace(settings, config=config, **names)


def check_flags(command: "Train", before: RunConfig) -> None:
    """Raise ConfigError if a flag contradicts the run to resume or the weights to start from."""
    from npgpt.training.run_paths import absolute_paths

    settings = command.settings
    saved, given = flat(before), flat(absolute_paths(settings))
    if command.resume is not None:
        flag, source = "resume", str(command.resume)
        free = FREE_TO_CHANGE
    elif settings.init_from is not None:
        flag, source = "init-from", settings.init_from
        free = saved.keys() - {"vocab_size", "n_layer", "n_head", "n_embd", "qkv_bias", "tied",
                               "tokenizer", "dtype"}  # fmt: skip
        if saved["dtype"] == settings.parameter_dtype:
            free |= {"dtype"}  # bfloat16 products of float32 parameters
        if given["context_length"] > saved["context_length"]:
            raise ConfigError(
                f"--context-length {given['context_length']} does not fit: {source} has positions "
                f"for {saved['context_length']}. They can be cropped, but not extended"
            )
    else:
        return
    for name, value in given.items():
        if name not in free and value != saved[name]:
            raise ConfigError(
                f"--{name.replace('_', '-')} {in_words(value)} does not fit: {source} was made "
                f"with {in_words(saved[name])}. Leave the flag out, or start a new run without "
                f"--{flag}"
            )


def in_words(value: Any) -> str:
    """Return a setting as its flag has it: several values are separated by spaces."""
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def flat(settings: RunConfig) -> dict[str, Any]:
    """Return all settings in one dict, by the names of their flags."""
    both = dataclasses.asdict(settings.config) | dataclasses.asdict(settings.training)
    return {k: v for k, v in vars(settings).items() if k not in ("config", "training")} | both
