"""The files to tokenize, and their decompressed bytes."""

import gzip
import io
import os
import sys
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from npgpt.errors import InputError
from npgpt.system.files import open_regular, os_error
from npgpt.system.terminal import number_of, printable_line

Kind = Literal["text", "jsonl", "parquet"]
STDIN = "-"
KINDS: dict[str, Kind] = {
    ".txt": "text", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet",
}  # fmt: skip
COMPRESSED = (".gz", ".zst")
READ = ".txt, .jsonl, .ndjson, each also with .gz or .zst, and .parquet"
# Text in these would be trained on with its syntax, or is no text.
REFUSED = {
    ".json": "one document per line is a .jsonl file", ".csv": "convert it to .jsonl",
    ".tsv": "convert it to .jsonl", ".zip": "unpack it", ".tar": "unpack it", ".tgz": "unpack it",
    ".bz2": "unpack it", ".xz": "unpack it", ".7z": "unpack it",
    ".bin": "it has tokens already, or weights",
}  # fmt: skip
SHOWN = 3  # names of files that are passed over
EXTRA = "pip install 'npgpt[data]'"


@dataclass(frozen=True)
class Source:
    """One file, or standard input."""

    name: str  # the path as it was given, or "-"
    kind: Kind
    size: int  # bytes on the disk, 0 for standard input


def list_sources(names: Iterable[str], stdin: Kind = "text") -> tuple[list[Source], list[Path]]:
    """Return the files to read, and those in directories that are passed over.

    The files of a directory are sorted by path. `stdin`: what standard input holds.
    """
    found, passed_over = list[Source](), list[Path]()
    for name in names:
        path = Path(name)
        if name == STDIN:
            found.append(Source(name, stdin, 0))
        elif path.is_dir():
            files = sorted(file for file in path.rglob("*") if file.is_file())
            wanted = [file for file in files if kind_of(file)]
            if not wanted:
                raise InputError(f"the directory {path} has no files to read: {READ}")
            found += [make_source(file, kind_of(file) or "text") for file in wanted]
            passed_over += [file for file in files if not kind_of(file)]
        else:
            suffix = uncompressed(path).suffix.lower()
            if suffix in REFUSED:
                raise InputError(f"{path} is not read: {REFUSED[suffix]}")
            found.append(make_source(path, kind_of(path) or "text"))
    if sum(source.name == STDIN for source in found) > 1:
        raise InputError("standard input, -, can be read once only")
    return found, passed_over


def describe_passed_over(paths: Sequence[Path]) -> str:
    """Return how many files are passed over, and the first names."""
    names = ", ".join(printable_line(str(path), 80) for path in paths[:SHOWN])
    dots = ", ..." if len(paths) > SHOWN else ""
    return f"{number_of(len(paths), 'file')} passed over: {names}{dots}"


def make_source(path: Path, kind: Kind) -> Source:
    """Return the source of a file. Raise InputError if it cannot be opened."""
    try:
        with open_regular(path) as file:
            return Source(str(path), kind, os.fstat(file.fileno()).st_size)
    except FileNotFoundError:
        raise InputError(f"there is no file {path}") from None
    except OSError as error:
        raise os_error(f"{path} cannot be read", error) from None


def uncompressed(path: Path) -> Path:
    """Return the path without the suffix of its compression."""
    return path.with_suffix("") if path.suffix.lower() in COMPRESSED else path


def kind_of(path: Path) -> Kind | None:
    """Return what a file holds by its name, None if files of this name are not read in folders."""
    kind = KINDS.get(uncompressed(path).suffix.lower())
    return None if kind == "parquet" and uncompressed(path) != path else kind


class Input:
    """The decompressed bytes of a source."""

    def __init__(self, file: Any, raw: Any):
        self.file, self.raw = file, raw

    @property
    def position(self) -> int:
        """Bytes read from the disk so far, to show the progress."""
        return self.raw.tell() if self.raw is not None else 0

    def read(self, size: int) -> bytes:
        """Return `size` bytes, fewer only at the end."""
        parts = list[bytes]()
        while size and (part := self.file.read(size)):  # a pipe returns what it has
            parts.append(part)
            size -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)


@contextmanager
def open_source(source: Source) -> Iterator[Input]:
    """Open a source of text or lines. An error while it is read becomes one that names it."""
    with reading_errors(source):
        if source.name == STDIN:
            if sys.stdin is None:
                raise InputError("standard input is closed")
            yield Input(getattr(sys.stdin, "buffer", sys.stdin), None)
            return
        with open_regular(source.name) as raw:
            suffix = Path(source.name).suffix.lower()
            if suffix == ".gz":
                with gzip.GzipFile(fileobj=raw) as file:
                    yield Input(io.BufferedReader(file), raw)
            elif suffix == ".zst":
                with zstd_module(source.name).ZstdFile(raw) as file:
                    yield Input(file, raw)
            else:
                yield Input(raw, raw)


@contextmanager
def reading_errors(source: Source) -> Iterator[None]:
    """Turn an error of reading or decompressing into one that names the file."""
    try:
        yield
    except (InputError, MemoryError):
        raise
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(f"{source.name} is damaged or truncated: {error}") from None
    except OSError as error:
        raise os_error(f"{source.name} cannot be read", error) from None
    except Exception as error:
        if type(error).__name__ != "ZstdError":
            raise
        raise InputError(f"{source.name} is damaged or truncated: {error}") from None


def zstd_module(name: str) -> Any:
    """Return the module that reads .zst files. Raise InputError if it is missing."""
    try:
        if sys.version_info >= (3, 14):
            from compression import zstd
        else:
            from backports import zstd
    except ImportError:
        raise InputError(f"{name} is read with backports.zstd, which is missing: {EXTRA}") from None
    return zstd
