"""Documents of files, as blocks of bytes: the division depends on nothing but the files.

text     a file is one document, or several between <|endoftext|>
jsonl    one document per line: a JSON object whose "text" is a string
parquet  one document per row: the column "text"

A block is the unit of work. Large files are cut into several; a text is cut where a word ends, as
`text_encoder.py` explains. Small files share a block. Files are streamed: a text without white
space, and a document of the other kinds, may have at most MAX_DOCUMENT bytes.
"""

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from npgpt.data.sources import EXTRA, Input, Kind, Source, open_source, reading_errors
from npgpt.data.text import check_encoding
from npgpt.errors import InputError

BLOCK = 1 << 22  # bytes of text
MAX_DOCUMENT = 1 << 25  # bytes; JSON may take ten times as many in memory
ROWS = 256  # of a parquet file, read at once
GROUP = 1 << 26  # bytes of files that share blocks


class Part(NamedTuple):
    """Consecutive bytes of one file."""

    kind: Kind
    name: str
    data: bytes
    offset: int  # of the first byte in a text; of the first line or row otherwise
    first: bool  # whether the file begins here
    last: bool  # whether the file ends here
    lengths: tuple[int, ...] = ()  # bytes of each row, -1 for one that is no text
    too_long: int = 0  # documents before this one that were not read


class Block(NamedTuple):
    """A unit of work: the parts, and the position in the files of its group after it."""

    parts: list[Part]
    position: int

    @property
    def digest(self) -> str:
        """The hash of the documents."""
        found = hashlib.blake2b(digest_size=16)
        for part in self.parts:
            found.update(repr(part._replace(data=b"")).encode("utf-8", "replace"))
            found.update(part.data)
        return found.hexdigest()


def make_groups(sources: Sequence[Source]) -> list[list[Source]]:
    """Return the sources in groups. No block has documents of two groups."""
    groups, size = list[list[Source]](), 0
    for source in sources:
        if not groups or size + source.size > GROUP:
            groups.append([])
            size = 0
        groups[-1].append(source)
        size += source.size
    return groups


def read_blocks(group: Sequence[Source]) -> Iterator[Block]:
    """Yield the documents of a group in blocks. Raises InputError for a file that is not valid."""
    parts, size, before = list[Part](), 0, 0
    for source in group:
        for part, position in read_parts(source):
            parts.append(part)
            size += len(part.data) + 64  # a folder may have a million empty files
            if size >= BLOCK:
                yield Block(parts, before + position)
                parts, size = [], 0
        before += source.size
    if parts:
        yield Block(parts, before)


def read_parts(source: Source) -> Iterator[tuple[Part, int]]:
    """Yield the parts of a file, each with the number of bytes read from the disk."""
    if source.kind == "parquet":
        with reading_errors(source):
            yield from read_parquet(source)
        return
    with open_source(source) as file:
        yield from (read_text if source.kind == "text" else read_lines)(source, file)


def read_text(source: Source, file: Input) -> Iterator[tuple[Part, int]]:
    """Yield the parts of a text."""
    offset, data = 0, file.read(BLOCK)
    check_encoding(data, source.name)
    while True:
        more = file.read(BLOCK)
        if not more:
            break
        data += more
        cut = find_cut(data, BLOCK)
        if not cut:
            if len(data) > MAX_DOCUMENT:
                raise InputError(
                    f"{source.name} has no white space in the {len(data):,} bytes from byte "
                    f"{offset:,} on; at most {MAX_DOCUMENT:,} are read"
                )
            continue
        yield Part("text", source.name, data[:cut], offset, not offset, False), file.position
        offset, data = offset + cut, data[cut:]
    yield Part("text", source.name, data, offset, not offset, True), file.position


def find_cut(data: bytes, after: int) -> int:
    """Return where a word ends: the last end before `after`, or else the first one behind it.

    White space follows another character there. 0 if a word ends nowhere.
    """
    for step, end in ((-1, after), (1, after)):
        for space in (b"\n", b" "):
            at = end
            for _ in range(1000):
                at = data.rfind(space, 1, at) if step < 0 else data.find(space, at + 1)
                if at < 0:
                    break
                before = data[max(0, at - 4) : at].decode("utf-8", "ignore")
                if before and not before[-1].isspace():
                    return at
    return 0


def read_lines(source: Source, file: Input) -> Iterator[tuple[Part, int]]:
    """Yield the lines of a file. A line of more than MAX_DOCUMENT bytes is counted, not kept."""
    data, line, too_long, skipping, first = b"", 1, 0, False, True
    while more := file.read(BLOCK):
        if first and not data:
            check_encoding(more, source.name)
        if skipping:  # the rest of a line that is too long
            end = more.find(b"\n") + 1
            if not end:
                continue
            more, skipping, line = more[end:], False, line + 1
        data += more
        cut = data.rfind(b"\n") + 1
        if cut:
            part = Part("jsonl", source.name, data[:cut], line, first, False, (), too_long)
            yield part, file.position
            line, data, too_long, first = line + data.count(b"\n", 0, cut), data[cut:], 0, False
        if len(data) > MAX_DOCUMENT:
            data, skipping, too_long = b"", True, too_long + 1
    yield Part("jsonl", source.name, data, line, first, True, (), too_long), file.position


def read_parquet(source: Source) -> Iterator[tuple[Part, int]]:
    """Yield the rows of a parquet file."""
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise InputError(f"{source.name} is read with pyarrow, which is missing: {EXTRA}") from None
    try:
        with parquet.ParquetFile(source.name, memory_map=False, pre_buffer=False) as file:
            names = file.schema_arrow.names
            if "text" not in names:
                shown = ", ".join(names)
                raise InputError(f'{source.name} has no column "text", only {shown:.200}')
            row, rows = 0, max(1, file.metadata.num_rows)
            for batch in file.iter_batches(ROWS, columns=["text"]):
                texts = [text_or_none(value) for value in batch.column(0)]
                yield make_rows(source, texts, row), source.size * row // rows
                row += len(texts)
    except (ArrowException, OSError) as error:
        if getattr(error, "errno", None):  # of the disk
            raise
        text = " ".join(str(error).split())
        raise InputError(f"{source.name} is not a valid parquet file: {text:.200}") from None


def text_or_none(value: Any) -> Any:
    """Return the value of a row, None if it is text that is not UTF-8."""
    try:
        return value.as_py()
    except UnicodeDecodeError:
        return None


def make_rows(source: Source, texts: list[Any], row: int) -> Part:
    """Return the part of some rows."""
    encoded = [text.encode() if isinstance(text, str) else None for text in texts]
    fit = [one if one is not None and len(one) <= MAX_DOCUMENT else None for one in encoded]
    lengths = tuple(-1 if one is None else len(one) for one in fit)
    data = b"".join(one for one in fit if one is not None)
    return Part("parquet", source.name, data, row, not row, False, lengths)
