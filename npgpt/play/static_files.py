"""The files of the page, read once: a request names an entry of this table, never a path."""

from importlib import resources
from importlib.resources.abc import Traversable
from typing import NamedTuple

TYPES = {
    ".css": "text/css",
    ".html": "text/html",
    ".js": "text/javascript",
    ".md": "text/plain",
    ".svg": "image/svg+xml",
    ".txt": "text/plain",
}
TOKEN = b"{{token}}"  # in index.html


class File(NamedTuple):
    """A file that is served."""

    content: bytes
    media_type: str


def read(token: str) -> dict[str, File]:
    """Return the files by their addresses: "/" is index.html, with the token in it."""
    files = {f"/{name}": file for name, file in walk(resources.files("npgpt.play") / "static")}
    index = files.pop("/index.html")
    files["/"] = File(index.content.replace(TOKEN, token.encode()), index.media_type)
    return files


def walk(directory: Traversable, before: str = "") -> list[tuple[str, File]]:
    """Return the files below a directory, with their paths."""
    found = []
    for entry in directory.iterdir():
        name = f"{before}{entry.name}"
        suffix = entry.name[entry.name.rfind(".") :]
        if entry.is_dir():
            found += walk(entry, f"{name}/")
        elif suffix in TYPES:
            found.append((name, File(entry.read_bytes(), f"{TYPES[suffix]}; charset=utf-8")))
    return found
