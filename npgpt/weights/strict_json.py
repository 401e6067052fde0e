"""Read JSON from a file without trusting it, as strictly as the safetensors library does.

Python's own reader accepts NaN, other encodings than UTF-8 and halves of surrogate pairs, and takes
up to 50 bytes of memory per byte of text.
"""

import json
import math
from pathlib import Path
from typing import Any

from npgpt.errors import WeightFileError
from npgpt.weights.mapped import MappedFile, short

MAX_TEXT = 1 << 20  # bytes of JSON; the header of the largest GPT-2 has 60,000
MAX_TABLE = 100_000_000  # bytes of a table of tensors: the limit of the safetensors library
MAX_DIGITS = 20  # of an integer
# In a larger text than MAX_TEXT: the fewest bytes for each of these characters, on average. A table
# of tensors has more. They bound the memory of what is parsed to about 15 times the text.
BYTES_PER = {b"{": 40, b"[": 20, b",": 3}


def read_json_object(path: Path, max_size: int = MAX_TEXT) -> dict[str, Any]:
    """Return the JSON object in a file. Raises WeightFileError if it is invalid or too large."""
    data = MappedFile(path).data
    if data.size > max_size:
        raise WeightFileError(
            f"{path} has {data.size:,} bytes; at most {max_size:,} of JSON are read"
        )
    return parse_json_object(data.tobytes(), str(path))


def parse_json_object(text: bytes, about: str) -> dict[str, Any]:
    """Return the JSON object in a text. Raises WeightFileError if it is invalid."""
    found = parse_json(text, about)
    if not isinstance(found, dict):
        raise WeightFileError(f"{about} is not a JSON object: {short(found)}")
    return found


def parse_json(text: Any, about: str, *, any_text: bool = False) -> Any:
    """Return the value of a JSON text. Raises WeightFileError if it is invalid.

    Repeated names, integers of more than MAX_DIGITS digits, numbers that are not finite and text
    that is not UTF-8 are refused. `any_text`: accept halves of surrogate pairs, by which Python
    represents file names that are not UTF-8.
    """
    try:
        raw = text.encode() if isinstance(text, str) else text
        too_many = (n * raw.count(char) > len(raw) for char, n in BYTES_PER.items())
        if len(raw) > MAX_TEXT and any(too_many):
            raise ValueError(f"{len(raw):,} bytes with too many brackets or commas")
        return json.loads(
            raw.decode("utf-8"),  # json itself would accept a byte order mark, and UTF-16
            object_pairs_hook=unique_pairs if any_text else parse_pairs,
            parse_int=parse_int,
            parse_float=parse_float,
            parse_constant=parse_constant,
        )
    except (AttributeError, TypeError, ValueError, RecursionError) as error:
        raise WeightFileError(f"{about} is not JSON ({error})") from None


def unique_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name occurs twice")
    return found


def parse_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object of Unicode text."""
    found = unique_pairs(pairs)
    for text in (*found, *(value for value in found.values() if isinstance(value, str))):
        if not text.isascii():
            text.encode()  # raises UnicodeEncodeError for half of a surrogate pair
    return found


def parse_int(digits: str) -> int:
    """Return a JSON integer."""
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"a number of {len(digits):,} digits")
    if digits == "-0":
        raise ValueError("the number -0, which is not an integer")
    return int(digits)


def parse_float(digits: str) -> float:
    """Return a JSON number with a point or an exponent."""
    found = float(digits)
    if not math.isfinite(found):
        raise ValueError(f"the number {digits[:40]}, which is too large")
    return found


def parse_constant(name: str) -> float:
    """Refuse NaN and Infinity, which Python writes and JSON does not have."""
    raise ValueError(f"it contains {name}")
