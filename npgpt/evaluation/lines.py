"""Files of evaluation tasks: JSON objects, one per line, which are not trusted."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from npgpt.data.text import check_encoding
from npgpt.errors import InputError, show
from npgpt.system.files import read_input
from npgpt.weights.strict_json import parse_json_object

MAX_FILE = 1 << 28  # bytes; the largest file, WikiText-2's training split, has 11 million


class Record(NamedTuple):
    """A JSON object, or a document of a text."""

    where: str  # "PATH, line 3"
    values: dict[str, Any]

    def text(self, name: str) -> str:
        """Return a text. Raises InputError if it is missing or no text."""
        if name not in self.values:
            raise self.error(f'it has no "{name}", only {shorten(self.values)}')
        if not isinstance(found := self.values[name], str):
            raise self.error(f'its "{name}" must be a text, not {show(found)}')
        return found

    def error(self, what: str) -> InputError:
        """Return the error of this record."""
        return InputError(f"{self.where}: {what}")


def read_data(path: str | Path) -> bytes:
    """Return the contents of a file. Raises InputError if it cannot be read, or is too large."""
    data = read_input(path, MAX_FILE)
    check_encoding(data[:4096], path)
    if not data.strip():
        raise InputError(f"{path} is empty")
    return data


def read_lines(path: str | Path) -> Iterator[Record]:
    """Yield the objects of a file. Lines without one are skipped if they are blank."""
    return parse_lines(path, read_data(path))


def parse_lines(path: str | Path, data: bytes) -> Iterator[Record]:
    """Yield the objects of the contents of a file."""
    for number, line in enumerate(data.split(b"\n"), 1):
        if line.strip():
            where = f"{path}, line {number:,}"
            yield Record(where, parse_json_object(line, where))


def shorten(names: dict[str, Any]) -> str:
    """Return the names, at most 100 characters of them."""
    return f"{', '.join(map(show, names)) or 'nothing'}"[:100]
