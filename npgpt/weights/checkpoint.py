"""npgpt's own file: a model and, for `--resume`, the state of its training run, as HDF5.

    attributes   format "npgpt", version, config (JSON), tokenizer
    /parameters  one dataset per parameter, by its checkpoint name
    /training    only with a run: datasets `state` (JSON), `random_state` and `order`,
                 and the groups /training/m and /training/v, AdamW's moments by the same names

Everything is validated before an array is read. No more memory is used than the file has bytes.
hdf5.py describes how the file is written and verified.
"""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import h5py
import numpy as np

from npgpt.arrays import Array
from npgpt.config import Config
from npgpt.errors import WeightFileError
from npgpt.model import params
from npgpt.model.params import Params
from npgpt.weights import hdf5
from npgpt.weights.hdf5 import get_child, get_dataset, is_scalar, open_hdf5, read_vector
from npgpt.weights.mapped import MappedFile, MappedTensor
from npgpt.weights.weight_file import WeightFile, parse_config, parse_json

FORMAT, VERSION = "npgpt", 1
MAX_TEXT = 1 << 26  # bytes of JSON: a history of a million evaluations is smaller


class Model(Protocol):
    """A model to save: `Contents`, or an `npgpt.GPT`."""

    @property
    def config(self) -> Config: ...
    @property
    def params(self) -> Params: ...
    @property
    def tokenizer(self) -> str | None: ...


class Contents(NamedTuple):
    """The model in a file: the arguments of `npgpt.GPT.from_params`."""

    config: Config
    params: Params
    tokenizer: str | None  # the name of the tokenizer of its training


@dataclass
class TrainingState:
    """The state of a run besides the model, to resume it bit for bit."""

    state: dict[str, Any]  # JSON: settings, step, epoch, position, tokens_seen, history, samples
    random_state: Array  # (5056,) uint8, of the generator
    order: Array  # (n,) int64, the order of this epoch's windows; empty between two epochs
    m: Params  # AdamW's moments
    v: Params


def write(path: str | Path, model: Model, training: TrainingState | None = None) -> None:
    """Write a checkpoint atomically.

    Raises RunError if the disk is full or the file cannot be written; an existing file is then
    unchanged.
    """
    copies = 1 if training is None else 3
    size = copies * sum(array.nbytes for _, array in params.named(model.params))
    hdf5.write(path, lambda file: fill(file, model, training), size=size)


def fill(file: h5py.File, model: Model, training: TrainingState | None) -> None:
    """Write the model and the state of its run into an empty file."""
    file.attrs["format"], file.attrs["version"] = FORMAT, VERSION
    file.attrs["config"] = json.dumps(dataclasses.asdict(model.config))
    file.attrs["tokenizer"] = model.tokenizer or ""
    write_tree(file.create_group("parameters"), model.params)
    if training is not None:
        group = file.create_group("training")
        text = json.dumps(training.state).encode()
        group.create_dataset("state", data=np.frombuffer(text, np.uint8))
        group.create_dataset("random_state", data=training.random_state)
        group.create_dataset("order", data=training.order)
        write_tree(group.create_group("m"), training.m)
        write_tree(group.create_group("v"), training.v)


def write_tree(group: h5py.Group, tree: Params) -> None:
    """Write one dataset per parameter."""
    for name, array in params.named(tree):
        group.create_dataset(name, data=array)


def read_checkpoint(path: str | Path, *, verify: bool = False) -> WeightFile:
    """Map the model in a checkpoint. `verify`: also verify the checksums of all numbers.

    Raises WeightFileError if the file is not a complete checkpoint of this version.
    """
    path = Path(path)
    with open_hdf5(path, verify=verify) as (file, mapped):
        config, dtype, tokenizer = read_header(file, path)
        found = map_tree(file, "parameters", config, dtype, mapped)
    return WeightFile("npgpt", path, config, tokenizer, found, found)


def read_state(path: str | Path) -> dict[str, Any]:
    """Return `TrainingState.state` of the run in a checkpoint, without reading its arrays."""
    with open_hdf5(path) as (file, _):
        read_header(file, path)
        return parse_state(training_group(file, path), path)


def read_training(path: str | Path) -> tuple[Contents, TrainingState]:
    """Read the model and the state of its run into memory and verify all checksums.

    Raises WeightFileError as `read_checkpoint`, or if the checkpoint has no run.
    """
    with open_hdf5(path, verify=True) as (file, mapped):
        config, dtype, tokenizer = read_header(file, path)
        parameters = read_tree(file, "parameters", config, dtype, mapped)
        group = training_group(file, path)
        state = parse_state(group, path)
        random_state = read_vector(group, "random_state", np.uint8, 1 << 16, path)
        order = read_vector(group, "order", np.int64, 1 << 32, path)
        if order.size and (np.sort(order) != np.arange(order.size)).any():
            raise WeightFileError(f"{path}: the order of the windows is not a permutation")
        m, v = (read_tree(group, name, config, dtype, mapped) for name in "mv")
    saved = TrainingState(state, random_state, order, m, v)
    return Contents(config, parameters, tokenizer), saved


