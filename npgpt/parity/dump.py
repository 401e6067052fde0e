"""The dump: the numbers that a port of GPT-2 computed, by name, read without trusting them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from npgpt.arrays import Array
from npgpt.errors import InputError, show
from npgpt.parity import npy
from npgpt.system.atomic import atomic_write
from npgpt.weights.strict_json import parse_json_object

META = "meta"  # the name of the JSON text among the tensors
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


def read(path: str | Path) -> Dump:
    """Return the dump in a file. Raises InputError if it is damaged or holds no numbers."""
    return make(npy.read_archive(path), str(path))


def make(arrays: Mapping[str, Any], path: str = "the dump") -> Dump:
    """Return a dump of these arrays, one of which may be the meta data, after checking them."""
    tensors, meta = {}, {}
    for name, array in arrays.items():
        if name == META:
            meta = parse_meta(array, path)
        else:
            tensors[check_name(name, path)] = check_array(array, f"{path}: {show(name)}")
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
    found = np.asarray(array)
    if found.dtype.kind not in "biuf" or found.dtype.itemsize > 8:
        raise InputError(f"{about} is {found.dtype}, but must be integers or floats")
    return found.astype(found.dtype.newbyteorder("="), copy=False)


def parse_meta(found: Any, path: str) -> dict[str, Any]:
    """Return the meta data: a dict, or its JSON as a text, or as the bytes of one."""
    if isinstance(found, Mapping):
        return dict(found)
    array = np.asarray(found)
    if array.nbytes > MAX_META:
        raise InputError(f"{path}: its meta has {array.nbytes:,} bytes; at most {MAX_META:,} "
                         "are read")  # fmt: skip
    text: Any = array.item() if array.size == 1 and array.dtype.kind in "US" else None
    if array.dtype == np.uint8:
        text = array.tobytes()
    return parse_json_object(text, f"{path}: its meta")


def write(path: str | Path, dump: Dump) -> None:
    """Write a dump atomically as .npz. Raises RunError if writing fails."""
    arrays: dict[str, Array] = dict(dump.tensors)
    if dump.meta:
        arrays[META] = np.asarray(json.dumps(dump.meta))
    with atomic_write(path) as file:
        npy.write_archive(file, arrays)
