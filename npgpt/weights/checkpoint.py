"""npgpt's own file: a model and, for `--resume`, the state of its training run, as HDF5.

    attributes   format "npgpt", version, config (JSON), tokenizer; lora (JSON) with adapters
    /parameters  one dataset per parameter, by its checkpoint name
    /tokenizer   only if the attribute is "files": one dataset per file of the tokenizer
    /training    only with a run: datasets `state` (JSON), `random_state` and `order`, and the
                 groups /training/m and /training/v, the moments that the run's optimizer keeps,
                 by the same names; the settings in `state` name the optimizer (AdamW if none);
                 /training/outer, the momentum of DiLoCo's outer optimizer

Everything is validated before an array is read: hdf5.py validates the structure of the file, and
weight_file.py its JSON. hdf5_writer.py writes it. Only there the HDF5 library is imported.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from npgpt import arrays
from npgpt.arrays import Array
from npgpt.config import Config
from npgpt.errors import WeightFileError, one_line, show
from npgpt.model import lora, params
from npgpt.model.params import Params
from npgpt.weights import tokenizer_files
from npgpt.weights.hdf5 import Contents as Stored
from npgpt.weights.hdf5 import read_hdf5
from npgpt.weights.mapped import MappedTensor
from npgpt.weights.strict_json import parse_json
from npgpt.weights.tokenizer_files import TokenizerName
from npgpt.weights.weight_file import WeightFile, match_parameters, parse_config

if TYPE_CHECKING:
    import h5py

FORMAT, VERSION = "npgpt", 1
MAX_MEMORY = 50_000_000  # bytes of the state of a run, in memory: about 50,000 evaluations
MAX_NAMES = 500  # different names of fields in it: each is kept once
VALUE, CONTAINER = 90, 200  # bytes at most of a value, and besides its values of a list or object
STRING = re.compile(r'"(?:[^"\\]++|\\.)*+"(\s*:)?')  # group 1: it is the name of a field
MOMENTS = "m", "v", "outer"  # groups of /training


class Model(Protocol):
    """A model to save: `Contents`, or an `npgpt.GPT`."""

    @property
    def config(self) -> Config: ...
    @property
    def params(self) -> Params: ...
    @property
    def tokenizer(self) -> TokenizerName | None: ...


class Contents(NamedTuple):
    """The model in a file: the arguments of `npgpt.GPT.from_params`."""

    config: Config
    params: Params
    tokenizer: TokenizerName | None  # of its training: a name, or the files


@dataclass
class TrainingState:
    """The state of a run besides the model, to resume it bit for bit."""

    state: dict[str, Any]  # JSON: settings, step, epoch, position, tokens_seen, history, samples
    random_state: Array  # (5056,) uint8, of the generator
    order: Array  # (n,) int64, the order of this epoch's windows; empty between two epochs
    moments: dict[str, Params]  # of the optimizer, by MOMENTS; empty arrays are not stored


def write(
    path: str | Path, model: Model, training: TrainingState | None = None, *,
    check: Callable[[Path], None] | None = None,
) -> None:  # fmt: skip
    """Write a checkpoint atomically. `check` reads the file before it gets its name.

    Raises RunError if the disk is full or the file cannot be written; an existing file is then
    unchanged.
    """
    from npgpt.weights import hdf5_writer  # imports the HDF5 library: 13 MB

    trees = [model.params, *(training.moments.values() if training else ())]
    size = sum(array.nbytes for tree in trees for _, array in params.named(tree))
    hdf5_writer.write(path, lambda file: fill(file, model, training), size=size, check=check)


def fill(file: h5py.File, model: Model, training: TrainingState | None) -> None:
    """Write the model and the state of its run into an empty file."""
    file.attrs["format"], file.attrs["version"] = FORMAT, VERSION
    file.attrs["config"] = json.dumps(dataclasses.asdict(model.config))
    file.attrs["tokenizer"] = tokenizer_files.name_in_file(model.tokenizer)
    if adapters := lora.find(model.params):
        file.attrs["lora"] = json.dumps(adapters._asdict())
    write_tree(file.create_group("parameters"), model.params)
    if training is not None:
        group = file.create_group("training")
        text = json.dumps(training.state)
        require_small(text)
        group.create_dataset("state", data=np.frombuffer(text.encode("ascii"), np.uint8))
        group.create_dataset("random_state", data=training.random_state)
        group.create_dataset("order", data=training.order)
        for moment, tree in training.moments.items():
            write_tree(group.create_group(moment), tree)
    if files := tokenizer_files.to_arrays(model.tokenizer):
        group = file.create_group("tokenizer")
        for name, content in files.items():
            group.create_dataset(name, data=content)


def write_tree(group: h5py.Group, tree: Params) -> None:
    """Write one dataset per array that is not empty."""
    for name, array in params.named(tree):
        if array.size:
            group.create_dataset(name, data=array)


def read_checkpoint(path: str | Path, *, verify: bool = False) -> WeightFile:
    """Map the model in a checkpoint. `verify`: also verify the checksums of all numbers.

    Raises WeightFileError if the file is not a complete checkpoint of this version.
    """
    path = Path(path)
    stored = read_hdf5(path, verify=verify)
    config, tokenizer = parse_header(stored, path)
    adapters = parse_adapters(stored, path)
    found = map_tree(stored, "parameters", config, path, adapters)
    own = {name: found[name] for name, _ in params.named(params.shapes(config))}
    return WeightFile("npgpt", path, config, tokenizer, found, own, adapters=adapters)


def read_state(path: str | Path) -> dict[str, Any]:
    """Return `TrainingState.state` of the run in a checkpoint, without reading its arrays."""
    stored = read_hdf5(path)
    parse_header(stored, path)
    return parse_state(stored, path)


def read_training(path: str | Path) -> tuple[Contents, TrainingState]:
    """Read the model and the state of its run into memory and verify all checksums.

    Raises WeightFileError as `read_checkpoint`, or if the checkpoint has no run.
    """
    stored = read_hdf5(path, verify=True)
    config, tokenizer = parse_header(stored, path)
    state = parse_state(stored, path)
    adapters = parse_adapters(stored, path)
    found = map_tree(stored, "parameters", config, path, adapters)
    mapped = map_moments(stored, found, path)
    random_state = read_vector(stored, "training/random_state", "uint8", 1 << 16, path).copy()
    order = read_vector(stored, "training/order", "int64", 1 << 32, path).copy()
    if order.size and (np.sort(order) != np.arange(order.size)).any():
        raise WeightFileError(f"{path}: the order of the windows is not a permutation")
    shapes = lora.shapes(params.shapes(config), adapters)
    parameters = read_tree(found, shapes)
    moments = {moment: read_tree(tree, shapes) for moment, tree in mapped.items()}
    saved = TrainingState(state, random_state, order, moments)
    return Contents(config, parameters, tokenizer), saved


def parse_header(stored: Stored, path: str | Path) -> tuple[Config, TokenizerName | None]:
    """Return the config and the tokenizer of the model."""
    attributes = stored.attributes
    if attributes.get("format") != FORMAT:
        raise WeightFileError(f"{path} is an HDF5 file, but not a checkpoint of npgpt")
    version = attributes.get("version")
    if version != VERSION:
        raise WeightFileError(
            f"{path} has format version {show(version)}; this npgpt reads {VERSION}"
        )
    config = parse_config(attributes.get("config", ""), path)
    tokenizer = attributes.get("tokenizer")
    if not isinstance(tokenizer, str) or not (tokenizer.isprintable() and len(tokenizer) <= 80):
        raise WeightFileError(f"{path}: its tokenizer is {show(tokenizer)}, expected a name")
    if tokenizer == tokenizer_files.OWN:
        return config, tokenizer_files.from_tensors(stored.tensors, Path(path))
    return config, tokenizer or None


def parse_adapters(stored: Stored, path: str | Path) -> lora.Adapters | None:
    """Return the LoRA adapters of the model, None if it has none."""
    if "lora" not in stored.attributes:
        return None
    text = f"{path}: its LoRA adapters"
    values = parse_json(stored.attributes["lora"], text)
    try:
        layers, rank, scale = values["layers"], values["rank"], values["scale"]
        found = lora.adapters_of(rank, scale * rank, layers)
    except (TypeError, KeyError, ValueError) as error:
        raise WeightFileError(f"{text} are invalid ({one_line(error)})") from None
    return found._replace(scale=float(scale))


def parse_state(stored: Stored, path: str | Path) -> dict[str, Any]:
    """Return the state of a run from its JSON."""
    if not any(name.startswith("training/") for name in stored.tensors):
        raise WeightFileError(
            f"{path} has a model but no training run: use --init-from to start a run from it"
        )
    raw = read_vector(stored, "training/state", "uint8", MAX_MEMORY, path)
    try:
        # It is written as ASCII. Another character would make the string up to four times as large.
        text = str(raw, "ascii")
        require_small(text)
    except ValueError as error:
        raise WeightFileError(f"{path}: its state cannot be read: {error}") from None
    state = parse_json(text, f"{path}: its state", any_text=True)  # its paths may be any bytes
    if not isinstance(state, dict):
        raise WeightFileError(f"{path}: the training state is not a JSON object")
    return state


def require_small(text: str) -> None:
    """Raise ValueError if the state of a run, as JSON, may take more than MAX_MEMORY."""
    values, containers = text.count(","), text.count("{") + text.count("[")
    needed = len(text) + VALUE * values + CONTAINER * containers
    if needed > MAX_MEMORY:
        raise ValueError(
            f"{values:,} values in {containers:,} lists and objects may take {needed:,} bytes of "
            f"memory; at most {MAX_MEMORY:,} are read. A larger --eval-every makes fewer"
        )
    names: set[str] = set()
    for found in STRING.finditer(text):
        if found[1]:
            names.add(found[0])
            if len(names) > MAX_NAMES:
                raise ValueError(f"it has over {MAX_NAMES} names of fields")


def read_vector(stored: Stored, name: str, dtype: str, max_size: int, path: str | Path) -> Array:
    """Return a one-dimensional dataset: a view of the file.

    Raises WeightFileError for another dtype or shape.
    """
    found = stored.tensors.get(name)
    if found is None:
        raise WeightFileError(f"{path} has no {name!r}")
    if found.dtype != dtype or len(found.shape) != 1 or found.shape[0] > max_size:
        raise WeightFileError(
            f"{path}: {name} is {found.dtype} of shape {found.shape}, "
            f"expected a vector of {dtype} of at most {max_size:,} entries"
        )
    return found.raw()


def map_tree(
    stored: Stored,
    group: str,
    config: Config,
    path: str | Path,
    adapters: lora.Adapters | None,
) -> dict[str, MappedTensor]:
    """Return the parameters in a group, mapped, by their names.

    Raises WeightFileError unless they are those of the config, with those of the adapters, all
    float32 or all float64.
    """
    return match_parameters(
        config,
        members(stored, group),
        Path(path),
        name_in_file=lambda name: f"{group}/{name}",
        dtypes=("float32",),
        adapters=adapters,
    )


def map_moments(
    stored: Stored, parameters: dict[str, MappedTensor], path: str | Path
) -> dict[str, dict[str, MappedTensor]]:
    """Return the moments in a file, mapped, by the names of their parameters.

    An optimizer need not keep all. Raises WeightFileError unless each has the shape and the dtype
    of its parameter.
    """
    found = {moment: members(stored, f"training/{moment}") for moment in MOMENTS}
    for moment, tensors in found.items():
        for name, tensor in tensors.items():
            own, parameter = f"training/{moment}/{name}", parameters.get(name)
            if parameter is None:
                raise WeightFileError(f"{path} has {show(own)}, which its config does not have")
            if tensor.shape != parameter.shape:
                raise WeightFileError(
                    f"{path}: {own} has shape {tensor.shape}, its config requires {parameter.shape}"
                )
            if tensor.dtype != parameter.dtype:
                raise WeightFileError(
                    f"{path}: {own} is {tensor.dtype}; moments must have the dtype of the "
                    f"parameters, {parameter.dtype}"
                )
    return {moment: tensors for moment, tensors in found.items() if tensors}


def members(stored: Stored, group: str) -> dict[str, MappedTensor]:
    """Return the datasets in a group by their names in it."""
    prefix, tensors = f"{group}/", stored.tensors.items()
    return {name.removeprefix(prefix): t for name, t in tensors if name.startswith(prefix)}


def read_tree(stored: dict[str, MappedTensor], shapes: Params) -> Params:
    """Read parameters or moments into memory, independent of the file.

    An array that is not stored is empty.
    """
    shapes = params.kept_shapes(shapes, lambda name, _: name in stored)
    dtype = next(iter(stored.values())).dtype
    tree = params.views(shapes, arrays.zeros(params.total(shapes), dtype))
    for name, array in params.named(tree):
        if (tensor := stored.get(name)) is not None:
            array[...] = tensor.raw()
            tensor.file.drop_pages(tensor.start, tensor.start + tensor.nbytes)
    return tree
