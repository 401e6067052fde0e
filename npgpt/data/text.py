"""Where a text comes from: the bundled one, The Verdict, a file, or a folder of files."""

from importlib import resources
from pathlib import Path

from npgpt.data.tokenizer import END_OF_TEXT
from npgpt.errors import InputError

BUNDLED = "lighthouse.txt"


def read(source: str | Path) -> str:
    """The text that `source` names.

    "bundled": the one that comes with npgpt. "verdict": Edith Wharton's The Verdict, the book's
    text, fetched once. Otherwise a path: of a UTF-8 text file, or of a folder, whose .txt files
    follow each other in the order of their names with <|endoftext|> between them.
    Raises InputError for what is missing, empty, binary or not UTF-8.
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
            raise InputError(f"the folder {path} has no .txt files")
        return END_OF_TEXT.join(read_file(file) for file in files)
    return read_file(path)


def read_file(path: Path) -> str:
    """The text in a file, without a byte order mark, its lines ending in \\n."""
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
        raise InputError(f"{path} is empty: there is nothing to learn from")
    return text.replace("\r\n", "\n")


def split(text: str, train_fraction: float) -> tuple[str, str]:
    """The first so many characters to train on, the rest to validate on."""
    cut = int(train_fraction * len(text))
    return text[:cut], text[cut:]
