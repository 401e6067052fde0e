"""The dump: the numbers that a port of GPT-2 computed, by name, read without trusting them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from npgpt.arrays import Array
from npgpt.config import Config
from npgpt.errors import InputError, show
from npgpt.model import params
from npgpt.parity import debug_state, npy
from npgpt.system.atomic import atomic_write
from npgpt.weights.mapped import BFLOAT16, ZIP, MappedFile, MappedTensor, refuse_pickle
from npgpt.weights.safetensors import is_safetensors, read_file
from npgpt.weights.strict_json import parse_json_object, read_json_object

META, META_FILE = "meta", "meta.json"  # the JSON text among the tensors, or in a folder
FORMATS = "supported are .npz, safetensors, a folder of .npy files, and llm.c's debug state"
ACTIVATIONS = 1 << 28  # bytes
PER_PARAMETER = 8 * 20  # bytes: itself, its gradient, and after many steps, in float64
MAX_META = 1 << 20  # bytes
MAX_NAME = 200  # characters


@dataclass(frozen=True, eq=False)
class Dump:
    """Tensors by the names of docs/find-the-bug.md, and the meta data of the port.

    Parameters
    ----------
    tensors : dict of str to array
        "tokens", "targets", "loss", "grad/wte.weight", ...; <parameter> and <name> are the port's.
    meta : dict, default empty
        n_head, and the settings that the port used in place of the probe's.
    path : str, default "the dump"
        Names it in messages.
    """

    tensors: dict[str, Array]
    meta: dict[str, Any] = field(default_factory=dict)
    path: str = "the dump"


def read(path: str | Path, config: Config | None = None) -> Dump:
    """Return the dump in a file, in the format that its contents have, or in a folder of .npy.

    `config`: of the probe, which llm.c's debug state needs. Raises InputError if the file is
    damaged, in none of the formats, or a pickle.
    """
    path = Path(path)
    if path.is_dir():
        arrays: dict[str, Any] = dict(npy.read_folder(path))
        if (path / META_FILE).is_file():
            arrays[META] = read_json_object(path / META_FILE)
        return make(arrays, str(path))
    file = MappedFile(path)
    head = file.data[:64].tobytes()
    if head.startswith(ZIP):
        return make(npy.read_archive(path, limit(config)), str(path))
    if debug_state.is_debug_state(head):
        if config is None:
            raise InputError(f"{path} is llm.c's debug state, which needs a probe beside it")
        return make(debug_state.read(path, config), str(path))
    if is_safetensors(head):
        tensors, metadata = read_file(path)
        arrays = {name: to_array(tensor) for name, tensor in tensors.items()}
        if META in metadata:
            arrays[META] = np.asarray(metadata[META])
        return make(arrays, str(path))
    refuse_pickle(file)
    raise InputError(f"{path} is no dump: it has {file.data.size:,} bytes and begins with "
                     f"{head[:8]!r}; {FORMATS}")  # fmt: skip


def limit(config: Config | None) -> int:
    """Return how many bytes of arrays a deflated dump of such a model may have."""
    most = npy.MAX_BYTES if config is None else ACTIVATIONS + PER_PARAMETER * params.size(config)
    return min(most, npy.MAX_BYTES)


def to_array(tensor: MappedTensor) -> Array:
    """Return a tensor in a file as an array: a view, unless it is bfloat16."""
    return tensor.array() if tensor.dtype == BFLOAT16 else tensor.raw()


def make(arrays: Mapping[str, Any], path: str = "the dump") -> Dump:
    """Return a dump of these arrays, one of which may be the meta data, after checking them."""
    tensors, meta = {}, {}
    for name, array in arrays.items():
        if name == META:
            meta = parse_meta(array, path)
        else:
            tensors[check_name(name, path)] = check_array(array, f"{path}: {show(name)}")
    if (loss := tensors.get("loss")) is not None:
        if loss.size != 1:
            raise InputError(f"{path}: its loss has the shape {loss.shape}, but must be a number")
        tensors["loss"] = loss.reshape(())
    return Dump(tensors, meta, path)


def check_name(name: Any, path: str) -> str:
    """Return the name of a tensor. Raise InputError unless it is short and printable."""
    if not isinstance(name, str) or not name.isprintable() or not 0 < len(name) <= MAX_NAME:
        raise InputError(
            f"{path} has a tensor named {show(name)}; names must be printable, of at most "
            f"{MAX_NAME} characters"
        )
    return name


def check_array(array: Any, about: str) -> Array:
    """Return integers or floats in the machine's byte order. Raise InputError for anything else."""
    try:
        found = from_tensor(array) if hasattr(array, "detach") else np.asarray(array)
    except (TypeError, ValueError):
        raise InputError(f"{about} is {show(array)}, but must be an array of numbers") from None
    if found.dtype.kind not in "biuf" or found.dtype.itemsize > 8:
        raise InputError(f"{about} is {found.dtype}, but must be integers or floats")
    return found.astype(found.dtype.newbyteorder("="), copy=False)


def from_tensor(tensor: Any) -> Array:
    """Return a copy of a tensor of PyTorch. bfloat16, which NumPy does not have, is widened."""
    tensor = tensor.detach().cpu()
    return np.array((tensor.float() if "bfloat16" in str(tensor.dtype) else tensor).numpy())


def parse_meta(found: Any, path: str) -> dict[str, Any]:
    """Return the meta data: a dict, or its JSON as a text, or as the bytes of one."""
    if isinstance(found, Mapping):
        return dict(found)  # parsed already, or made by the caller
    array = np.asarray(found)
    if array.nbytes > MAX_META:
        raise InputError(f"{path}: its meta has {array.nbytes:,} bytes; at most {MAX_META:,} "
                         "are read")  # fmt: skip
    text: Any = array.item() if array.size == 1 and array.dtype.kind in "US" else None
    if array.dtype == np.uint8:
        text = array.tobytes()
    return parse_json_object(text, f"{path}: its meta")


def write(path: str | Path, dump: Dump) -> None:
    """Write a dump atomically as .npz. Raises RunError if writing fails.

    Its tensors may be those of PyTorch, as after `capture`.
    """
    arrays = make(dump.tensors, dump.path).tensors
    if dump.meta:
        arrays[META] = np.asarray(json.dumps(dump.meta))
    with atomic_write(path) as file:
        npy.write_archive(file, arrays)
