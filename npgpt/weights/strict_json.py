"""Read JSON from a file without trusting it, as strictly as the safetensors library does.

Python's own reader accepts NaN, other encodings than UTF-8 and halves of surrogate pairs. It takes
up to 50 bytes of memory per byte of text, and time that is quadratic in the digits of an integer.
"""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from npgpt.errors import WeightFileError, one_line, show
from npgpt.weights.mapped import MappedFile

MAX_TEXT = 1 << 20  # bytes of JSON; the header of the largest GPT-2 has 60,000
MAX_TABLE = 100_000_000  # bytes of a table of tensors: the limit of the safetensors library
MAX_DIGITS = 20  # of an integer
Pairs = list[tuple[str, Any]]
# In a text of more than MAX_TEXT: the fewest characters for each of these, on average. A table of
# tensors has more. They bound the memory of what is parsed to about 15 times the text.
CHARACTERS_PER = {"{": 40, "[": 20, ",": 3}


def read_json_object(path: Path, max_size: int = MAX_TEXT) -> dict[str, Any]:
    """Return the JSON object in a file. Raises WeightFileError if it is invalid or too large."""
    data = MappedFile(path).data
    if data.size > max_size:
        raise WeightFileError(
            f"{path} has {data.size:,} bytes; at most {max_size:,} of JSON are read"
        )
    return parse_json_object(data, str(path))


def parse_json_object(text: Any, about: str, **options: Any) -> dict[str, Any]:
    """Return the JSON object in a text. Raises WeightFileError if it is invalid.

    `options`: of `parse_json`.
    """
    found = parse_json(text, about, **options)
    if not isinstance(found, dict):
        raise WeightFileError(f"{about} is not a JSON object: {show(found)}")
    return found


def parse_json(
    text: Any, about: str, *, make_object: Callable[[Pairs], Any] | None = None,
    any_text: bool = False,
) -> Any:  # fmt: skip
    """Return the value of a JSON text, a string or UTF-8. Raises WeightFileError if it is invalid.

    Numbers that are not finite and text that is not UTF-8 are refused. `make_object`: returns an
    object from its pairs of name and value; by default a dict, and repeated names are refused.
    `any_text`: accept halves of surrogate pairs, by which Python represents file names that are not
    UTF-8.
    """
    try:
        if not isinstance(text, str):
            text = str(text, "utf-8")  # json itself would accept a byte order mark, and UTF-16
        elif not text.isascii():
            text.encode()  # fails for half of a surrogate pair
        too_many = (n * text.count(char) > len(text) for char, n in CHARACTERS_PER.items())
        if len(text) > MAX_TEXT and any(too_many):
            raise ValueError(f"{len(text):,} characters with too many brackets or commas")
        found = json.loads(
            text,
            object_pairs_hook=make_object or unique_pairs,
            parse_int=parse_int,
            parse_float=parse_float,
            parse_constant=parse_constant,
        )
        if not any_text and ("\\ud" in text or "\\uD" in text):
            json.dumps(found, ensure_ascii=False).encode()  # fails for half of a surrogate pair
        return found
    except TypeError:  # neither a string nor bytes
        raise WeightFileError(f"{about} is {show(text)}, expected JSON") from None
    except (ValueError, RecursionError) as error:
        raise WeightFileError(f"{about} is not JSON ({one_line(error)})") from None


def unique_pairs(pairs: Pairs) -> dict[str, Any]:
    """Return a JSON object. Raises ValueError if a name is repeated."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name occurs twice")
    return found


def parse_int(digits: str) -> float:
    """Return a JSON number without point or exponent: an int if it may have 64 bits."""
    # -0 and large integers are floats in the safetensors library, too
    return parse_float(digits) if len(digits) > MAX_DIGITS or digits == "-0" else int(digits)


def parse_float(digits: str) -> float:
    """Return a JSON number as a float."""
    found = float(digits)
    if not math.isfinite(found):
        raise ValueError(f"the number {digits[:40]}, which is too large")
    return found


def parse_constant(name: str) -> float:
    """Refuse NaN and Infinity, which Python writes and JSON does not have."""
    raise ValueError(f"it contains {name}")
