"""npgpt's own file: a model, and with it a training run that can go on, as HDF5.

    attributes   format "npgpt", version, config (JSON), tokenizer
    /parameters  one dataset per parameter, by its checkpoint name
    /training    only in a run: datasets `state` (JSON), `random_state` and `order`,
                 and the groups /training/m and /training/v, AdamW's moments by the same names

Everything is validated before an array is read, and no more memory is taken than the file has
bytes; hdf5.py says how a file is written and trusted.
"""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from npgpt.arrays import Array
from npgpt.config import Config
from npgpt.errors import InputError
from npgpt.model import params
from npgpt.weights import hdf5
from npgpt.weights.hdf5 import child, dataset, opened, same, vector
from npgpt.weights.mapped import MappedFile, MappedTensor
from npgpt.weights.weight_file import WeightFile, parse, parse_config

FORMAT, VERSION = "npgpt", 1
MOST_TEXT = 1 << 26  # bytes of JSON: a history of a million evaluations is below it


class Contents(NamedTuple):
    """The model in a file: what `npgpt.GPT.of` takes."""

    config: Config
    params: params.Params
    tokenizer: str | None  # the name of the one it was trained with


@dataclass
class TrainingState:
    """What a run needs besides the model to go on to the same bits."""

    state: dict[str, Any]  # JSON: settings, step, epoch, position, tokens_seen, history, samples
    random_state: Array  # (5056,) uint8, the generator's
    order: Array  # (n,) int64, the order of this epoch's windows; empty between two epochs
    m: params.Params  # AdamW's moments
    v: params.Params


def write(path: str | Path, contents: Contents, training: TrainingState | None = None) -> None:
    """Writes a checkpoint, whole or not at all. `contents`: a Contents, or a GPT.

    Raises RunError when the disk has no room or the file cannot be written; what was there stays.
    """
    copies = 1 if training is None else 3
    size = copies * sum(array.nbytes for _, array in params.named(contents.params))
    hdf5.write(path, lambda file: fill(file, contents, training), size=size)


def fill(file: h5py.File, contents: Contents, training: TrainingState | None) -> None:
    """Writes everything into an empty file."""
    file.attrs["format"], file.attrs["version"] = FORMAT, VERSION
    file.attrs["config"] = json.dumps(dataclasses.asdict(contents.config))
    file.attrs["tokenizer"] = contents.tokenizer or ""
    write_tree(file.create_group("parameters"), contents.params)
    if training is not None:
        group = file.create_group("training")
        text = json.dumps(training.state).encode()
        group.create_dataset("state", data=np.frombuffer(text, np.uint8))
        group.create_dataset("random_state", data=training.random_state)
        group.create_dataset("order", data=training.order)
        write_tree(group.create_group("m"), training.m)
        write_tree(group.create_group("v"), training.v)


def write_tree(group: h5py.Group, tree: params.Params) -> None:
    """One dataset per parameter."""
    for name, array in params.named(tree):
        group.create_dataset(name, data=array)


def read_checkpoint(path: str | Path, *, verify: bool = False) -> WeightFile:
    """The model in the file, mapped. `verify`: compare the checksums of all numbers too.

    Raises InputError for what is no whole checkpoint of its version.
    """
    path = Path(path)
    with opened(path, verify=verify) as (file, mapped):
        config, dtype, tokenizer = read_header(file, path)
        found = stored_tree(file, "parameters", config, dtype, mapped)
    return WeightFile("npgpt", path, config, tokenizer, found, found)


def read_state(path: str | Path) -> dict[str, Any]:
    """`TrainingState.state` of the run in the file, without its arrays."""
    with opened(path) as (file, _):
        read_header(file, path)
        return parse_state(training_group(file, path), path)


def read_training(path: str | Path) -> tuple[Contents, TrainingState]:
    """The model and the state of its run, read into memory, every checksum compared.

    Raises InputError as `read_checkpoint`, or if there is no run.
    """
    with opened(path, verify=True) as (file, mapped):
        config, dtype, tokenizer = read_header(file, path)
        parameters = read_tree(file, "parameters", config, dtype, mapped)
        group = training_group(file, path)
        state = parse_state(group, path)
        random_state = vector(group, "random_state", np.uint8, 1 << 16, path)
        order = vector(group, "order", np.int64, 1 << 32, path)
        if order.size and (np.sort(order) != np.arange(order.size)).any():
            raise InputError(f"{path}: the order of the windows is not a permutation")
        m, v = (read_tree(group, name, config, dtype, mapped) for name in "mv")
    saved = TrainingState(state, random_state, order, m, v)
    return Contents(config, parameters, tokenizer), saved


