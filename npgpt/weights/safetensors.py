"""Read and write safetensors, the format of Hugging Face's weights.

    8 bytes     n, the length of the header, little endian
    n bytes     the header, a JSON object, padded with spaces:
                    "wpe.weight": {"dtype": "F32", "shape": [1024, 8], "data_offsets": [0, 32768]}
                one for every tensor, with offsets from the end of the header; optionally
                    "__metadata__": {"format": "pt"}
    the rest    the numbers, row-major, little endian, without gaps

A model in several files has a model.safetensors.index.json: its "weight_map" maps the name of each
tensor to its file. https://huggingface.co/docs/safetensors
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO, TypeGuard

import numpy as np

from npgpt.arrays import Array
from npgpt.errors import RunError, WeightFileError, show
from npgpt.system.atomic import atomic_write
from npgpt.weights.mapped import BFLOAT16, MappedFile, MappedTensor, itemsize, refuse_pickle
from npgpt.weights.strict_json import MAX_TABLE, Pairs, parse_json_object, read_json_object

INDEX = "model.safetensors.index.json"
DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": BFLOAT16, "I64": "int64",
    "I32": "int32", "I16": "int16", "I8": "int8", "U64": "uint64", "U32": "uint32",
    "U16": "uint16", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip
METADATA, FIELDS = "__metadata__", ("dtype", "shape", "data_offsets")
MAX_AXES = 64  # NumPy's limit
MAX_DEPTH = 127  # of lists and objects in the header: the limit of the safetensors library
MAX_NAME = 255  # characters of a file name
ALIGNMENT = 64  # bytes: written numbers begin at a cache line


def read_safetensors(path: str | Path) -> dict[str, MappedTensor]:
    """Map every tensor, by its name, in the order of the header. Raises as `read_file`."""
    return read_file(path)[0]


def read_file(path: str | Path) -> tuple[dict[str, MappedTensor], dict[str, str]]:
    """Map every tensor, by its name, in the order of the header; also return the metadata.

    Raises WeightFileError if the file is incomplete or damaged, or if tensors overlap.
    """
    file = MappedFile(path)
    refuse_pickle(file)
    if file.data.size < 8:
        raise WeightFileError(
            f"{path} is truncated: {file.data.size} bytes are too few for a safetensors file"
        )
    length = int.from_bytes(file.data[:8].tobytes(), "little")
    begin = 8 + length
    if begin > file.data.size:
        raise WeightFileError(
            f"{path} is truncated, or not a safetensors file: a header of {length:,} bytes, "
            f"{file.data.size - 8:,} are left"
        )
    if length > MAX_TABLE:
        raise WeightFileError(
            f"{path}: a header of {length:,} bytes; at most {MAX_TABLE:,} are read"
        )
    header = parse_json_object(file.data[8:begin], f"{path}: its header", make_object=last_pairs)
    for name, entry in others(header):
        if name == METADATA:
            raise WeightFileError(f"{path}: its header has {METADATA} twice")
        parse_fields(f"{path}: {show(name)}", entry)
    metadata = parse_metadata(header.pop(METADATA, None), file)
    tensors = {name: parse_entry(name, entry, file, begin) for name, entry in header.items()}
    check_order(tensors, file, begin)
    return tensors, metadata


def check_order(tensors: dict[str, MappedTensor], file: MappedFile, begin: int) -> None:
    """Raise WeightFileError unless the tensors follow each other from `begin` to the file's end."""
    ends = [(begin, begin, "the header")]
    ends += sorted((t.start, t.start + t.nbytes, show(name)) for name, t in tensors.items())
    ends += [(file.data.size, file.data.size, "the end of the file")]
    for (_, stop, one), (start, _, other) in pairwise(ends):
        if stop != start:
            found = "overlap" if stop > start else f"leave {start - stop:,} bytes between them"
            raise WeightFileError(
                f"{file.path} is damaged: {one}, which ends at {stop:,}, and {other}, which begins "
                f"at {start:,}, {found}"
            )


def is_safetensors(head: bytes) -> bool:
    """Return True if the first 64 bytes of a file look like safetensors: JSON has no zero byte."""
    return head[7:8] == b"\0" and head[8:].lstrip(b" \t\r\n")[:1] in (b"{", b"")


