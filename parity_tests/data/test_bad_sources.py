"""Sources that cannot be tokenized are named in one line; bad documents are counted."""

import gzip
import re
import sys
from pathlib import Path

import pytest

from npgpt.cli.main import main
from npgpt.cli.tokenize import Tokenize
from npgpt.data import documents, token_format
from npgpt.data.dataset import read_source
from npgpt.data.sources import list_sources
from npgpt.data.tokenizer import tokenizer
from npgpt.errors import InputError
from parity_tests.support.fuzz_token_files import fuzz
from parity_tests.support.token_documents import job, write_jsonl

BAD = {
    "latin-1": ("a.txt", b"caf\xe9", "not UTF-8: byte 3 is 0xe9"),
    "UTF-16": ("a.txt", "text".encode("utf-16"), "is UTF-16, not UTF-8"),
    "UTF-16 lines": ("a.jsonl", '{"text": "a"}'.encode("utf-16-le"), "is UTF-16LE, not UTF-8"),
    "binary": ("a.txt", b"ab\0c", "byte 2 is zero"),
    "gzip of something else": ("a.txt.gz", b"text", "is damaged or truncated"),
    "cut gzip": ("a.txt.gz", gzip.compress(b"text" * 99)[:-9], "is damaged or truncated"),
    "zstd of something else": ("a.txt.zst", b"text", "is damaged or truncated"),
    "parquet of something else": ("a.parquet", b"PAR1 text PAR1", "is not a valid parquet file"),
    "no JSON": ("a.jsonl", b"{'text': 1}\n", "line 1 is not JSON"),
    "no text": ("a.jsonl", b'{"body": "b"}\n', 'line 1 has no "text"'),
    "a list": ("a.jsonl", b"[" * 9999, "line 1 is not JSON"),
    "empty": ("a.txt", b"", "no documents"),
    "one document": ("a.txt", b"text", "1 document cannot be divided"),
    "an array": ("a.json", b"[]", "one document per line is a .jsonl file"),
    "nothing to read": ("folder/a.md", b"text", "has no files to read"),
    "missing": ("missing", None, "there is no file"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_named(name, tmp_path):
    file, data, message = BAD[name]
    path = tmp_path / file
    if data is not None:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
    with pytest.raises(InputError, match=re.escape(message)) as error:
        job([path.parent if "folder" in file else path], tmp_path / "to").run()
    assert (
        str(path) in str(error.value)
        or message in ("no documents", BAD["one document"][2])
        or ("folder" in file)
    )
    assert not (tmp_path / "to" / token_format.INDEX).exists()
    if path.suffix == ".txt":  # mended, the same command continues
        path.write_text("a<|endoftext|>b")
        assert job([path], tmp_path / "to").run()["documents"] == 2


def test_a_bad_file_is_one_line_and_exit_code_2(tmp_path, capsys):
    path = tmp_path / "a.txt"
    path.write_bytes(b"caf\xe9")
    flags = ["--tokenizer", "byte", "--workers", "1"]
    assert main(["tokenize", str(path), "--to", str(tmp_path / "to"), *flags]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "1 file, 4 bytes"
    assert lines[1].startswith("npgpt: ") and len(lines) == 2


def test_a_parquet_file_without_the_column(tmp_path):
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"body": ["a"], "id": [1]}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match='has no column "text", only body, id'):
        job([tmp_path / "a.parquet"], tmp_path / "to").run()
    rows = pyarrow.table({"text": ["a", None, "", "b"]})
    parquet.write_table(rows, tmp_path / "b.parquet")
    index = job([tmp_path / "b.parquet"], tmp_path / "to", val_fraction=0).run()
    assert (index["documents"], index["skipped"]["bad"], index["skipped"]["empty"]) == (2, 1, 1)
    data = (tmp_path / "b.parquet").read_bytes()
    for damaged in (data[:-9], data[: len(data) // 2], data[:4] + bytes(60) + data[64:]):
        (tmp_path / "c.parquet").write_bytes(damaged)
        with pytest.raises(InputError, match=r"c\.parquet is not a valid parquet file"):
            job([tmp_path / "c.parquet"], tmp_path / "c").run()


@pytest.mark.parametrize("module, file", [("pyarrow", "a.parquet"), ("backports", "a.txt.zst")])
def test_a_missing_library_names_the_extra(module, file, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    if module == "backports" and sys.version_info >= (3, 14):
        monkeypatch.setitem(sys.modules, "compression", None)
    (tmp_path / file).write_bytes(b"x")
    with pytest.raises(InputError, match=r"which is missing: pip install 'npgpt\[data\]'"):
        job([tmp_path / file], tmp_path / "to").run()


def test_a_line_that_is_too_long_is_not_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(documents, "BLOCK", 100)
    monkeypatch.setattr(documents, "MAX_DOCUMENT", 1000)
    source = write_jsonl(tmp_path / "d.jsonl", ["a", "b" * 5000, "c", "d" * 900, "e" * 1500])
    index = job([source], tmp_path / "to", val_fraction=0).run()
    assert (index["documents"], index["skipped"]["bad"]) == (3, 2)
    (tmp_path / "long.txt").write_text("b" * 5000)
    with pytest.raises(InputError, match="has no white space in the 1,"):
        job([tmp_path / "long.txt"], tmp_path / "long").run()


@pytest.mark.parametrize(
    "flags, message",
    [
        ({"part": "3/2"}, "--part is 3/2"),
        ({"part": "x"}, "--part is 'x'"),
        ({"workers": 0}, "--workers is 0"),
        ({"val_fraction": 1.0}, "--val-fraction is 1.0"),
        ({"val_fraction": float("nan")}, "--val-fraction is nan"),
        ({"first_shard": True, "format": "nanogpt"}, "--first-shard needs"),
        ({"first_shard": True, "val_fraction": 0.1}, "are two validation splits"),
        ({"first_shard": True, "workers": 1}, "are one shard of at most 100,000,000"),
    ],
)
def test_flags_out_of_range(flags, message, tmp_path):
    source = write_jsonl(tmp_path / "d.jsonl")
    command = Tokenize(sources=[str(source)], to=tmp_path / "to", tokenizer="byte", **flags)
    with pytest.raises(InputError, match=re.escape(message)):
        command.run()


def test_validation_texts_without_documents_and_twice_the_same(tmp_path):
    source, empty = write_jsonl(tmp_path / "d.jsonl"), tmp_path / "empty.jsonl"
    empty.write_text("")
    val, _ = list_sources([str(empty)])
    with pytest.raises(InputError, match="the validation texts have no documents"):
        job([source], tmp_path / "to", val_sources=val).run()
    with pytest.raises(InputError, match=r"d\.jsonl is named twice"):
        job([source], tmp_path / "b", val_sources=list_sources([str(source)])[0]).run()
    (tmp_path / "to" / "mine.bin").write_text("not a token file")
    job([source], tmp_path / "to").run()
    assert (tmp_path / "to" / "mine.bin").exists()


def test_random_changes_are_read_or_refused(tmp_path):
    outcomes = fuzz(tmp_path, 100)
    assert sum(times for (_, outcome), times in outcomes.items() if outcome == "refused") > 50
    assert outcomes["c.txt", "read"] > 0


def test_every_command_says_what_it_skips(tmp_path, monkeypatch):
    """Also the second time, when the tokens are in the cache."""
    monkeypatch.setenv("NPGPT_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    Path("a.jsonl").write_text('{"text": "a text"}\n{"text": "another"\n{"text": ""}\nnone\n')
    for new in (1, 0):
        said = []
        read_source("a.jsonl", tokenizer("byte"), 0.5, 257, said.append)
        bad, empty = said[new:]
        assert bad.startswith("2 documents skipped; the first: a.jsonl, line 2 ")
        assert empty == "1 empty document skipped"
