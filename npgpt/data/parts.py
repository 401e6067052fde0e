"""The texts in a part of a file."""

import json
from collections.abc import Iterator

from npgpt.data.documents import Part
from npgpt.data.gpt2_bpe import END_OF_TEXT
from npgpt.data.text import decode
from npgpt.errors import InputError

# A text, and whether a document begins with it: None for a document that is empty. In place of the
# text, the reason why a document cannot be read.
Found = tuple[bool | None, str | InputError]


def texts_of(part: Part) -> Iterator[Found]:
    """Yield the texts of a part. Raises InputError for a text that is binary or not UTF-8."""
    for _ in range(part.too_long):
        yield None, InputError(f"a line before line {part.offset} is too long")
    if part.kind == "text":
        yield from texts_between(part)
    elif part.kind == "jsonl":
        for number, line in enumerate(part.data.split(b"\n"), part.offset):
            if line.strip():
                yield read_line(line, number)
    else:
        yield from read_rows(part)


def texts_between(part: Part) -> Iterator[Found]:
    """Yield the texts between <|endoftext|>."""
    texts = decode(part.data, part.name, part.offset).split(END_OF_TEXT)
    for i, text in enumerate(texts):
        begins = i > 0 or part.first
        # The text after the last <|endoftext|> may be in the next part only.
        continues = i == len(texts) - 1 and not part.last
        if text or continues:
            yield begins, text
        elif len(texts) == 1:
            yield None, ""


def read_line(line: bytes, number: int) -> Found:
    """Return the text of a line of JSON."""
    try:
        found = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
    except (ValueError, RecursionError) as error:
        return None, InputError(f"line {number} is not JSON: {error}")
    text = found.get("text") if isinstance(found, dict) else None
    if text is None:
        return None, InputError(f'line {number} has no "text"')
    if not isinstance(text, str):
        return None, InputError(f'line {number}: "text" is {text!r:.40}, but must be a string')
    if not text.isascii():
        # Halves of surrogate pairs are no Unicode text. tiktoken replaces them in the same way.
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return (True if text else None), text


def read_rows(part: Part) -> Iterator[Found]:
    """Yield the texts of the rows of a parquet file."""
    at = 0
    for row, length in enumerate(part.lengths, part.offset):
        if length < 0:
            yield None, InputError(f"row {row}: it is no text, or too long")
            continue
        text = part.data[at : at + length].decode("utf-8", "replace")
        yield (True if text else None), text
        at += length
