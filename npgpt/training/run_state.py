"""Write and read the state of a training run: the JSON beside the model in a checkpoint.

settings     the RunConfig
progress     the Progress, except for the order of windows, which is an array of its own
data_sha256  digest of the tokens, so that a run resumes only on the text it was started with
directory    absolute path of the run, for its data to be found if both were moved
"""

import os
from contextlib import suppress
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from npgpt import backends
from npgpt.config import Config, RunConfig, TrainingConfig
from npgpt.errors import InputError, WeightFileError, one_line, show
from npgpt.gpt import GPT
from npgpt.model import lora, params
from npgpt.model.params import Params
from npgpt.training import optim
from npgpt.training.events import Evaluation, Progress, Sample, is_count, is_number
from npgpt.training.run_paths import relocate
from npgpt.training.trainer import Trainer
from npgpt.weights import checkpoint, formats, quantized_file
from npgpt.weights.strict_json import read_json_object

CONFIG = "config.json"
# In config.json besides the settings
DERIVED = ("parameters", "tokens_per_epoch", "total_steps", "data_sha256", "directory")


class Record(NamedTuple):
    """The part of a run's state that does not change with its progress."""

    settings: RunConfig
    data_sha256: str
    directory: str | None = None


def write(path: Path, trainer: Trainer, record: Record) -> None:
    """Write the checkpoint of a run, atomically."""
    checkpoint.write(path, contents(trainer), capture(trainer, record))


def contents(trainer: Trainer) -> checkpoint.Contents:
    """Return the model of a run. Its parameters are not copied."""
    model = trainer.model
    return checkpoint.Contents(model.config, model.params, model.tokenizer)


def capture(
    trainer: Trainer, record: Record, moments: dict[str, Params] | None = None
) -> checkpoint.TrainingState:
    """Return the state of a run, with its moments or those given. Only they are not copied."""
    order = trainer.progress.order
    return checkpoint.TrainingState(
        state=to_json(record, trainer.progress),
        random_state=trainer.rng.state,
        order=order if isinstance(order, np.ndarray) else np.empty(0, np.int64),
        moments=trainer.gather_moments() if moments is None else moments,
    )


def read(path: Path) -> tuple[RunConfig, GPT, checkpoint.TrainingState]:
    """Read the settings, the model and the state of a run from its directory or checkpoint."""
    path = formats.checkpoint_file(path)
    (config, tree, tokenizer_name), saved = checkpoint.read_training(path)
    settings = from_json(saved.state, path)
    model = GPT.from_params(
        config, tree, ops=backends.get(settings.ops, dtype=settings.dtype), tokenizer=tokenizer_name
    )
    if settings.config != config or settings.parameter_dtype != model.dtype.name:
        raise WeightFileError(
            f"{path}: the settings name a {settings.dtype} model with {settings.config}, "
            f"but the model in the file is {model.dtype.name} with {config}"
        )
    require_moments(saved.moments, settings, path)
    return settings, model, saved


def require_moments(moments: dict[str, Params], settings: RunConfig, path: Path) -> None:
    """Raise WeightFileError unless the moments are those that the run's optimizer keeps."""
    training = settings.training
    shapes = lora.shapes(params.shapes(settings.config), lora.of_run(training))
    kept = optim.moment_shapes(training, shapes)
    if training.sync_every is not None:  # DiLoCo's outer optimizer
        kept["outer"] = shapes
    expected = names_in_file(kept)
    if found := names_in_file(moments) ^ expected:
        name = min(found)
        raise WeightFileError(
            f"{path} has {'no' if name in expected else 'a'} {name}, unlike runs with the "
            f"optimizer {training.optimizer}, which its settings name"
        )


def names_in_file(moments: dict[str, Params]) -> set[str]:
    """Return the names of the moments that are stored, from trees of arrays or Shapes."""
    return {
        f"training/{moment}/{name}"
        for moment, tree in moments.items()
        for name, leaf in params.named(tree)
        if params.total(leaf)
    }


