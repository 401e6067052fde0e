"""Read prompts from a file, one per line, without holding the file in memory."""

import codecs
import hashlib
import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from npgpt.data.sources import STDIN, Input, Source, list_sources, open_source
from npgpt.errors import InputError, show

BLOCK = 1 << 16
MAX_LINE = 1 << 20  # bytes; the longest context of GPT-2 has about 5,000


class Prompt(NamedTuple):
    """A text to continue, and its place for error messages."""

    text: str
    origin: str = "the prompt"


def find_prompts(path: str) -> Source:
    """Return the file of this path, or standard input for "-". Raises InputError."""
    (source, *others), _ = list_sources([path])
    if others or source.kind == "parquet":
        raise InputError(f"{path} is no file of prompts: it must be a text file, .jsonl, or -")
    return source


def read_prompts(source: Source) -> Iterator[Prompt]:
    """Yield the prompts: the lines of a text, or "prompt" of each JSON object of a .jsonl file.

    Raises InputError, which names the line, for one that is none.
    """
    with open_source(source) as file:
        for number, line in enumerate(_lines(file, source.name), 1):
            origin = f"{source.name}, line {number:,}"
            if number == 1:
                line = line.removeprefix(codecs.BOM_UTF8)  # which some editors write
            yield Prompt(_prompt(line, source.kind == "jsonl", origin), origin)


def count_prompts(source: Source) -> tuple[int, str]:
    """Return the number of prompts and a digest of them. Raises InputError as `read_prompts`.

    Standard input can be read once only: it has none.
    """
    if source.name == STDIN:
        return 0, ""
    count, found = 0, hashlib.blake2b(digest_size=16)
    for prompt in read_prompts(source):
        count += 1
        found.update(prompt.text.encode() + b"\n")
    if not count:
        raise InputError(f"{source.name} has no prompts")
    return count, found.hexdigest()


def _lines(file: Input, name: str) -> Iterator[bytes]:
    """Yield the lines of a file without their ends."""
    data, number = b"", 1
    while more := file.read(BLOCK):
        *lines, data = (data + more).split(b"\n")
        yield from lines
        number += len(lines)
        if len(data) > MAX_LINE:
            raise InputError(f"{name}, line {number:,} has more than {MAX_LINE:,} bytes")
    if data:
        yield data


def _prompt(line: bytes, is_json: bool, origin: str) -> str:
    """Return the prompt of a line."""
    try:
        text: Any = line.removesuffix(b"\r").decode()
    except UnicodeDecodeError:
        raise InputError(f"{origin} is not UTF-8") from None
    if is_json:
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            raise InputError(f"{origin} is no JSON object") from None
        text = found.get("prompt") if isinstance(found, dict) else None
        if not isinstance(text, str):
            raise InputError(f'{origin} must be a JSON object with "prompt", a string')
        if not text.isascii() and text != text.encode("utf-8", "replace").decode():
            raise InputError(f"{origin} has half of a surrogate pair: {show(text)}")
    if not text:
        raise InputError(f"{origin} is empty: give at least one character to continue from")
    return text
