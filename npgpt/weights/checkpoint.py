"""npgpt's own file: a model, and with it a training run that can go on, as HDF5.

    attributes   format "npgpt", version, config (JSON), tokenizer
    /parameters  one dataset per parameter, by its checkpoint name
    /training    only in a run: attribute `state` (JSON), datasets `random_state` and `order`,
                 and the groups /training/m and /training/v, AdamW's moments by the same names

Everything is validated before an array is read: nothing is unpickled, no filter is run, no other
file is followed, and no more memory is taken than the config's own arrays need.
"""

import dataclasses
import errno
import json
import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from npgpt import params
from npgpt.arrays import Array
from npgpt.config import Config
from npgpt.errors import InputError, RunError
from npgpt.files import replacing
from npgpt.gpt import GPT

FORMAT, VERSION = "npgpt", 1
MOST_TEXT = 1 << 26  # bytes of JSON: a history of a million evaluations is below it


@dataclass
class TrainingState:
    """What a run needs besides the model to go on to the same bits."""

    state: dict[str, Any]  # JSON: settings, step, epoch, position, tokens_seen, history, samples
    random_state: Array  # (5056,) uint8, the generator's
    order: Array  # (n,) int64, the order of this epoch's windows; empty between two epochs
    m: params.Params  # AdamW's moments
    v: params.Params


def write(path: str | Path, model: GPT, training: TrainingState | None = None) -> None:
    """Writes beside `path`, syncs, then renames over it: a kill leaves the old file or the new one.

    Raises RunError when the disk has no room or the file cannot be written; what was there stays.
    """
    path = Path(path)
    copies = 1 if training is None else 3
    needed = copies * model.size * model.dtype.itemsize
    try:
        free = shutil.disk_usage(path.parent).free
        if free < needed:  # HDF5 copes badly with a disk that fills up under it
            raise OSError(errno.ENOSPC, f"{needed:,} bytes needed, {free:,} free")
        with replacing(path) as temporary, h5py.File(temporary, "w") as file:
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
    except (OSError, RuntimeError) as error:
        before = "the checkpoint before it is whole" if path.exists() else "nothing was written"
        raise RunError(f"{path} could not be written: {reason(error)}; {before}") from None


def write_tree(group: h5py.Group, tree: params.Params) -> None:
    for name, array in params.named(tree):
        group.create_dataset(name, data=array)


def load(path: str | Path, *, ops=None) -> GPT:
    """The model in the file. Raises InputError for what is no whole checkpoint of its version."""
    with opened(path) as file:
        return read_model(file, path, ops)


def read_training(path: str | Path, *, ops=None) -> tuple[GPT, TrainingState]:
    """The model and the state of its run. Raises InputError as `load`, or if there is no run."""
    with opened(path) as file:
        model = read_model(file, path, ops)
        if "training" not in file:
            raise InputError(f"{path} holds a model but no run: use --init-from to start from it")
        group = child(file, "training", h5py.Group, path)
        state = parse(bytes(vector(group, "state", np.uint8, MOST_TEXT, path)), "state", path)
        if not isinstance(state, dict):
            raise InputError(f"{path}: the training state is not a JSON object")
        random_state = vector(group, "random_state", np.uint8, 1 << 16, path)
        order = vector(group, "order", np.int64, 1 << 32, path)
        if order.size and (np.sort(order) != np.arange(order.size)).any():
            raise InputError(f"{path}: the order of the windows is not a permutation")
        m, v = (read_tree(group, name, model.config, model.dtype, path) for name in "mv")
        return model, TrainingState(state, random_state, order, m, v)


class opened:
    """`with opened(path) as file`: an HDF5 file to read, its errors as InputError."""

    def __init__(self, path: str | Path):
        self.path = path

    def __enter__(self) -> h5py.File:
        try:
            with open(self.path, "rb") as file:
                magic = file.read(8)
        except FileNotFoundError:
            raise InputError(f"there is no checkpoint {self.path}") from None
        except OSError as error:
            raise InputError(f"{self.path} cannot be read: {error.strerror}") from None
        if magic != b"\x89HDF\r\n\x1a\n":
            raise InputError(f"{self.path} is not an HDF5 file: it begins with {magic!r}")
        try:
            self.file = h5py.File(self.path, "r")
        except OSError as error:
            raise InputError(f"{self.path} is damaged or cut: {reason(error)}") from None
        return self.file

    def __exit__(self, kind, error, trace):
        self.file.close()
        if isinstance(error, (OSError, RuntimeError, KeyError)) and not isinstance(error, RunError):
            raise InputError(f"{self.path} is damaged: {reason(error)}") from None


