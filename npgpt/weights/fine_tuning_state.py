"""The state of a fine-tuning run, in the file of its model: one more group, /fine_tuning.

    state          JSON: flags, patterns of the trained names, digest of the data, progress, metrics
    random_state   (5056,) uint8, of the generator
    order          (n,) int64, the order of this epoch's examples; empty before its first batch
    m, v           AdamW's moments, one dataset per trained parameter, by its name

Every program that reads a checkpoint reads the model, and ignores the group.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from npgpt.arrays import Array
from npgpt.errors import WeightFileError
from npgpt.model import lora, params
from npgpt.weights import checkpoint
from npgpt.weights.hdf5 import Contents, read_hdf5
from npgpt.weights.strict_json import parse_json_object

if TYPE_CHECKING:
    import h5py

GROUP = "fine_tuning"


class RunState(NamedTuple):
    """The state of a run besides the model, to resume it bit for bit."""

    state: dict[str, Any]
    random_state: Array
    order: Array
    moments: dict[str, dict[str, Array]]  # "m" and "v": by the name of the parameter


def write(path: str | Path, model: checkpoint.Model, run: RunState) -> None:
    """Write a model and the state of its run atomically. Raises as `checkpoint.write`."""
    from npgpt.weights import hdf5_writer  # imports the HDF5 library: 13 MB

    def contents(file: Any) -> None:
        checkpoint.fill(file, model, None)
        fill(file, run)

    size = sum(array.nbytes for _, array in params.named(model.params)) + nbytes(run)
    hdf5_writer.write(path, contents, size=size)


def nbytes(run: RunState) -> int:
    """Return the size of the moments."""
    return sum(array.nbytes for tree in run.moments.values() for array in tree.values())


def fill(file: h5py.File, run: RunState) -> None:
    """Write the state of a run into a file that has its model."""
    group, text = file.create_group(GROUP), json.dumps(run.state)
    checkpoint.require_small(text)
    group.create_dataset("state", data=np.frombuffer(text.encode("ascii"), np.uint8))
    group.create_dataset("random_state", data=run.random_state)
    group.create_dataset("order", data=run.order)
    for moment, arrays in run.moments.items():
        tree = group.create_group(moment)
        for name, array in arrays.items():
            tree.create_dataset(name, data=array)


def read_state(path: Path) -> dict[str, Any]:
    """Return `RunState.state`, without reading the arrays. Raises WeightFileError."""
    return parse_state(read_hdf5(path), path)


def parse_state(stored: Contents, path: Path) -> dict[str, Any]:
    """Return the JSON object of a run."""
    if f"{GROUP}/state" not in stored.tensors:
        raise WeightFileError(f"{path} has no run of npgpt classify or npgpt instruct to resume")
    most = checkpoint.MAX_MEMORY
    raw = checkpoint.read_vector(stored, f"{GROUP}/state", "uint8", most, path)
    try:
        text = str(raw, "ascii")
        checkpoint.require_small(text)
    except ValueError as error:
        raise WeightFileError(f"{path}: its state cannot be read: {error}") from None
    return parse_json_object(text, f"{path}: its state", any_text=True)  # paths may be any bytes


def read(path: Path) -> tuple[checkpoint.Contents, RunState]:
    """Read the model, its adapters not merged, and the state of its run; verify all checksums.

    Raises WeightFileError if the file is no complete checkpoint, or has no valid run.
    """
    stored = read_hdf5(path, verify=True)
    state = parse_state(stored, path)
    config, tokenizer = checkpoint.parse_header(stored, path)
    adapters = checkpoint.parse_adapters(stored, path)
    found = checkpoint.map_tree(stored, "parameters", config, path, adapters)
    tree = checkpoint.read_tree(found, lora.shapes(params.shapes(config), adapters))
    random_state = checkpoint.read_vector(stored, f"{GROUP}/random_state", "uint8", 1 << 16, path)
    order = checkpoint.read_vector(stored, f"{GROUP}/order", "int64", 1 << 32, path)
    if order.size and (np.sort(order) != np.arange(order.size)).any():
        raise WeightFileError(f"{path}: the order of the examples is not a permutation")
    moments = {
        moment: {
            name: tensor.raw()
            for name, tensor in checkpoint.members(stored, f"{GROUP}/{moment}").items()
        }
        for moment in ("m", "v")
    }
    run = RunState(state, random_state.copy(), order.copy(), moments)
    return checkpoint.Contents(config, tree, tokenizer), run
