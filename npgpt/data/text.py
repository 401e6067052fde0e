"""Read a text: the bundled one, The Verdict, a file, or a directory of files."""

from importlib import resources
from pathlib import Path

from npgpt.data.tokenizer import END_OF_TEXT
from npgpt.errors import InputError

BUNDLED = "lighthouse.txt"


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
        Lines end in \\n.

    Raises
    ------
    InputError
        If a file does not exist, cannot be read, is empty, binary or not UTF-8.
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
        return END_OF_TEXT.join(read_file(file) for file in files)
    return read_file(path)


def read_file(path: Path) -> str:
    """Return the text of a file, without a byte order mark; lines end in \\n.

    Raises InputError as `read`.
    """
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"there is no text file {path}") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    if b"\0" in raw:
        raise InputError(f"{path} is not text: byte {raw.index(bytes(1))} is zero")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} is not UTF-8: byte {error.start} is 0x{raw[error.start]:02x}; "
            "convert it, for example with iconv -f latin1 -t utf-8"
        ) from None
    if not text.strip():
        raise InputError(f"{path} is empty: choose a file that has a text")
    return text.replace("\r\n", "\n")


def split(text: str, train_fraction: float) -> tuple[str, str]:
    """Split a text into training and validation text.

    The first `train_fraction` of the characters is for training, the rest for validation.
    """
    cut = int(train_fraction * len(text))
    return text[:cut], text[cut:]
