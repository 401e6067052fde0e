"""Records of a user's file: rows of tab- or comma-separated values, or JSON objects.

Quotation marks are read as pandas reads them. At the start of a value they enclose it, with its
delimiters and line ends. Elsewhere they are characters.
"""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from npgpt.data.text import check_encoding, decode_exactly
from npgpt.errors import InputError, show
from npgpt.system.files import read_input
from npgpt.weights.strict_json import parse_json

MAX_SIZE = 1 << 27  # bytes of a file
DELIMITERS = {
    ".csv": ",",
    ".tsv": "\t",
    ".txt": "\t",
    "": "\t",
}  # the spam collection has no suffix
SUFFIXES = ".tsv, .csv, .json or .jsonl"

Record = dict[str, str]


def read_records(
    path: str | Path, fields: Sequence[str], *, may_be_empty: Sequence[str] = ()
) -> list[Record]:
    """Return the records of a file, each with all `fields` as texts.

    A table has these columns, in this order or as its first row names them; others are ignored. A
    field of `may_be_empty` may be missing in an object of JSON. Raises InputError with the number
    of the line or entry that is wrong.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in (*DELIMITERS, ".json", ".jsonl"):
        raise InputError(f"{path} has the suffix {show(path.suffix)}, but must be {SUFFIXES}")
    raw = read_input(path, MAX_SIZE)
    check_encoding(raw, path)
    text = decode_exactly(raw, path)
    if suffix in DELIMITERS:
        found = read_table(text, path, DELIMITERS[suffix], fields)
    else:
        read = read_json if suffix == ".json" else read_json_lines
        found = read_objects(read(text, path), fields, may_be_empty)
    records = []
    for where, record in found:
        for name in fields:
            if not record[name].strip() and name not in may_be_empty:
                raise InputError(f"{where}: the {name} is empty")
        records.append(record)
    if not records:
        raise InputError(f"{path} has no records: it must have {' and '.join(fields)}")
    return records


def read_table(
    text: str, path: Path, delimiter: str, fields: Sequence[str]
) -> Iterator[tuple[str, Record]]:
    """Yield where each row of a table is, and its values by the names of the columns."""
    columns: Sequence[str] | None = None
    for where, row in read_rows(text, path, delimiter):
        if columns is None:
            names = [name.strip().lower() for name in row]
            if set(fields) <= set(names):
                columns = names
                continue
            columns = fields
        if len(row) != len(columns):
            raise InputError(
                f"{where}: it has {len(row)} columns, but must have {len(columns)}: "
                f"{', '.join(columns):.80}"
            )
        yield where, dict(zip(columns, row, strict=True))


def read_rows(text: str, path: Path, delimiter: str) -> Iterator[tuple[str, list[str]]]:
    """Yield where each row is, and its values. Blank lines are skipped."""
    ended = False

    def lines() -> Iterator[str]:
        nonlocal ended
        yield from io.StringIO(text, newline="")
        ended = True

    reader = csv.reader(lines(), delimiter=delimiter)
    first = 1
    try:
        for row in reader:
            where, first = f"{path}, line {first}", reader.line_num + 1
            if ended:  # the reader has looked for another line
                raise InputError(f"{where}: a quotation mark is opened, but never closed")
            if row:
                yield where, row
    except csv.Error:
        limit = csv.field_size_limit()
        raise InputError(
            f"{path}, line {first}: a value has more than {limit:,} characters. A quotation mark "
            "may be opened there and closed much later"
        ) from None


def read_json(text: str, path: Path) -> Iterator[tuple[str, Any]]:
    """Yield where each entry of a list is, and the entry."""
    found = parse_json(text, str(path))
    if not isinstance(found, list):
        raise InputError(f"{path} must be a list of JSON objects, not {show(found)}")
    for number, entry in enumerate(found, 1):
        yield f"{path}, entry {number}", entry


def read_json_lines(text: str, path: Path) -> Iterator[tuple[str, Any]]:
    """Yield where each line is, and its value."""
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield f"{path}, line {number}", parse_json(line, f"{path}, line {number},")


def read_objects(
    found: Iterable[tuple[str, Any]], fields: Sequence[str], may_be_empty: Sequence[str]
) -> Iterator[tuple[str, Record]]:
    """Yield where each object is, and its fields as texts. An integer may be a label."""
    for where, entry in found:
        if not isinstance(entry, dict):
            raise InputError(f"{where}: {show(entry)} must be an object of {', '.join(fields)}")
        record = {}
        for name in fields:
            if name not in entry and name not in may_be_empty:
                raise InputError(f"{where}: it has no {show(name)}")
            value = entry.get(name, "")
            if type(value) not in (str, int):
                raise InputError(f"{where}: {name} is {show(value)}, but must be a string")
            record[name] = str(value)
        yield where, record
