"""Quote a command for the user's shell: the printed line can be pasted and runs."""

import shlex
import subprocess
import sys
from pathlib import Path


def npgpt_command(verb: str, *paths: Path, **options: Path | str) -> str:
    """Return a command of npgpt as one printable line."""
    words = [quote(path) for path in paths]
    return " ".join(["npgpt", verb, *words, *(option(*one) for one in options.items())])


def option(name: str, value: Path | str) -> str:
    """Return an option with its value. A text that begins with a dash is joined to it by =."""
    joint = "=" if isinstance(value, str) and value.startswith("-") else " "
    return f"--{name}{joint}{quote(value)}"


def quote(word: Path | str) -> str:
    """Return a word as the user's shell reads it. ./ precedes a path that begins with a dash."""
    text = f"./{word}" if isinstance(word, Path) and str(word).startswith("-") else str(word)
    if sys.platform == "win32":
        return subprocess.list2cmdline([text])
    if is_shown(text):
        return shlex.quote(text)
    # A line end would end the command, a terminal obeys control characters, and what the encoding
    # of the output lacks would be shown as a question mark.
    return f"$'{''.join(map(escape, text))}'"  # of POSIX since 2024, bash, zsh and ksh


def escape(char: str) -> str:
    """Return a character as it stands inside of $'...'."""
    if char in "\\'":
        return f"\\{char}"
    if is_shown(char):
        return char
    return "".join(f"\\x{byte:02x}" for byte in char.encode("utf-8", "surrogateescape"))


def is_shown(text: str) -> bool:
    """Return True if standard output shows every character of a text."""
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return False
    return text.isprintable()