def read_model(file: h5py.File, path, ops) -> GPT:
    if file.attrs.get("format") != FORMAT:
        raise InputError(f"{path} is HDF5, but not a checkpoint of npgpt")
    version = file.attrs.get("version")
    if version != VERSION:
        raise InputError(f"{path} is of format version {version}; this npgpt reads {VERSION}")
    config = parse_config(file.attrs.get("config"), path)
    dtype = parameter_dtype(file, path)
    tree = read_tree(file, "parameters", config, dtype, path)
    tokenizer = file.attrs.get("tokenizer")
    return GPT.of(config, tree, ops=ops, tokenizer=tokenizer if tokenizer else None)


def parse_config(text, path) -> Config:
    values = parse(text, "config", path)
    known = {field.name for field in dataclasses.fields(Config)}
    if not isinstance(values, dict) or values.keys() != known:
        raise InputError(f"{path}: the config has not the fields {', '.join(sorted(known))}")
    try:
        return Config(**values)
    except InputError as error:
        raise InputError(f"{path}: in its config, {error}") from None


def parse(text, what: str, path):
    try:
        return json.loads(text)
    except (TypeError, ValueError) as error:
        raise InputError(f"{path}: its {what} is not JSON ({error})") from None


def parameter_dtype(file: h5py.File, path) -> np.dtype:
    dtype = dataset(child(file, "parameters", h5py.Group, path), "wte.weight", path).dtype
    if dtype not in (np.float32, np.float64):
        raise InputError(f"{path}: wte.weight is {dtype}, expected float32 or float64")
    return dtype


def read_tree(parent: h5py.Group, name: str, config: Config, dtype, path) -> params.Params:
    """A tree of parameters out of the group `name`, every shape checked before memory is taken."""
    group = child(parent, name, h5py.Group, path)
    expected = dict(params.named(params.shapes(config)))
    if surplus := sorted(set(group) - set(expected)):
        raise InputError(f"{path}: {name} has {surplus[0]!r}, which its config does not")
    for key, shape in expected.items():
        found = dataset(group, key, path)
        if found.shape != shape:
            raise InputError(f"{path}: {key} has shape {found.shape}, its config asks for {shape}")
        if found.dtype != dtype:
            raise InputError(f"{path}: {key} is {found.dtype}, the other parameters are {dtype}")
    tree = params.zeros(config, dtype)
    for key, array in params.named(tree):
        if array.size:
            group[key].read_direct(array)
    return tree


def vector(group: h5py.Group, name: str, dtype, most: int, path) -> Array:
    found = dataset(group, name, path)
    if found.ndim != 1 or found.dtype != dtype or found.size > most:
        raise InputError(
            f"{path}: {name} is {found.dtype} of shape {found.shape}, "
            f"expected a vector of {np.dtype(dtype)} of at most {most} entries"
        )
    return found[:]


def dataset(group: h5py.Group, name: str, path) -> h5py.Dataset:
    """A dataset whose bytes lie in this very file, plain and whole."""
    found = child(group, name, h5py.Dataset, path)
    plain = found.chunks is None and not found.is_virtual and not found.external
    stored = found.id.get_storage_size()
    expected = math.prod(found.shape) * found.dtype.itemsize if found.shape is not None else -1
    if not plain or stored != expected:
        raise InputError(
            f"{path}: {name} is not stored plainly: {stored} bytes for shape {found.shape}"
        )
    return found


def child(group: h5py.Group, name: str, kind: type, path):
    """`group[name]`, never through a link to somewhere else."""
    link = group.get(name, getlink=True)
    if link is None:
        raise InputError(f"{path}: {group.name.strip('/') or 'it'} has no {name!r}")
    if not isinstance(link, h5py.HardLink) or not isinstance(group[name], kind):
        raise InputError(f"{path}: {name!r} is not a plain {kind.__name__.lower()}")
    return group[name]


def reason(error: Exception) -> str:
    """HDF5's one useful word out of the sentence that it says."""
    text = str(error)
    if isinstance(error, OSError) and error.errno is not None and error.strerror:
        return error.strerror
    if "error message = '" in text:
        return text.split("error message = '")[1].split("'")[0]
    return text.splitlines()[0] if text else type(error).__name__
