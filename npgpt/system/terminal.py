"""Escape text from a file, a server or a model before it reaches a terminal.

A terminal obeys control characters: they move the cursor, change colours, rename the window, and
write the clipboard. Python's notation, such as \\x1b, replaces them.
"""

import re
from typing import TextIO

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # all but newline and tab
MAX_ERROR = 400  # characters of an error


def printable_text(text: str, stream: TextIO | None = None) -> str:
    """Escape control characters except newline and tab.

    `stream`: where the text goes. If it is not a terminal, the text is returned unchanged.
    """
    if stream is not None and not stream.isatty():
        return text
    return CONTROL.sub(lambda found: escape(found[0]), text)


def printable_line(text: str, limit: int | None = None) -> str:
    """Escape every character that is not printable, line ends too.

    `limit`: the most characters returned. The middle of a longer text is replaced by dots.
    """
    found = "".join(char if char.isprintable() else escape(char) for char in text)
    return found if limit is None else shorten(found, limit)


def number_of(count: int, noun: str) -> str:
    """Return a number and its noun: "1 file", "2 files"."""
    return f"{count:,} {noun}" + "s" * (count != 1)


def shorten(text: str, limit: int) -> str:
    """Return at most `limit` characters. The middle of a longer text is replaced by dots."""
    if len(text) <= limit:
        return text
    half = (limit - 5) // 2
    return f"{text[:half]} ... {text[-half:]}"


def escape(char: str) -> str:
    """Return the escape sequence of a character, as in a Python string."""
    return char.encode("unicode_escape").decode()