def read_header(file: h5py.File, path) -> tuple[Config, np.dtype, str | None]:
    """Config, dtype and tokenizer of the model."""
    if not same(file.attrs.get("format"), FORMAT):
        raise InputError(f"{path} is HDF5, but not a checkpoint of npgpt")
    version = file.attrs.get("version")
    if not same(version, VERSION):
        raise InputError(f"{path} is of format version {version}; this npgpt reads {VERSION}")
    config = parse_config(file.attrs.get("config"), path)
    dtype = parameter_dtype(file, path)
    tokenizer = file.attrs.get("tokenizer")
    if not isinstance(tokenizer, str):
        raise InputError(f"{path}: its tokenizer is {tokenizer!r}, expected a name")
    return config, dtype, tokenizer or None


def training_group(file: h5py.File, path) -> h5py.Group:
    """What belongs to the run."""
    if "training" not in file:
        raise InputError(f"{path} holds a model but no run: use --init-from to start from it")
    return child(file, "training", h5py.Group, path)


def parse_state(group: h5py.Group, path) -> dict[str, Any]:
    """The state out of its JSON."""
    state = parse(bytes(vector(group, "state", np.uint8, MOST_TEXT, path)), "state", path)
    if not isinstance(state, dict):
        raise InputError(f"{path}: the training state is not a JSON object")
    return state


def parameter_dtype(file: h5py.File, path) -> np.dtype:
    """float32 or float64, whichever the token embedding is."""
    dtype = dataset(child(file, "parameters", h5py.Group, path), "wte.weight", path).dtype
    if dtype not in (np.float32, np.float64):
        raise InputError(f"{path}: wte.weight is {dtype}, expected float32 or float64")
    return dtype


def read_tree(
    parent: h5py.Group, name: str, config: Config, dtype, file: MappedFile
) -> params.Params:
    """The tree of parameters in the group `name`, read: the file may be replaced and deleted."""
    stored = stored_tree(parent, name, config, dtype, file)
    tree = params.zeros(config, dtype)
    for key, array in params.named(tree):
        array[...] = stored[key].raw()
        file.forget(stored[key].start, stored[key].start + array.nbytes)
    return tree


def stored_tree(
    parent: h5py.Group, name: str, config: Config, dtype, file: MappedFile
) -> dict[str, MappedTensor]:
    """Where in the file the parameters in the group `name` are, by their names."""
    group, found = check_tree(parent, name, config, dtype, file.path), {}
    for key, shape in params.named(params.shapes(config)):
        start = group[key].id.get_offset()  # of stored numbers, as check_tree made sure
        found[key] = MappedTensor(file, start or 0, tuple(shape), dtype.name)
    return found


def check_tree(parent: h5py.Group, name: str, config: Config, dtype, path) -> h5py.Group:
    """The group `name`, if it holds what the config asks for and nothing else."""
    group = child(parent, name, h5py.Group, path)
    if config.n_layer > len(group):  # before the names of so many layers are listed
        raise InputError(
            f"{path}: {name} has {len(group)} arrays, too few for {config.n_layer} layers"
        )
    expected = dict(params.named(params.shapes(config)))
    if surplus := sorted(set(group) - set(expected)):
        raise InputError(f"{path}: {name} has {surplus[0]!r}, which its config does not")
    for key, shape in expected.items():
        found = dataset(group, key, path)
        if found.shape != shape:
            raise InputError(f"{path}: {key} has shape {found.shape}, its config asks for {shape}")
        if found.dtype != dtype:
            raise InputError(f"{path}: {key} is {found.dtype}, the other parameters are {dtype}")
    size = params.size(config) * dtype.itemsize
    if size > group.file.id.get_filesize():
        raise InputError(f"{path}: its {name} overlap: they would be {size:,} bytes")
    return group
