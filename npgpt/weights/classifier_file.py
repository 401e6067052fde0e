"""A classifier's file: a checkpoint of its model with one more group, /classifier.

    /classifier   datasets `weight` (C, n) and `bias` (n,) of the head, and `settings` (JSON):
                  labels, position, max_length, pad_id

Every program that reads a checkpoint reads the model, and ignores the group.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from npgpt.arrays import Array
from npgpt.config import Config
from npgpt.errors import WeightFileError, show
from npgpt.model import params
from npgpt.weights import checkpoint, fine_tuning_state
from npgpt.weights.fine_tuning_state import RunState
from npgpt.weights.hdf5 import read_hdf5
from npgpt.weights.strict_json import parse_json_object
from npgpt.weights.weight_file import WeightFile

GROUP = "classifier"
POSITIONS = "last", "last-token"
MAX_LABELS = 1000


class HeadSettings(NamedTuple):
    """HeadSettings of a classification head."""

    labels: tuple[str, ...]  # by their numbers
    position: str  # whose activations are classified: one of POSITIONS
    max_length: int  # of a text, in tokens; longer ones are cropped
    pad_id: int  # the token that fills shorter ones


class Head(NamedTuple):
    """The parameters of a head with n labels, and its settings."""

    weight: Array  # (C, n)
    bias: Array  # (n,)
    settings: HeadSettings


def write(
    path: str | Path, model: checkpoint.Model, head: Head, run: RunState | None = None
) -> None:
    """Write a model, its head, and the state of its run. Raises RunError as `checkpoint.write`."""
    from npgpt.weights import hdf5_writer  # imports the HDF5 library: 13 MB

    def fill(file: Any) -> None:
        checkpoint.fill(file, model, None)
        group = file.create_group(GROUP)
        text = json.dumps(head.settings._asdict())
        group.create_dataset("settings", data=np.frombuffer(text.encode("ascii"), np.uint8))
        group.create_dataset("weight", data=head.weight)
        group.create_dataset("bias", data=head.bias)
        if run is not None:
            fine_tuning_state.fill(file, run)

    size = sum(array.nbytes for _, array in params.named(model.params)) + head.weight.nbytes
    size += 0 if run is None else fine_tuning_state.nbytes(run)
    hdf5_writer.write(path, fill, size=size)


def read(path: str | Path) -> tuple[WeightFile, Head]:
    """Map the model in a file, and read its head.

    Raises WeightFileError if the file is not a complete checkpoint, or has no valid head.
    """
    source = checkpoint.read_checkpoint(path)
    stored = read_hdf5(path)
    if not any(name.startswith(f"{GROUP}/") for name in stored.tensors):
        raise WeightFileError(f"{path} has no classification head: npgpt classify writes one")
    raw = checkpoint.read_vector(stored, f"{GROUP}/settings", "uint8", 1 << 20, path)
    settings = check_settings(parse_json_object(raw.tobytes(), f"{path}: settings"), source, path)
    C, n = source.config.n_embd, len(settings.labels)
    arrays = list[Array]()
    for name, shape in (("weight", (C, n)), ("bias", (n,))):
        found = stored.tensors.get(f"{GROUP}/{name}")
        if found is None or found.shape != shape or found.dtype != source.dtype.name:
            raise WeightFileError(f"{path}: {GROUP}/{name} must be {source.dtype} of shape {shape}")
        arrays.append(np.array(found.raw()))
    weight, bias = arrays
    return source, Head(weight, bias, settings)


def check_settings(found: dict[str, Any], source: WeightFile, path: str | Path) -> HeadSettings:
    """Return the settings of a head. Raises WeightFileError for any other value."""
    config: Config = source.config
    labels, position = check_labels(found.get("labels"), path), found.get("position")
    if position not in POSITIONS:
        raise WeightFileError(f"{path}: position is {show(position)}, not one of {POSITIONS}")
    limits = {"max_length": (1, config.context_length), "pad_id": (0, config.vocab_size - 1)}
    for name, (least, most) in limits.items():
        value = found.get(name)
        if type(value) is not int or not least <= value <= most:
            raise WeightFileError(f"{path}: {name} is {show(value)}, not in {least} to {most}")
    return HeadSettings(labels, position, found["max_length"], found["pad_id"])


def check_labels(labels: Any, path: str | Path) -> tuple[str, ...]:
    """Return the labels: two or more different texts, at most MAX_LABELS.

    Raises WeightFileError for any other value.
    """
    if isinstance(labels, list) and all(isinstance(one, str) for one in labels):
        if 2 <= len(set(labels)) == len(labels) <= MAX_LABELS:
            return tuple(labels)
    raise WeightFileError(f"{path}: labels are {show(labels)}, but must be different texts")
