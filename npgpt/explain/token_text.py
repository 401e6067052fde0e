"""Tokens as text for a picture: one line each, also where a token is a part of a character."""

from collections.abc import Iterable

from npgpt.data.tokenizer import Tokenizer
from npgpt.system.terminal import printable_line


def texts(tokenizer: Tokenizer | None, ids: Iterable[int]) -> list[str]:
    """Return the text of each token.

    Bytes that are not UTF-8 by themselves, and control characters, become escape sequences: "\\xe2"
    for the first third of a dash, "\\n" for a new line. A token without a text is its id: "<300>".
    """
    return [text(tokenizer, int(token)) for token in ids]


def text(tokenizer: Tokenizer | None, token: int) -> str:
    """Return the text of one token."""
    found = None if tokenizer is None or token < 0 else tokenizer.token_bytes(token)
    return (
        f"<{token}>" if found is None else printable_line(found.decode("utf-8", "backslashreplace"))
    )
