"""safetensors, the format of Hugging Face's weights, read and written.

    8 bytes     n, the length of the header, little endian
    n bytes     the header, a JSON object, filled up with spaces:
                    "wpe.weight": {"dtype": "F32", "shape": [1024, 8], "data_offsets": [0, 32768]}
                one for every tensor, its offsets counted from the header's end, and perhaps
                    "__metadata__": {"format": "pt"}
    the rest    the numbers, row-major, little endian, without gaps

A model of several files has a model.safetensors.index.json that says in its "weight_map" which
tensor lies in which. https://huggingface.co/docs/safetensors
"""

import json
import math
from collections.abc import Iterable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from npgpt.arrays import Array
from npgpt.errors import InputError
from npgpt.system.files import atomic_write
from npgpt.weights.mapped import BFLOAT16, MappedFile, MappedTensor, itemsize, refuse_pickle, short

INDEX = "model.safetensors.index.json"
DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": BFLOAT16, "I64": "int64",
    "I32": "int32", "I16": "int16", "I8": "int8", "U64": "uint64", "U32": "uint32",
    "U16": "uint16", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip
MOST_TEXT = 1 << 20  # bytes of JSON; the header of the largest GPT-2 has 60,000
MOST_DIGITS = 20  # of a number in it
MOST_AXES = 64  # NumPy's most
MOST_NAME = 255  # letters of a file's
ALIGNED = 64  # what the numbers written here begin at: a cache line


def read_safetensors(path: str | Path) -> dict[str, MappedTensor]:
    """Every tensor by its name, in the order of the header. Raises as `read_file`."""
    return read_file(path)[0]


def read_file(path: str | Path) -> tuple[dict[str, MappedTensor], dict[str, Any]]:
    """Every tensor by its name, in the order of the header, and what stands in its metadata.

    Raises InputError for what is not a whole file, or where tensors have bytes in common.
    """
    file = MappedFile(path)
    refuse_pickle(file)
    if file.data.size < 8:
        raise InputError(f"{path} is cut: {file.data.size} bytes are no safetensors file")
    length = int.from_bytes(file.data[:8].tobytes(), "little")
    begin = 8 + length
    if begin > file.data.size:
        raise InputError(
            f"{path} is cut, or not a safetensors file: a header of {length:,} bytes, "
            f"{file.data.size - 8:,} are left"
        )
    if length > MOST_TEXT:
        raise InputError(f"{path}: a header of {length:,} bytes; at most {MOST_TEXT:,} are read")
    header = parse_object(file.data[8:begin].tobytes(), f"{path}: its header")
    metadata = header.pop("__metadata__", None)
    tensors = {name: parse_entry(name, entry, file, begin) for name, entry in header.items()}
    taken = sorted((t.start, t.start + t.nbytes, name) for name, t in tensors.items() if t.nbytes)
    for one, other in pairwise(taken):
        if one[1] > other[0]:
            raise InputError(
                f"{path}: {short(one[2])} and {short(other[2])} have bytes in common: "
                f"{one[0]} to {one[1]}, and {other[0]} to {other[1]}"
            )
    numbers, left = sum(t.nbytes for t in tensors.values()), file.data.size - begin
    if numbers != left:
        raise InputError(
            f"{path} has {left:,} bytes of numbers, its header knows of {numbers:,}: it is damaged"
        )
    return tensors, metadata if isinstance(metadata, dict) else {}


def is_safetensors(head: bytes) -> bool:
    """Does a file that begins so look like one? In no JSON text there is a zero byte."""
    return head[7:9] == b"\0{"


def is_index(head: bytes) -> bool:
    """Does a file that begins so look like the index of several?"""
    return head.lstrip()[:1] == b"{" and not is_safetensors(head)


