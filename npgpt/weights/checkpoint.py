"""npgpt's own file: a model, and with it a training run that can go on, as HDF5.

    attributes   format "npgpt", version, config (JSON), tokenizer
    /parameters  one dataset per parameter, by its checkpoint name
    /training    only in a run: datasets `state` (JSON), `random_state` and `order`,
                 and the groups /training/m and /training/v, AdamW's moments by the same names

After the last byte of HDF5, which HDF5 itself ignores, stands a seal: SEAL and the CRC-32 of all
bytes before it. It is checked first, because the HDF5 library crashes or hangs on some damaged
files. It finds accidents: whoever forges a file can seal it, and has HDF5's own bugs to play with.

Everything is validated before an array is read: nothing is unpickled, no filter is run, no other
file is followed, and no more memory is taken than the file has bytes.
"""

import dataclasses
import errno
import io
import json
import math
import os
import re
import shutil
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
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
MAGIC = b"\x89HDF\r\n\x1a\n"
SEAL = b"npgpt-crc32:"
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
        if free < needed:
            raise OSError(errno.ENOSPC, f"the disk has {free:,} bytes left of {needed:,}")
        with replacing(path) as temporary:
            with PatientFile(temporary, "w+") as raw:
                with h5py.File(raw, "w") as file:
                    fill(file, model, training)
                raw.complain()
            seal(temporary)
    except (OSError, RuntimeError) as error:
        before = "the checkpoint before it is whole" if path.exists() else "nothing was written"
        raise RunError(f"{path} could not be written: {reason(error)}; {before}") from None


class PatientFile(io.FileIO):
    """A file to write that keeps its first error to itself until it is asked.

    The HDF5 library cannot let go of a file that it could not write to its end, and crashes when
    the process exits.
    """

    error: OSError | None = None

    def write(self, data) -> int:
        """All of `data`, or what looks like it."""
        left = memoryview(data).cast("B")
        while left and self.error is None:
            try:
                left = left[super().write(left) :]
            except OSError as error:
                self.error = error
        return memoryview(data).nbytes

    def truncate(self, size=None) -> int:
        """To `size`, or what looks like it."""
        try:
            return super().truncate(size)
        except OSError as error:
            self.error = self.error or error
            return size or 0

    def complain(self) -> None:
        """Raises the error, if there was one."""
        if self.error is not None:
            raise self.error


def fill(file: h5py.File, model: GPT, training: TrainingState | None) -> None:
    """Writes everything into an empty file."""
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


def seal(path: str | Path) -> None:
    """Adds the seal to a finished HDF5 file."""
    with open(path, "r+b") as file:
        check = checksum(file, os.path.getsize(path))
        file.seek(0, os.SEEK_END)
        file.write(SEAL + check)


def checksum(file, size: int) -> bytes:
    """The CRC-32 of the next `size` bytes, 4 bytes."""
    value, left = 0, size
    while left and (piece := file.read(min(left, 1 << 20))):
        value, left = zlib.crc32(piece, value), left - len(piece)
    return value.to_bytes(4, "little")


def write_tree(group: h5py.Group, tree: params.Params) -> None:
    """One dataset per parameter."""
    for name, array in params.named(tree):
        group.create_dataset(name, data=array)


def load(path: str | Path, *, ops=None) -> GPT:
    """The model in the file. Raises InputError for what is no whole checkpoint of its version."""
    with opened(path) as file:
        return read_model(file, path, ops)


def read_shape(path: str | Path) -> tuple[Config, np.dtype, str | None]:
    """Config, dtype and tokenizer of the model in the file, without its arrays."""
    with opened(path) as file:
        return read_header(file, path)


def read_state(path: str | Path) -> dict[str, Any]:
    """`TrainingState.state` of the run in the file, without its arrays."""
    with opened(path) as file:
        read_header(file, path)
        return parse_state(training_group(file, path), path)


