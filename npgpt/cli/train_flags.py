"""The flags of `npgpt train`: their defaults, and which of them fit together."""

import argparse
import contextlib
import dataclasses
from collections.abc import Sequence
from pathlib import Path

from npgpt.cli.train import Train
from npgpt.config import PRESETS, VOCABULARIES, RunConfig, defaults
from npgpt.errors import InputError


def train_defaults(arguments: Sequence[str]) -> RunConfig:
    """The settings of a preset, of a run to resume, or of weights to start from."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for flag in ("--preset", "--tokenizer", "--resume", "--init-from", "--init_from"):
        first.add_argument(flag)
    with contextlib.suppress(argparse.ArgumentError):
        known, _ = first.parse_known_args(arguments[1:] if arguments[:1] == ["train"] else [])
        if known.resume is not None:
            from npgpt.training import run_state

            return run_state.read_settings(Path(known.resume))
        if known.preset in (None, *PRESETS) and known.tokenizer in (None, *VOCABULARIES):
            settings = defaults(known.preset or "tiny", tokenizer_name=known.tokenizer)
            if known.init_from is not None:
                settings = take_over(settings, Path(known.init_from))
            return settings
    return defaults("tiny")  # the real parser will say what is wrong


def take_over(settings: RunConfig, path: Path) -> RunConfig:
    """The settings with the shape, and the tokenizer, of given weights."""
    from npgpt.training import run

    source = run.trainable(path)
    config = dataclasses.replace(source.config, dropout=settings.config.dropout)
    return dataclasses.replace(
        settings,
        config=config,
        tokenizer=source.tokenizer or settings.tokenizer,
        dtype=source.dtype.name,
    )


def check_flags(command: Train, before: RunConfig) -> None:
    """Raises InputError for a flag that contradicts the run to resume or the given weights."""
    saved, asked = flat(before), flat(command.settings)
    if command.resume is not None:
        way, source = "resume", command.resume
        free = {"epochs", "steps", "checkpoint_every", "data"}  # a text's tokens are compared later
    elif command.settings.init_from is not None:
        way, source = "init-from", command.settings.init_from
        free = saved.keys() - {"vocab_size", "n_layer", "n_head", "n_embd", "qkv_bias", "tied",
                               "tokenizer", "dtype"}  # fmt: skip
        if saved["dtype"] == command.settings.parameter_dtype:
            free |= {"dtype"}  # bfloat16 products of float32 parameters
        if asked["context_length"] > saved["context_length"]:
            raise InputError(
                f"--context-length {asked['context_length']} does not fit: {source} has positions "
                f"for {saved['context_length']}. They can be cropped, not stretched"
            )
    else:
        return
    for name, value in asked.items():
        if name not in free and value != saved[name]:
            raise InputError(
                f"--{name.replace('_', '-')} {value} does not fit: {source} was made with "
                f"{saved[name]}. Leave the flag out, or begin anew without --{way}"
            )


def flat(settings: RunConfig) -> dict:
    """All settings side by side, by the names of their flags."""
    both = dataclasses.asdict(settings.config) | dataclasses.asdict(settings.training)
    return {k: v for k, v in vars(settings).items() if k not in ("config", "training")} | both
