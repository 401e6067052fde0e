"""npgpt tokenize: the same token files from any form of the documents, any processes and parts."""

import gzip
import hashlib
import io
import multiprocessing
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from npgpt.cli.main import main
from npgpt.data import documents, token_format, tokenize
from npgpt.data.sources import list_sources
from npgpt.data.tokenizer import tokenizer
from npgpt.errors import InputError, RunError
from parity_tests.support.token_documents import (
    DOCUMENTS,
    END,
    contents,
    job,
    write_folder,
    write_jsonl,
)
from parity_tests.support.tokenizers_of import bpe, write


def compress(path):
    packed = path.with_name(path.name + ".gz")
    with gzip.open(packed, "wb") as file:
        file.write(path.read_bytes())
    return packed


def compress_zstd(path):
    zstd = pytest.importorskip("backports.zstd", reason="Python has its own since 3.14")
    packed = path.with_name(path.name + ".zst")
    packed.write_bytes(zstd.compress(path.read_bytes()))
    return packed


def write_parquet(path):
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"text": DOCUMENTS, "id": range(40)}), path)
    return path


def write_one_text(path):
    path.write_text("<|endoftext|>".join(DOCUMENTS))
    return path


def ids(text):
    return list(text.encode())


def prepare_llmc(texts, shard_tokens):
    """The files of llm.c's fineweb.py: the end of a text first, shards of equal size."""
    stream = [token for text in texts for token in [END, *ids(text)]]
    shards = [stream[i : i + shard_tokens] for i in range(0, len(stream), shard_tokens)]
    files = []
    for shard in shards:
        header = np.zeros(256, "<i4")
        header[:3] = 20240520, 1, len(shard)
        files.append(header.tobytes() + np.array(shard, "<u2").tobytes())
    return files


def prepare_nanogpt(texts):
    """A file of nanoGPT's openwebtext/prepare.py: the end of a text last, no header."""
    return np.array([t for text in texts for t in [*ids(text), END]], "<u2").tobytes()