def read_settings(path: Path) -> RunConfig:
    """Read only the settings of a run from its directory or checkpoint."""
    if not os.path.exists(path):
        raise InputError(f"there is no run directory or checkpoint {path}")
    if not (path / formats.CHECKPOINT).exists() and (path / CONFIG).is_file():
        return read_config(path / CONFIG)  # a run that was killed before its first checkpoint
    path = formats.checkpoint_file(path)
    if quantized_file.is_quantized(path):
        raise InputError(
            f"{path} was written by npgpt quantize and holds no training run: "
            "resume the run that the model came from"
        )
    return from_json(checkpoint.read_state(path), path)


def read_position(path: Path) -> tuple[int, int | None] | None:
    """Return the number of steps that the run in a checkpoint has made, and of how many.

    None: it holds no run. The second is None if the config.json of the run is not beside it.
    """
    try:
        step = checkpoint.read_state(path)["progress"]["step"]
    except (InputError, KeyError, TypeError):
        return None
    with suppress(InputError):
        total = read_json_object(path.parent / CONFIG).get("total_steps")
        return step, total if is_count(total) else None
    return step, None


def read_config(file: Path) -> RunConfig:
    """Return the settings in the config.json of a run, in which derived numbers follow them."""
    found = read_json_object(file)
    values = {key: value for key, value in found.items() if key not in DERIVED}
    try:
        return relocate(to_settings(values), parse_directory(found), file.parent)
    except (KeyError, TypeError, ValueError) as error:
        raise WeightFileError(
            f"{file.parent} has no {formats.CHECKPOINT}, and {file} does not hold the settings of "
            f"a run ({one_line(error)})"
        ) from None


def read_data_sha256(path: Path) -> str:
    """Return the digest of the tokens in the config.json of a run that has no checkpoint."""
    digest = read_json_object(path / CONFIG).get("data_sha256")
    if not isinstance(digest, str):
        raise WeightFileError(f"{path / CONFIG}: data_sha256 is {show(digest)}, but must be text")
    return digest


def to_settings(values: dict[str, Any]) -> RunConfig:
    """Return the settings that `dataclasses.asdict` gave."""
    parts = {"config": Config(**values["config"]), "training": TrainingConfig(**values["training"])}
    return RunConfig(**values | parts)


def to_json(record: Record, progress: Progress) -> dict[str, Any]:
    """Return the state of a run as JSON values, which do not change with the run."""
    position = {name: value for name, value in vars(progress).items() if name != "order"}
    position |= {name: list(position[name]) for name in ("history", "samples")}
    return {"progress": position, **record._asdict(), "settings": asdict(record.settings)}


def from_json(state: dict[str, Any], path: Path) -> RunConfig:
    """Return the settings in the state of a run.

    The rest is validated as well. Raises WeightFileError naming `path` if anything is invalid.
    """
    try:
        settings = to_settings(dict(state["settings"]))
        progress = Progress(**state["progress"])
        require(progress.order is None, "order", progress.order)
        for name, kind in (("history", Evaluation), ("samples", Sample)):
            records = getattr(progress, name)
            require(isinstance(records, list), name, records)
            for record in records:
                require_fields(record, kind)
        digest = state["data_sha256"]
        require(isinstance(digest, str), "data_sha256", digest)
        return relocate(settings, parse_directory(state), path.parent)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise WeightFileError(
            f"{path}: its training state is invalid ({one_line(error)})"
        ) from None


def parse_directory(state: dict[str, Any]) -> str | None:
    """Return the directory of the run; None in files of earlier versions."""
    directory = state.get("directory")
    require(directory is None or isinstance(directory, str), "directory", directory)
    return directory


def require_fields(record: Any, kind: type[Evaluation | Sample]) -> None:
    """Raise TypeError or ValueError unless these are the fields of `kind`, each of its type."""
    found = vars(kind(**record))
    for item in fields(kind):
        value = found[item.name]
        if item.name == "tokens":
            require(isinstance(value, list) and all(map(is_count, value)), "tokens", value)
        else:
            require((is_count if item.type is int else is_number)(value), item.name, value)


def require(valid: bool, name: str, value: Any) -> None:
    """Raise ValueError, naming a value of the state, unless it is valid."""
    if not valid:
        raise ValueError(f"{name} is {show(value)}")
