"""Text as Python's text mode reads it; what is no regular file, or not UTF-8, is refused."""

import itertools
import os

import pytest

from npgpt.data import text
from npgpt.errors import InputError
from npgpt.system.files import open_regular, read_regular
from npgpt.training.curve import read_curve


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.txt"


def test_line_ends_are_those_of_pythons_text_mode(path):
    for pieces in itertools.product(("\r", "\n", "x"), repeat=5):
        path.write_bytes(("a" + "".join(pieces)).encode())
        assert text.read(path) == path.read_text("utf-8")


@pytest.mark.parametrize("content", ["text, and more", "größer, and more, in English " * 100])
@pytest.mark.parametrize(
    "encoding", ["UTF-16", "UTF-32", "UTF-16LE", "UTF-16BE", "UTF-32LE", "UTF-32BE"]
)
def test_wide_encodings_are_named(path, encoding, content):
    """And the conversion that the message names gives the text."""
    path.write_bytes(content.replace("ö", "o").encode(encoding))
    with pytest.raises(InputError, match=f"is {encoding}, not UTF-8: .* iconv -f {encoding} -t "):
        text.read(path)
    path.write_bytes(("\ufeff" + content).encode(encoding.removesuffix("LE").removesuffix("BE")))
    with pytest.raises(InputError, match=f"is {encoding[:6]}, not UTF-8"):
        text.read(path)


@pytest.mark.parametrize("content", [b"ab\0c", b"\0" * 8, b"a\0", b"plain text", b"", b"abc"])
def test_other_zeros_are_no_encoding(content):
    assert text.wide_encoding(content) is None


MAKERS = {
    "a pipe": os.mkfifo,
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a directory": os.mkdir,
}


@pytest.mark.parametrize("kind", MAKERS)
def test_what_is_not_a_regular_file(path, kind):
    MAKERS[kind](path)
    for read in (open_regular, lambda path: read_regular(path, 10)):
        with pytest.raises(OSError, match=f"it is {kind}, not a file"):
            read(path)
    if kind != "a directory":
        with pytest.raises(InputError, match=rf"a\.txt cannot be read: it is {kind}, not a file$"):
            text.read(path)


def test_a_file_that_is_too_large(path):
    """A sparse one: nothing is read."""
    path.touch()
    os.truncate(path, 1 << 40)
    says = "cannot be read: it has 1,099,511,627,776 bytes; at most 2,147,483,648 are read$"
    with pytest.raises(InputError, match=says):
        text.read(path)
    with pytest.raises(InputError, match=r"the files in .* have more than 2,147,483,648 bytes"):
        text.read(path.parent)
    path.write_bytes(b"1234567890")
    assert read_regular(path, 10) == b"1234567890"
    with pytest.raises(OSError, match="it has 10 bytes; at most 9 are read"):
        read_regular(path, 9)


@pytest.mark.parametrize("kind", [*MAKERS, "a terabyte"])
@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl"])
def test_the_files_of_a_run(tmp_path, name, kind):
    (tmp_path / "config.json").write_text('{"tokens_per_epoch": 4}')
    (tmp_path / "metrics.jsonl").write_text(
        '{"tokens_seen": 1, "train_loss": 1.0, "val_loss": 1.0}'
    )
    assert read_curve(tmp_path).tokens_per_epoch == 4
    (tmp_path / name).unlink()
    if kind == "a terabyte":
        (tmp_path / name).touch()
        os.truncate(tmp_path / name, 1 << 40)
        says = "it has 1,099,511,627,776 bytes"
    else:
        MAKERS[kind](tmp_path / name)
        says = f"it is {kind}, not a file"
    with pytest.raises(InputError, match=f"{name} cannot be read: {says}"):
        read_curve(tmp_path)