FORMS = {
    "jsonl": lambda at: write_jsonl(at / "d.jsonl"),
    "jsonl.gz": lambda at: compress(write_jsonl(at / "d.jsonl")),
    "jsonl.zst": lambda at: compress_zstd(write_jsonl(at / "d.jsonl")),
    "parquet": lambda at: write_parquet(at / "d.parquet"),
    "folder": lambda at: write_folder(at / "folder"),
    "txt": lambda at: write_one_text(at / "d.txt"),
    "txt.gz": lambda at: compress(write_one_text(at / "d.txt")),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("block", [documents.BLOCK, 1500])
def test_every_form_gives_the_files_of_llmc(form, block, tmp_path, monkeypatch):
    monkeypatch.setattr(documents, "BLOCK", block)
    total = sum(len(ids(text)) + 1 for text in DOCUMENTS)
    index = job([FORMS[form](tmp_path)], tmp_path / "to", val_fraction=0, shard_tokens=999).run()
    assert index["documents"] == 40
    assert index["tokens"] == total
    shards = index["shards"]
    found = [(tmp_path / "to" / shard["file"]).read_bytes() for shard in shards]
    assert found == prepare_llmc(DOCUMENTS, 999)
    assert [s["file"] for s in shards][:2] == ["tokens_train_000001.bin", "tokens_train_000002.bin"]
    assert [s["tokens"] for s in shards] == [999] * (total // 999) + [total % 999]
    assert [s["sha256"] for s in shards] == [hashlib.sha256(data).hexdigest() for data in found]
    assert len(contents(tmp_path / "to")) == len(shards) + 1


def test_the_first_shard_of_llmc_is_for_validation(tmp_path):
    source = write_jsonl(tmp_path / "d.jsonl")
    index = job([source], tmp_path / "to", first_shard=True, shard_tokens=1500).run()
    found = [(tmp_path / "to" / shard["file"]).read_bytes() for shard in index["shards"]]
    assert found == prepare_llmc(DOCUMENTS, 1500)
    names = [(shard["file"], shard["split"]) for shard in index["shards"]]
    assert names[0] == ("tokens_val_000000.bin", "val")
    assert {split for _, split in names[1:]} == {"train"}


@pytest.mark.parametrize("fraction", [0.0001, 0.1, 0.5])
def test_nanogpt_and_a_split_that_tears_no_document(fraction, tmp_path, monkeypatch):
    monkeypatch.setattr(documents, "BLOCK", 700)
    source = write_one_text(tmp_path / "d.txt")
    index = job([source], tmp_path / "to", layout="nanogpt", val_fraction=fraction).run()
    n = max(1, round(40 * fraction))
    chosen = [i for i in range(40) if (i + 1) * n // 40 > i * n // 40]
    assert len(chosen) == n
    val = [DOCUMENTS[i] for i in chosen]
    train = [text for i, text in enumerate(DOCUMENTS) if i not in chosen]
    assert (tmp_path / "to/val.bin").read_bytes() == prepare_nanogpt(val)
    assert (tmp_path / "to/train.bin").read_bytes() == prepare_nanogpt(train)
    assert index["splits"]["val"]["documents"] == n
    assert index["splits"]["train"]["documents"] == 40 - n


def test_validation_texts_of_their_own(tmp_path):
    held_out = write_jsonl(tmp_path / "val.jsonl", DOCUMENTS[30:])
    val, _ = list_sources([str(held_out)])
    job([write_jsonl(tmp_path / "d.jsonl", DOCUMENTS[:30])], tmp_path / "to", val_sources=val).run()
    found = contents(tmp_path / "to")
    assert found["tokens_val_000000.bin"] == prepare_llmc(DOCUMENTS[30:], 10**8)[0]
    assert found["tokens_train_000001.bin"] == prepare_llmc(DOCUMENTS[:30], 10**8)[0]


@pytest.mark.parametrize("group", [documents.GROUP, 300])
def test_parts_write_the_same_bytes(group, tmp_path, monkeypatch):
    monkeypatch.setattr(documents, "BLOCK", 500)
    monkeypatch.setattr(documents, "GROUP", group)
    folder = write_folder(tmp_path / "folder")
    job([folder], tmp_path / "one").run()
    job([folder / "001.txt", folder / "002.txt"], tmp_path / "three", part=(2, 3)).run()
    job([folder], tmp_path / "three", part=(1, 3)).run()
    with pytest.raises(RunError, match="part-2 was encoded from other files"):
        job([folder], tmp_path / "three", part=(3, 3)).run()
    index = job([folder], tmp_path / "three", part=(2, 3)).run()
    assert index["documents"] == 40
    assert contents(tmp_path / "one") == contents(tmp_path / "three")


@pytest.mark.slow
def test_processes_write_the_same_bytes_and_bad_documents_are_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(documents, "BLOCK", 500)
    source = write_jsonl(tmp_path / "d.jsonl")
    lines = source.read_text().splitlines()
    lines[10:10] = ['{"text": 5}', "{", '{"other": 1}', '{"text": ""}', ""]
    source.write_text("\n".join(lines))
    indices = [job([source], tmp_path / str(n), workers=n).run() for n in (1, 2)]
    assert contents(tmp_path / "1") == contents(tmp_path / "2")
    assert indices[0]["skipped"] == {
        "empty": 1, "bad": 3,
        "first_bad": f'{source}, line 11: "text" is 5, but must be a string',
    }  # fmt: skip
    assert indices[0]["documents"] == 40


def test_what_was_done_is_not_encoded_again(tmp_path, monkeypatch):
    monkeypatch.setattr(documents, "BLOCK", 500)
    source, done = write_jsonl(tmp_path / "d.jsonl"), []

    def run_tasks(tasks, *rest, limit=None):
        for task in real(tasks, *rest):
            done.append(task.path.name)
            if len(done) == 3:
                raise RunError("killed")
            yield task

    real = tokenize.run_tasks
    monkeypatch.setattr(tokenize, "run_tasks", run_tasks)
    with pytest.raises(RunError, match="killed"):
        job([source], tmp_path / "to").run()
    damaged = tmp_path / "to" / token_format.WORK / done[0]
    damaged.write_bytes(damaged.read_bytes()[:-1])
    before = list(done)
    write(tmp_path / "other", bpe(source.read_text()))
    with pytest.raises(InputError, match=r"unfinished conversion with other values \(tokenizer\)"):
        tokenize.Job(
            list_sources([str(source)])[0], tmp_path / "to", tokenizer(tmp_path / "other")
        ).run()
    job([source], tmp_path / "to").run()
    assert sorted(done[3:] + before[1:]) == sorted(set(done))  # the damaged one, and the rest
    job([source], tmp_path / "again").run()
    assert contents(tmp_path / "to") == contents(tmp_path / "again")
    with pytest.raises(InputError, match="already holds token files"):
        job([source], tmp_path / "to").run()


def test_a_damaged_piece_is_encoded_by_the_next_run(tmp_path, monkeypatch):
    source = write_jsonl(tmp_path / "d.jsonl")
    with monkeypatch.context() as patch:
        patch.setattr(tokenize, "assemble", lambda *_: (_ for _ in ()).throw(RunError("killed")))
        with pytest.raises(RunError, match="killed"):
            job([source], tmp_path / "to").run()
    piece = tmp_path / "to" / token_format.WORK / "train-000000-000000"
    data = bytearray(piece.read_bytes())
    data[-1] ^= 1
    piece.write_bytes(data)
    with pytest.raises(RunError, match="damaged: run the same command again"):
        job([source], tmp_path / "to").run()
    assert not list((tmp_path / "to").glob("*.bin"))
    job([source], tmp_path / "to").run()
    job([source], tmp_path / "again").run()
    assert contents(tmp_path / "to") == contents(tmp_path / "again")


def test_large_vocabularies_have_32_bits(tmp_path, monkeypatch):
    big = tokenizer("byte")
    monkeypatch.setattr(big, "n_vocab", 70_000)
    source = write_jsonl(tmp_path / "d.jsonl")
    files, _ = list_sources([str(source)])
    tokenize.Job(files, tmp_path / "to", big, val_fraction=0).run()
    data = (tmp_path / "to/tokens_train_000001.bin").read_bytes()
    assert np.frombuffer(data[:8], "<i4").tolist() == [20240801, 7]
    expected = [t for text in DOCUMENTS for t in [END, *ids(text)]]
    assert np.frombuffer(data[1024:], "<u4").tolist() == expected
    with pytest.raises(InputError, match=r"nanoGPT's format has 16 bits .* 70,000 tokens"):
        tokenize.Job(files, tmp_path / "n", big, layout="nanogpt").run()


def test_standard_input_and_what_is_said(tmp_path, monkeypatch, capsys):
    data = write_jsonl(tmp_path / "d.jsonl").read_bytes()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    flags = ["--tokenizer", "byte", "--workers", "1", "--val-fraction", "0"]
    assert main(["tokenize", "-", "--stdin", "jsonl", "--to", str(tmp_path / "a"), *flags]) == 0
    folder = write_folder(tmp_path / "folder")
    assert capsys.readouterr().err == "standard input\n"
    assert main(["tokenize", str(folder), "--to", str(tmp_path / "b"), *flags]) == 0
    out, err = capsys.readouterr()
    assert "1 file passed over" in err and "notes.md" in err and "40 files" in err
    assert "train: 40 documents" in out
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert main(["tokenize", "-", "--to", str(tmp_path / "c"), "--part", "1/2", *flags]) == 2
    assert "standard input has no parts" in capsys.readouterr().err


@pytest.mark.slow
def test_a_worker_that_is_killed(tmp_path, monkeypatch):
    def kill(_):
        for process in multiprocessing.active_children():
            process.kill()

    monkeypatch.setattr(documents, "BLOCK", 500)
    source = write_jsonl(tmp_path / "d.jsonl")
    with pytest.raises(RunError, match=r"ended with exit code -9: run the same command again"):
        job([source], tmp_path / "to", workers=2, on_bytes=kill).run()
    job([source], tmp_path / "to").run()
    job([source], tmp_path / "again").run()
    assert contents(tmp_path / "to") == contents(tmp_path / "again")


@pytest.mark.slow
def test_killed_and_continued(tmp_path, monkeypatch):
    source = tmp_path / "d.txt"
    source.write_text("<|endoftext|>".join(DOCUMENTS * 40))
    script = (
        "import sys; from pathlib import Path; from npgpt.data import documents, tokenize;"
        "from npgpt.data.sources import list_sources; from npgpt.data.tokenizer import tokenizer;"
        "documents.BLOCK = 5000; "
        f"files, _ = list_sources([{str(source)!r}]);"
        "tokenize.Job(files, Path(sys.argv[1]), tokenizer('byte')).run()"
    )
    with subprocess.Popen([sys.executable, "-c", script, tmp_path / "two"]) as process:
        work = tmp_path / "two" / token_format.WORK
        while len(list(work.glob("train-*"))) < 5:
            assert process.poll() is None
            time.sleep(0.001)
        os.kill(process.pid, signal.SIGKILL)
    monkeypatch.setattr(documents, "BLOCK", 5000)
    assert not (tmp_path / "two" / token_format.INDEX).exists()
    for name in ("one", "two"):
        job([source], tmp_path / name).run()
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