def read_training(path: str | Path, *, ops=None) -> tuple[GPT, TrainingState]:
    """The model and the state of its run. Raises InputError as `load`, or if there is no run."""
    with opened(path) as file:
        model = read_model(file, path, ops)
        group = training_group(file, path)
        state = parse_state(group, path)
        random_state = vector(group, "random_state", np.uint8, 1 << 16, path)
        order = vector(group, "order", np.int64, 1 << 32, path)
        if order.size and (np.sort(order) != np.arange(order.size)).any():
            raise InputError(f"{path}: the order of the windows is not a permutation")
        m, v = (read_tree(group, name, model.config, model.dtype, path) for name in "mv")
        return model, TrainingState(state, random_state, order, m, v)


@contextmanager
def opened(path: str | Path) -> Iterator[h5py.File]:
    """An HDF5 file to read; whatever is wrong with it becomes an InputError."""
    check_seal(path)
    try:
        with h5py.File(path, "r") as file:
            yield file
    except (InputError, RunError):
        raise
    except Exception as error:  # what HDF5 and h5py raise for strange files has no end
        raise InputError(f"{path} is damaged: {reason(error)}") from None


def check_seal(path: str | Path) -> None:
    """Raises InputError unless the file is there, HDF5, and as it was written."""
    tail = len(SEAL) + 4
    try:
        with open(path, "rb") as file:
            magic, size = file.read(len(MAGIC)), os.fstat(file.fileno()).st_size
            if magic != MAGIC:
                raise InputError(f"{path} is not an HDF5 file: it begins with {magic!r}")
            file.seek(0)
            check = checksum(file, max(0, size - tail))
            found = file.read(tail)
    except FileNotFoundError:
        raise InputError(f"there is no checkpoint {path}") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    if not found.startswith(SEAL):
        raise InputError(f"{path} is cut, or not a checkpoint of npgpt: its {size:,} bytes do not "
                         f"end with {SEAL.decode()}")  # fmt: skip
    if found != SEAL + check:
        raise InputError(f"{path} is damaged: its checksum is {check.hex()}, not "
                         f"{found[len(SEAL):].hex()} as when it was written")  # fmt: skip


def read_model(file: h5py.File, path, ops) -> GPT:
    """The model, everything about it checked."""
    config, dtype, tokenizer = read_header(file, path)
    tree = read_tree(file, "parameters", config, dtype, path)
    return GPT.of(config, tree, ops=ops, tokenizer=tokenizer)


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


def same(found, expected) -> bool:
    """Is an attribute, which may be of any type and shape, this scalar?"""
    return np.ndim(found) == 0 and bool(found == expected)


def parse_config(text, path) -> Config:
    """The config out of its JSON."""
    values = parse(text, "config", path)
    known = {field.name for field in dataclasses.fields(Config)}
    if not isinstance(values, dict) or values.keys() != known:
        raise InputError(f"{path}: the config has not the fields {', '.join(sorted(known))}")
    try:
        return Config(**values)
    except InputError as error:
        raise InputError(f"{path}: in its config, {error}") from None


def parse(text, what: str, path):
    """What the JSON says."""
    try:
        return json.loads(text)
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: its {what} is not JSON ({error})") from None


def parameter_dtype(file: h5py.File, path) -> np.dtype:
    """float32 or float64, whichever the token embedding is."""
    dtype = dataset(child(file, "parameters", h5py.Group, path), "wte.weight", path).dtype
    if dtype not in (np.float32, np.float64):
        raise InputError(f"{path}: wte.weight is {dtype}, expected float32 or float64")
    return dtype


def read_tree(parent: h5py.Group, name: str, config: Config, dtype, path) -> params.Params:
    """A tree of parameters out of the group `name`, every shape checked before memory is taken."""
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
    tree = params.zeros(config, dtype)
    for key, array in params.named(tree):
        if array.size:
            group[key].read_direct(array)
    return tree


def vector(group: h5py.Group, name: str, dtype, most: int, path) -> Array:
    """A dataset of one dimension."""
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
    if not plain or stored != expected or stored > group.file.id.get_filesize():
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
    if number := re.search(r"errno = (\d+)", text):
        return os.strerror(int(number[1]))
    if isinstance(error, OSError) and error.strerror:
        text = error.strerror
    return text.splitlines()[0] if text else type(error).__name__