def read_header(file: h5py.File, path: str | Path) -> tuple[Config, np.dtype, str | None]:
    """Return config, dtype and tokenizer of the model."""
    if not is_scalar(file.attrs.get("format"), FORMAT):
        raise WeightFileError(f"{path} is an HDF5 file, but not a checkpoint of npgpt")
    version = file.attrs.get("version")
    if not is_scalar(version, VERSION):
        raise WeightFileError(f"{path} has format version {version}; this npgpt reads {VERSION}")
    config = parse_config(file.attrs.get("config"), path)
    dtype = parameter_dtype(file, path)
    tokenizer = file.attrs.get("tokenizer")
    if not isinstance(tokenizer, str):
        raise WeightFileError(f"{path}: its tokenizer is {tokenizer!r}, expected a name")
    return config, dtype, tokenizer or None


def training_group(file: h5py.File, path: str | Path) -> h5py.Group:
    """Return the group of the run. Raises WeightFileError if the checkpoint has no run."""
    if "training" not in file:
        raise WeightFileError(
            f"{path} has a model but no training run: use --init-from to start a run from it"
        )
    return get_child(file, "training", h5py.Group, path)


def parse_state(group: h5py.Group, path: str | Path) -> dict[str, Any]:
    """Return the state of a run from its JSON."""
    text = bytes(read_vector(group, "state", np.uint8, MAX_TEXT, path))
    state = parse_json(text, "state", path)
    if not isinstance(state, dict):
        raise WeightFileError(f"{path}: the training state is not a JSON object")
    return state


def parameter_dtype(file: h5py.File, path: str | Path) -> np.dtype:
    """Return the dtype of the token embedding, float32 or float64."""
    parameters = get_child(file, "parameters", h5py.Group, path)
    dtype = get_dataset(parameters, "wte.weight", path).dtype
    if dtype not in (np.float32, np.float64):
        raise WeightFileError(f"{path}: wte.weight is {dtype}, expected float32 or float64")
    return dtype


def read_tree(
    parent: h5py.Group, name: str, config: Config, dtype: np.dtype, file: MappedFile
) -> Params:
    """Read the parameters in the group `name` into memory, independent of the file."""
    stored = map_tree(parent, name, config, dtype, file)
    tree = params.zeros(config, dtype)
    for key, array in params.named(tree):
        array[...] = stored[key].raw()
        file.drop_pages(stored[key].start, stored[key].start + array.nbytes)
    return tree


def map_tree(
    parent: h5py.Group, name: str, config: Config, dtype: np.dtype, file: MappedFile
) -> dict[str, MappedTensor]:
    """Return the parameters in the group `name`, mapped, by their names."""
    group, found = check_tree(parent, name, config, dtype, file.path), {}
    for key, shape in params.named(params.shapes(config)):
        start = group[key].id.get_offset()  # not None: check_tree requires contiguous storage
        found[key] = MappedTensor(file, start or 0, tuple(shape), dtype.name)
    return found


def check_tree(
    parent: h5py.Group, name: str, config: Config, dtype: np.dtype, path: str | Path
) -> h5py.Group:
    """Return the group `name`. Raises WeightFileError unless its arrays are those of the config."""
    group = get_child(parent, name, h5py.Group, path)
    if config.n_layer > len(group):  # before a name per layer is listed
        raise WeightFileError(
            f"{path}: {name} has {len(group)} arrays, too few for {config.n_layer} layers"
        )
    expected = dict(params.named(params.shapes(config)))
    if surplus := sorted(set(group) - set(expected)):
        raise WeightFileError(f"{path}: {name} has {surplus[0]!r}, which its config does not have")
    for key, shape in expected.items():
        found = get_dataset(group, key, path)
        if found.shape != shape:
            raise WeightFileError(
                f"{path}: {key} has shape {found.shape}, its config requires {shape}"
            )
        if found.dtype != dtype:
            raise WeightFileError(f"{path}: {key} is {found.dtype}, the other parameters {dtype}")
    size = params.size(config) * dtype.itemsize
    if size > group.file.id.get_filesize():
        raise WeightFileError(f"{path}: its {name} overlap: they need {size:,} bytes")
    return group