def parse_entry(name: str, entry: Any, file: MappedFile, begin: int) -> MappedTensor:
    """What the header says of a tensor, if it lies in the file."""
    about = f"{file.path}: {short(name)}"
    if not isinstance(entry, dict):
        raise InputError(f"{about} is {short(entry)}, expected dtype, shape and data_offsets")
    code, shape, place = (entry.get(key) for key in ("dtype", "shape", "data_offsets"))
    dtype = DTYPES.get(code) if isinstance(code, str) else None
    if dtype is None:
        raise InputError(f"{about} is of dtype {short(code)}; {', '.join(DTYPES)} are read here")
    if not natural(shape) or len(shape) > MOST_AXES:
        raise InputError(f"{about} has the shape {short(shape)}, expected a list of lengths")
    if not natural(place) or len(place) != 2:
        raise InputError(f"{about} has the data_offsets {short(place)}, expected two")
    if math.prod(max(n, 1) for n in shape) >= 1 << 60:  # NumPy's limit, 0 or not, and some room
        raise InputError(f"{about}: its shape {short(shape)} is larger than any array")
    first, last = place
    if last - first != math.prod(shape) * itemsize(dtype):
        raise InputError(
            f"{about}: bytes {first} to {last} cannot be {short(shape)} numbers of {dtype}"
        )
    if begin + last > file.data.size:
        raise InputError(
            f"{file.path} is cut: {short(name)} ends at {begin + last:,}, "
            f"the file at {file.data.size:,} bytes"
        )
    return MappedTensor(file, begin + first, tuple(shape), dtype)


def read_shards(index: str | Path) -> dict[str, MappedTensor]:
    """Every tensor of a model in several files, by the index beside them."""
    index = Path(index)
    places = read_object(index).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise InputError(f"{index} has no weight_map that says which file a tensor is in")
    shards = {}
    for name, shard in places.items():
        if not is_name(shard):
            raise InputError(
                f"{index}: {short(name)} is in {short(shard)}, expected a file beside it"
            )
        if shard not in shards:
            shards[shard] = read_safetensors(index.parent / shard)
        if name not in shards[shard]:
            raise InputError(
                f"{index.parent / shard} has no {short(name)}, which {index.name} puts there"
            )
    for shard, tensors in shards.items():
        for name in tensors:
            if places.get(name) != shard:
                raise InputError(
                    f"{index.parent / shard} has {short(name)}, which {index.name} does not put "
                    "there"
                )
    return {name: shards[shard][name] for name, shard in places.items()}


def is_name(text: Any) -> bool:
    """Is this the name of a file, with no folder before it and nothing odd in it?"""
    if not isinstance(text, str) or len(text) > MOST_NAME or not text.isprintable():
        return False
    return Path(text).name == text and text not in ("", "..")


class Piece(NamedTuple):
    """A tensor to write: its shape, its dtype, and its numbers, one array after another, so that
    they need not be in memory at once."""

    shape: tuple[int, ...]
    dtype: str
    arrays: Iterable[Array]  # of that dtype; bfloat16 as uint16

    @property
    def nbytes(self) -> int:
        """How many bytes it takes in the file."""
        return math.prod(self.shape) * itemsize(self.dtype)


def write_safetensors(
    path: str | Path, tensors: Mapping[str, Piece], metadata: Mapping[str, str] | None = None
) -> None:
    """Writes the tensors, whole or not at all. Raises OSError as any writing does.

    `metadata`: what the header says besides; by default that they are PyTorch's, as others ask for.
    """
    codes = {dtype: code for code, dtype in DTYPES.items()}
    header: dict[str, Any] = {"__metadata__": metadata or {"format": "pt"}}
    end = 0
    for name, piece in tensors.items():
        first, end = end, end + piece.nbytes
        header[name] = {
            "dtype": codes[piece.dtype], "shape": [*piece.shape], "data_offsets": [first, end]
        }  # fmt: skip
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % ALIGNED)
    with atomic_write(path) as temporary, open(temporary, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for piece in tensors.values():
            for array in piece.arrays:
                file.write(np.ascontiguousarray(array))


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object that a file is."""
    data = MappedFile(path).data
    if data.size > MOST_TEXT:
        raise InputError(f"{path} has {data.size:,} bytes; at most {MOST_TEXT:,} of JSON are read")
    return parse_object(data.tobytes(), str(path))


def parse_object(text: bytes, about: str) -> dict[str, Any]:
    """A JSON object in which no name stands twice, and no number is too long to compute with."""

    def once(pairs):
        found = dict(pairs)
        if len(found) < len(pairs):
            raise ValueError("a name stands there twice")
        return found

    def whole(digits):
        if len(digits) > MOST_DIGITS:
            raise ValueError(f"a number of {len(digits):,} digits")
        return int(digits)

    try:
        found = json.loads(text, object_pairs_hook=once, parse_int=whole)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{about} is not JSON ({error})") from None
    if not isinstance(found, dict):
        raise InputError(f"{about} is not a JSON object: {short(found)}")
    return found


def natural(values: Any) -> bool:
    """Is this a list of whole numbers from 0 to 2**63?"""
    return isinstance(values, list) and all(
        type(value) is int and 0 <= value < 1 << 63 for value in values
    )
