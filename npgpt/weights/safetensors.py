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
from typing import Any, TypeGuard

import numpy as np

from npgpt.arrays import Array
from npgpt.errors import WeightFileError
from npgpt.system.files import atomic_write
from npgpt.weights.mapped import BFLOAT16, MappedFile, MappedTensor, itemsize, refuse_pickle, short

INDEX = "model.safetensors.index.json"
DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": BFLOAT16, "I64": "int64",
    "I32": "int32", "I16": "int16", "I8": "int8", "U64": "uint64", "U32": "uint32",
    "U16": "uint16", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip
MAX_TEXT = 1 << 20  # bytes of JSON; the header of the largest GPT-2 has 60,000
MAX_DIGITS = 20  # of a number in the header
MAX_AXES = 64  # NumPy's limit
MAX_NAME = 255  # characters of a file name
ALIGNMENT = 64  # bytes: written numbers begin at a cache line


def read_safetensors(path: str | Path) -> dict[str, MappedTensor]:
    """Map every tensor, by its name, in the order of the header. Raises as `read_file`."""
    return read_file(path)[0]


def read_file(path: str | Path) -> tuple[dict[str, MappedTensor], dict[str, Any]]:
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
    if length > MAX_TEXT:
        raise WeightFileError(
            f"{path}: a header of {length:,} bytes; at most {MAX_TEXT:,} are read"
        )
    header = parse_json_object(file.data[8:begin].tobytes(), f"{path}: its header")
    metadata = header.pop("__metadata__", None)
    tensors = {name: parse_entry(name, entry, file, begin) for name, entry in header.items()}
    taken = sorted((t.start, t.start + t.nbytes, name) for name, t in tensors.items() if t.nbytes)
    for one, other in pairwise(taken):
        if one[1] > other[0]:
            raise WeightFileError(
                f"{path}: {short(one[2])} and {short(other[2])} overlap: "
                f"bytes {one[0]} to {one[1]} and {other[0]} to {other[1]}"
            )
    numbers, left = sum(t.nbytes for t in tensors.values()), file.data.size - begin
    if numbers != left:
        raise WeightFileError(
            f"{path} has {left:,} bytes of numbers, its header describes {numbers:,}: it is damaged"
        )
    return tensors, metadata if isinstance(metadata, dict) else {}


def is_safetensors(head: bytes) -> bool:
    """Return True if the first bytes of a file look like safetensors: JSON has no zero byte."""
    return head[7:9] == b"\0{"


def is_index(head: bytes) -> bool:
    """Return True if the first bytes of a file look like the index of several files."""
    return head.lstrip()[:1] == b"{" and not is_safetensors(head)


def parse_entry(name: str, entry: Any, file: MappedFile, begin: int) -> MappedTensor:
    """Return a tensor from its entry in the header. Raises WeightFileError if it is invalid.

    `begin`: the offset of the numbers in the file.
    """
    about = f"{file.path}: {short(name)}"
    if not isinstance(entry, dict):
        raise WeightFileError(f"{about} is {short(entry)}, expected dtype, shape and data_offsets")
    code, shape, offsets = (entry.get(key) for key in ("dtype", "shape", "data_offsets"))
    dtype = DTYPES.get(code) if isinstance(code, str) else None
    if dtype is None:
        raise WeightFileError(
            f"{about} has dtype {short(code)}; expected one of {', '.join(DTYPES)}"
        )
    if not is_sizes(shape) or len(shape) > MAX_AXES:
        raise WeightFileError(f"{about} has the shape {short(shape)}, expected a list of sizes")
    if not is_sizes(offsets) or len(offsets) != 2:
        raise WeightFileError(f"{about} has the data_offsets {short(offsets)}, expected two")
    if math.prod(max(n, 1) for n in shape) >= 1 << 60:  # NumPy's limit, with a margin
        raise WeightFileError(f"{about}: its shape {short(shape)} is larger than any array")
    first, last = offsets
    if last - first != math.prod(shape) * itemsize(dtype):
        raise WeightFileError(
            f"{about}: bytes {first} to {last} cannot be {short(shape)} numbers of {dtype}"
        )
    if begin + last > file.data.size:
        raise WeightFileError(
            f"{file.path} is truncated: {short(name)} ends at {begin + last:,}, "
            f"the file at {file.data.size:,} bytes"
        )
    return MappedTensor(file, begin + first, tuple(shape), dtype)


def read_shards(index: str | Path) -> dict[str, MappedTensor]:
    """Map every tensor of a model in several files, given the index beside them.

    Raises WeightFileError if the index and the files do not agree.
    """
    index = Path(index)
    weight_map = read_json_object(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise WeightFileError(f"{index} has no weight_map with the file of each tensor")
    shards: dict[str, dict[str, MappedTensor]] = {}
    for name, shard in weight_map.items():
        if not is_file_name(shard):
            raise WeightFileError(
                f"{index}: {short(name)} is in {short(shard)}, expected a file beside it"
            )
        if shard not in shards:
            shards[shard] = read_safetensors(index.parent / shard)
        if name not in shards[shard]:
            raise WeightFileError(
                f"{index.parent / shard} has no {short(name)}, which {index.name} assigns to it"
            )
    for shard, tensors in shards.items():
        for name in tensors:
            if weight_map.get(name) != shard:
                raise WeightFileError(
                    f"{index.parent / shard} has {short(name)}, which {index.name} does not "
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
    """Write the tensors atomically. Raises OSError if writing fails.

    `metadata`: strings for the header; by default {"format": "pt"}, which transformers requires.
    """
    codes = {dtype: code for code, dtype in DTYPES.items()}
    header: dict[str, Any] = {"__metadata__": metadata or {"format": "pt"}}
    end = 0
    for name, tensor in tensors.items():
        first, end = end, end + tensor.nbytes
        header[name] = {
            "dtype": codes[tensor.dtype], "shape": [*tensor.shape], "data_offsets": [first, end]
        }  # fmt: skip
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    with atomic_write(path) as temporary, open(temporary, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors.values():
            for array in tensor.arrays:
                file.write(np.ascontiguousarray(array).data)


def read_json_object(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file. Raises WeightFileError if it is invalid or too large."""
    data = MappedFile(path).data
    if data.size > MAX_TEXT:
        raise WeightFileError(
            f"{path} has {data.size:,} bytes; at most {MAX_TEXT:,} of JSON are read"
        )
    return parse_json_object(data.tobytes(), str(path))


def parse_json_object(text: bytes, about: str) -> dict[str, Any]:
    """Return the JSON object in a text. Raises WeightFileError if it is invalid.

    Repeated names and integers of more than MAX_DIGITS digits are refused.
    """

    def parse_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            raise ValueError("a name occurs twice")
        return found

    def parse_int(digits: str) -> int:
        if len(digits) > MAX_DIGITS:
            raise ValueError(f"a number of {len(digits):,} digits")
        return int(digits)

    try:
        found = json.loads(text, object_pairs_hook=parse_pairs, parse_int=parse_int)
    except (ValueError, RecursionError) as error:
        raise WeightFileError(f"{about} is not JSON ({error})") from None
    if not isinstance(found, dict):
        raise WeightFileError(f"{about} is not a JSON object: {short(found)}")
    return found


def is_sizes(values: Any) -> TypeGuard[list[int]]:
    """Return True if this is a list of integers from 0 to 2**63 - 1."""
    return isinstance(values, list) and all(
        type(value) is int and 0 <= value < 1 << 63 for value in values
    )
