"""Save the state of a fine-tuning run, and continue it bit for bit."""

import hashlib
import json
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from npgpt.errors import InputError, WeightFileError, one_line
from npgpt.finetuning.batches import Batches
from npgpt.finetuning.loop import Evaluation, Progress, Settings
from npgpt.model import finite, params
from npgpt.rng import Generator
from npgpt.training.optim import AdamW
from npgpt.weights.fine_tuning_state import RunState


class Run(Protocol):
    """`Classification` or `InstructionTuning`."""

    settings: Settings
    optimizer: AdamW
    names: frozenset[str]  # of the trained parameters
    batches: list[Batches]
    rng: Generator
    progress: Progress
    data_sha256: str


def digest(data: Any) -> str:
    """Return the SHA-256 of the examples of a run, in their order."""
    return hashlib.sha256(json.dumps(data).encode()).hexdigest()


def capture(run: Run, flags: dict[str, Any], metrics: list[dict[str, Any]]) -> RunState:
    """Return the state of a run. Its arrays are not copied.

    Raises RunError if a parameter is not finite: nothing could be made of such a run.
    """
    leaves = params.named(run.optimizer.parameters)
    trained = ((name, leaf) for name, leaf in leaves if name in run.names)
    finite.check_step(trained, run.progress.step - 1, "a lower --lr")
    progress = {name: value for name, value in vars(run.progress).items() if name != "order"}
    state = {
        "flags": flags, "trainable": list(run.settings.trainable), "data_sha256": run.data_sha256,
        "progress": progress, "metrics": metrics,
    }  # fmt: skip
    order = run.progress.order
    moments = {
        moment: {name: array for name, array in params.named(tree) if name in run.names}
        for moment, tree in run.optimizer.moments.items()
    }
    return RunState(
        state, run.rng.state, np.empty(0, np.int64) if order is None else order, moments
    )


def patterns_of(saved: RunState, path: Path) -> tuple[str, ...]:
    """Return the patterns of the names that a run trains. Raises WeightFileError."""
    found = saved.state.get("trainable")
    if not isinstance(found, list):
        raise WeightFileError(f"{path}: the state of its run has no trainable names")
    return tuple(found)


def restore(run: Run, saved: RunState, path: Path) -> None:
    """Set the optimizer, the generator and the progress of a run to those that were saved.

    Raises InputError if the data is another, and WeightFileError for values that are invalid.
    """
    state, count = saved.state, run.batches[0].count
    if state.get("data_sha256") != run.data_sha256:
        raise InputError(f"the data is not what the run in {path.parent} was started with")
    try:
        progress = Progress(**state["progress"])
        for name, value in vars(progress).items():
            if name != "order" and (type(value) is not int or value < 0):
                raise ValueError(f"{name} is {value!r}")
        if saved.order.size not in (0, count):
            raise ValueError(f"order has {saved.order.size} examples")
        check_metrics(state["metrics"])
        moments = {
            f"{moment}.{name}": array
            for moment, arrays in saved.moments.items()
            for name, array in arrays.items()
        }
        own = {
            f"{moment}.{name}": array
            for moment, tree in run.optimizer.moments.items()
            for name, array in params.named(tree)
            if name in run.names
        }
        if moments.keys() != own.keys():
            raise ValueError(f"the moments have {min(moments.keys() ^ own.keys())} or lack it")
        for name, array in own.items():
            stored = moments[name]
            if (stored.shape, stored.dtype) != (array.shape, array.dtype):
                raise ValueError(f"{name} is {stored.dtype} {stored.shape}")
            array[...] = stored
        run.rng.set_state(saved.random_state)
    except (KeyError, TypeError, ValueError) as error:
        raise WeightFileError(
            f"{path}: the state of its run is invalid ({one_line(error)})"
        ) from None
    if progress.epoch > run.settings.epochs:
        raise InputError(
            f"epochs is {run.settings.epochs}, but epoch {progress.epoch} of the run in "
            f"{path.parent} has started"
        )
    progress.order = saved.order if saved.order.size else None
    run.optimizer.steps, run.progress = progress.step, progress


def check_metrics(lines: Any) -> None:
    """Raise TypeError or ValueError unless these are lines that a run has recorded."""
    for line in lines:
        if not all(type(value) in (int, float) for value in line.values()):
            raise ValueError("a metric is no number")
        if "train_loss" in line:
            Evaluation(**line)