def is_index(head: bytes) -> bool:
    """Return True if the first bytes of a file look like the index of several files."""
    return head.lstrip()[:1] == b"{" and not is_safetensors(head)


class Repeated(dict[str, Any]):
    """An object in a header with repeated names. The last value of a name counts.

    The safetensors library validates the `others`, too.
    """

    others: list[tuple[str, Any]]


def last_pairs(pairs: Pairs) -> dict[str, Any]:
    """Return an object in a header."""
    found = dict(pairs)
    if len(found) == len(pairs):
        return found
    last = {name: i for i, (name, _) in enumerate(pairs)}
    repeated = Repeated(found)
    repeated.others = [pair for i, pair in enumerate(pairs) if last[pair[0]] != i]
    return repeated


def others(found: dict[str, Any]) -> list[tuple[str, Any]]:
    """Return the pairs of an object whose names are repeated, without the last of each name."""
    return found.others if isinstance(found, Repeated) else []


def parse_metadata(found: Any, file: MappedFile) -> dict[str, str]:
    """Return the metadata in a header. Raises WeightFileError unless it consists of strings."""
    if found is None:
        return {}
    if isinstance(found, dict):
        if {type(text) for _, text in (*found.items(), *others(found))} <= {str}:
            return found
    raise WeightFileError(f"{file.path}: its {METADATA} is {show(found)}, expected strings")


def parse_fields(about: str, entry: Any) -> tuple[str, list[int], list[int]]:
    """Return dtype, shape and offsets in an entry of the header. `about`: names it in messages.

    Raises WeightFileError if one is of another type.
    """
    if isinstance(entry, list) and len(entry) == len(FIELDS):  # as in the safetensors library
        entry = dict(zip(FIELDS, entry, strict=True))
    if not isinstance(entry, dict):
        raise WeightFileError(f"{about} is {show(entry)}, expected dtype, shape and data_offsets")
    if repeated := [name for name, _ in others(entry) if name in FIELDS]:
        raise WeightFileError(f"{about} has {repeated[0]} twice")
    if len(entry) > len(FIELDS) and is_deep(entry, MAX_DEPTH - 1):
        raise WeightFileError(f"{about} has a field of over {MAX_DEPTH} nested lists and objects")
    code, shape, offsets = map(entry.get, FIELDS)
    dtype = DTYPES.get(code) if isinstance(code, str) else None
    if dtype is None:
        raise WeightFileError(
            f"{about} has dtype {show(code)}; expected one of {', '.join(DTYPES)}"
        )
    if not is_sizes(shape) or len(shape) > MAX_AXES:
        raise WeightFileError(f"{about} has the shape {show(shape)}, expected a list of sizes")
    if not is_sizes(offsets) or len(offsets) != 2:
        raise WeightFileError(f"{about} has the data_offsets {show(offsets)}, expected two")
    return dtype, shape, offsets


def parse_entry(name: str, entry: Any, file: MappedFile, begin: int) -> MappedTensor:
    """Return a tensor from its entry in the header. Raises WeightFileError if it is invalid.

    `begin`: the offset of the numbers in the file.
    """
    about = f"{file.path}: {show(name)}"
    dtype, shape, (first, last) = parse_fields(about, entry)
    if math.prod(max(n, 1) for n in shape) >= 1 << 60:  # NumPy's limit, with a margin
        raise WeightFileError(f"{about}: its shape {show(shape)} is larger than any array")
    if last - first != math.prod(shape) * itemsize(dtype):
        raise WeightFileError(
            f"{about}: bytes {first} to {last} cannot be {show(shape)} numbers of {dtype}"
        )
    if begin + last > file.data.size:
        raise WeightFileError(
            f"{file.path} is truncated: {show(name)} ends at {begin + last:,}, "
            f"the file at {file.data.size:,} bytes"
        )
    return MappedTensor(file, begin + first, tuple(shape), dtype)


