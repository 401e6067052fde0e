"""Read a text: the bundled one, The Verdict, a file, or a directory of files."""

from importlib import resources
from pathlib import Path

from npgpt.data.gpt2_bpe import END_OF_TEXT
from npgpt.errors import InputError
from npgpt.system.files import os_error, read_regular

BUNDLED = "lighthouse.txt"
MAX_SIZE = 1 << 31  # bytes of all files: as tokens, 2 GB of text take about 20 GB of memory
WIDE = {  # encodings of two or four bytes per character: the zeros in four bytes of ASCII text
    "UTF-32LE": {1, 2, 3}, "UTF-32BE": {0, 1, 2}, "UTF-16LE": {1, 3}, "UTF-16BE": {0, 2},
}  # fmt: skip
MARKS = {  # byte order marks; that of UTF-16LE begins like that of UTF-32LE
    b"\xff\xfe\0\0": "UTF-32", b"\0\0\xfe\xff": "UTF-32", b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}  # fmt: skip


def read(source: str | Path) -> str:
    """Return a text.

    Parameters
    ----------
    source : str or Path
        "bundled" for the text that is part of npgpt; "verdict" for The Verdict by Edith Wharton,
        the book's text, which is downloaded once; otherwise the path of a UTF-8 text file or a
        directory. The .txt files of a directory are joined by <|endoftext|>, sorted by path.

    Returns
    -------
    str
        Lines end in \\n, whether they end in \\n, \\r\\n or \\r in the file.

    Raises
    ------
    InputError
        If a file does not exist, cannot be read, is empty, binary or not UTF-8, or if the files
        have more than 2 GiB.
    DownloadError
        If The Verdict cannot be downloaded.
    """
    if source == "bundled":
        return resources.files("npgpt.data").joinpath(BUNDLED).read_text("utf-8")
    if source == "verdict":
        from npgpt.download import verdict  # here, because HTTP and TLS take time and memory

        return read_file(verdict.download_verdict())
    path = Path(source)
    if path.is_dir():
        files = sorted(file for file in path.rglob("*.txt") if file.is_file())
        if not files:
            raise InputError(f"the directory {path} has no .txt files")
        if sum(file.stat().st_size for file in files) > MAX_SIZE:
            raise InputError(f"the files in {path} have more than {MAX_SIZE:,} bytes: choose some")
        return END_OF_TEXT.join(read_file(file) for file in files)
    return read_file(path)


def read_file(path: Path) -> str:
    """Return the text of a file, without a byte order mark; lines end in \\n.

    Raises InputError as `read`.
    """
    try:
        raw = read_regular(path, MAX_SIZE)
    except FileNotFoundError:
        raise InputError(f"there is no text file {path}") from None
    except OSError as error:
        raise os_error(f"{path} cannot be read", error) from None
    check_encoding(raw, path)
    text = decode(raw, path)
    if not text.strip():
        raise InputError(f"{path} is empty: choose a file that has a text")
    return text


def check_encoding(raw: bytes, path: str | Path) -> None:
    """Raise InputError if the beginning of a file looks like UTF-16 or UTF-32."""
    if encoding := wide_encoding(raw):
        raise InputError(
            f"{path} is {encoding}, not UTF-8: convert it, for example with "
            f"iconv -f {encoding} -t UTF-8"
        )


def decode(raw: bytes, path: str | Path, offset: int = 0) -> str:
    """Return the text of a file, or of the part of it that begins at byte `offset`.

    A byte order mark is removed, lines end in \\n. Raises InputError if it is binary or not UTF-8.
    """
    text = decode_exactly(raw, path, offset)
    return text.replace("\r\n", "\n").replace("\r", "\n")  # as Python reads text files


def decode_exactly(raw: bytes, path: str | Path, offset: int = 0) -> str:
    """Return the text of a file as `decode`, but with its own line ends."""
    if b"\0" in raw:
        raise InputError(f"{path} is not text: byte {offset + raw.index(bytes(1))} is zero")
    try:
        return raw.decode("utf-8" if offset else "utf-8-sig")
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise InputError(
            f"{path} is not UTF-8: byte {offset + error.start} is 0x{byte:02x}; "
            "convert it, for example with iconv -f latin1 -t utf-8"
        ) from None


def wide_encoding(raw: bytes) -> str | None:
    """Return the name of the encoding if the bytes look like UTF-16 or UTF-32, else None."""
    for mark, name in MARKS.items():
        if raw.startswith(mark):
            return name
    head = raw[: min(len(raw), 1024) // 4 * 4]
    zeros = {i for i in range(4) if head and not any(head[i::4])}
    return next((name for name, offsets in WIDE.items() if zeros == offsets), None)


def split(text: str, train_fraction: float) -> tuple[str, str]:
    """Split a text into training and validation text.

    The first `train_fraction` of the characters is for training, the rest for validation.
    """
    cut = int(train_fraction * len(text))
    return text[:cut], text[cut:]
