"""The state of a training run: what a checkpoint stores besides the model."""

from pathlib import Path
from typing import Any

from npgpt import backends
from npgpt.config import Config, RunConfig, TrainingConfig
from npgpt.errors import InputError
from npgpt.gpt import GPT
from npgpt.training.trainer import Evaluation, Progress, Sample
from npgpt.weights import checkpoint, formats, quantized_file


def read_saved(path: Path) -> tuple[RunConfig, GPT, checkpoint.TrainingState]:
    """The settings, model and state of the run in a folder, or in one checkpoint file."""
    path = formats.checkpoint_file(path)
    (config, tree, tokenizer_name), saved = checkpoint.read_training(path)
    settings = parse_state(saved.state, path)
    model = GPT.from_params(
        config, tree, ops=backends.get(settings.ops, dtype=settings.dtype), tokenizer=tokenizer_name
    )
    if settings.config != config or settings.parameter_dtype != model.dtype.name:
        raise InputError(
            f"{path}: its run is of a {settings.dtype} model with {settings.config}, "
            f"but the model in it is {model.dtype.name} with {config}"
        )
    return settings, model, saved


def read_settings(path: Path) -> RunConfig:
    """The settings of the run in a folder, or in one checkpoint file, and nothing more."""
    path = formats.checkpoint_file(path)
    if quantized_file.is_quantized(path):
        raise InputError(
            f"{path} is a model that npgpt quantize wrote, for generating: there is no run in it"
        )
    return parse_state(checkpoint.read_state(path), path)


def parse_state(state: dict[str, Any], path: Path) -> RunConfig:
    """The settings in the state of a run, all of which is looked at."""
    try:
        values = dict(state["settings"])
        config, training = Config(**values.pop("config")), TrainingConfig(**values.pop("training"))
        settings = RunConfig(**values, config=config, training=training)
        progress, digest = Progress(**state["progress"]), state["data_sha256"]
        for point in progress.history:
            Evaluation(**point)
        for sample in progress.samples:
            [int(token) for token in Sample(**sample).tokens]
        if not isinstance(digest, str):
            raise TypeError(f"data_sha256 is {digest!r}")
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: its training state does not fit this npgpt ({error})") from None
    return settings