def read_shards(index: str | Path) -> dict[str, MappedTensor]:
    """Map every tensor of a model in several files, given the index beside them.

    Raises WeightFileError if the index and the files do not agree.
    """
    index = Path(index)
    weight_map = read_json_object(index, MAX_TABLE).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise WeightFileError(f"{index} has no weight_map with the file of each tensor")
    shards: dict[str, dict[str, MappedTensor]] = {}
    for name, shard in weight_map.items():
        if not is_file_name(shard):
            raise WeightFileError(
                f"{index}: {show(name)} is in {show(shard)}, expected a file beside it"
            )
        if shard not in shards:
            shards[shard] = read_safetensors(index.parent / shard)
        if name not in shards[shard]:
            raise WeightFileError(
                f"{index.parent / shard} has no {show(name)}, which {index.name} assigns to it"
            )
    for shard, tensors in shards.items():
        for name in tensors:
            if weight_map.get(name) != shard:
                raise WeightFileError(
                    f"{index.parent / shard} has {show(name)}, which {index.name} does not "
                    "assign to it"
                )
    return {name: shards[shard][name] for name, shard in weight_map.items()}


def is_file_name(text: Any) -> bool:
    """Return True if this is the printable name of a file, without a directory."""
    if not isinstance(text, str) or len(text) > MAX_NAME or not text.isprintable():
        return False
    return Path(text).name == text and text not in ("", "..")


@dataclass(frozen=True)
class TensorStream:
    """A tensor to write, as a sequence of arrays that need not be in memory at once."""

    shape: tuple[int, ...]
    dtype: str
    arrays: Iterable[Array]  # of this dtype; bfloat16 as uint16

    @property
    def nbytes(self) -> int:
        """Return its size in the file, in bytes."""
        return math.prod(self.shape) * itemsize(self.dtype)


def write_safetensors(
    path: str | Path, tensors: Mapping[str, TensorStream], metadata: Mapping[str, str] | None = None
) -> None:
    """Write a file atomically, as `write_tensors`. Raises RunError if writing fails."""
    with atomic_write(path) as file:
        write_tensors(file, tensors, metadata)


def write_tensors(
    file: BinaryIO, tensors: Mapping[str, TensorStream], metadata: Mapping[str, str] | None = None
) -> None:
    """Write the header and the tensors to an open file.

    `metadata`: strings for the header; by default {"format": "pt"}, which transformers requires.
    """
    codes = {dtype: code for code, dtype in DTYPES.items()}
    header: dict[str, Any] = {METADATA: metadata or {"format": "pt"}}
    end = 0
    for name, tensor in tensors.items():
        first, end = end, end + tensor.nbytes
        header[name] = {
            "dtype": codes[tensor.dtype], "shape": [*tensor.shape], "data_offsets": [first, end]
        }  # fmt: skip
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    file.write(len(text).to_bytes(8, "little") + text)
    for tensor in tensors.values():
        for array in tensor.arrays:
            file.write(np.ascontiguousarray(array).data)


def require_written(path: Path, tensors: Mapping[str, TensorStream]) -> None:
    """Read a file back. Raises RunError unless it has exactly these tensors, to the bit."""
    found = read_safetensors(path)
    if found.keys() != tensors.keys():
        raise RunError(f"{path.name} was read back with other tensors than were written")
    for name, expected in tensors.items():
        tensor, first = found[name], 0
        same = (tensor.shape, tensor.dtype) == (expected.shape, expected.dtype)
        for array in expected.arrays:
            last = first + array.size
            same = same and tensor.elements(first, last).tobytes() == array.tobytes()
            tensor.file.drop_pages(tensor.start, tensor.start + last * itemsize(tensor.dtype))
            first = last
        if not same:
            raise RunError(f"{name} was read back with other numbers than were written")


def is_sizes(values: Any) -> TypeGuard[list[int]]:
    """Return True if this is a list of integers from 0 to 2**63 - 1."""
    return isinstance(values, list) and all(
        type(value) is int and 0 <= value < 1 << 63 for value in values
    )


def is_deep(value: Any, depth: int) -> bool:
    """Return True if more than `depth` lists and objects are nested in each other."""
    level = [value]
    for _ in range(depth + 1):
        level = [one for one in level if isinstance(one, (list, dict))]
        if not level:
            return False
        level = [x for one in level for x in (one.values() if isinstance(one, dict) else one)]
    return True
