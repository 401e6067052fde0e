"""Token files are read back as they were written, windows of them as those of one array."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from npgpt.cli.main import main
from npgpt.config import Config, RunConfig, TrainingConfig
from npgpt.data import mapped_data, tokenize
from npgpt.data.dataset import read_tokens
from npgpt.data.loader import windows
from npgpt.data.mapped_loader import MappedLoader
from npgpt.data.mapped_tokens import (
    MappedTokens,
    MappedWindows,
    Shard,
    count_windows,
    require_windows,
)
from npgpt.data.permutation import Permutation
from npgpt.data.sources import list_sources
from npgpt.data.token_files import is_token_directory, open_token_files
from npgpt.data.tokenizer import tokenizer
from npgpt.errors import InputError
from npgpt.training import run, run_state
from parity_tests.support.runs import without_clock
from parity_tests.support.token_documents import write_folder

IDS = np.random.default_rng(1).integers(0, 257, 1000)
CONFIG = Config(vocab_size=257, context_length=8, n_layer=1, n_head=2, n_embd=8, dropout=0.1)
TRAINING = TrainingConfig(batch_size=2, eval_every=3, eval_batches=2, epochs=2, prompt="a", seed=9)
SETTINGS = RunConfig(ops="numpy", config=CONFIG, training=TRAINING, tokenizer="byte", data="?")


def mapped(ids=IDS, size=170, vocab_size=257):
    """The ids in shards of a size."""
    parts = [ids[i : i + size].astype(np.uint16) for i in range(0, len(ids), size)]
    return MappedTokens([Shard(f"{i}.bin", part) for i, part in enumerate(parts)], vocab_size)


def write(to, texts=("one two", "three", "four"), **options):
    """Write token files of a few documents."""
    source = to.with_suffix(".jsonl")
    source.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    files, _ = list_sources([str(source)])
    index = tokenize.Job(files, to, tokenizer("byte"), shard_tokens=7, **options).run()
    return to, index


def write_llmc(path, ids, header=(20240520, 1), dtype="<u2"):
    full = np.zeros(256, "<i4")
    full[:3] = *header, len(ids)
    path.write_bytes(full.tobytes() + np.array(ids, dtype).tobytes())


@pytest.mark.parametrize("size", [1, 9, 170, 2000])
def test_shards_are_one_sequence(size):
    tokens = mapped(size=size)
    assert len(tokens) == 1000
    for start, count in ((0, 1000), (0, 0), (5, 1), (165, 12), (998, 2), (999, 1)):
        assert tokens.read(start, count).tolist() == IDS[start : start + count].tolist()
    part = tokens.part(100, 700)
    assert len(part) == 600
    assert part.read(3, 500).tolist() == IDS[103:603].tolist()
    assert len(tokens.part(5, 5)) == 0


def test_pages_that_were_read_are_released():
    """Otherwise a run would hold all data that it has read in memory."""

    class File:
        data, dropped = np.zeros(500, np.uint8), 0

        def drop_pages(self, start, stop):
            assert (start, stop) == (0, 500)
            self.dropped += 1

    files = File(), File()
    tokens = MappedTokens([Shard("a", IDS[:500], files[0]), Shard("b", IDS[500:], files[1])], 257)
    part = tokens.part(0, 500)
    for _ in range(320):
        part.read(3, 5)
    assert (files[0].dropped, files[1].dropped) == (10, 0)


@pytest.mark.parametrize("length, stride", [(8, 8), (16, 5), (999, 1), (7, 30)])
def test_windows_are_those_of_an_array(length, stride):
    inputs, targets = windows(IDS, length, stride, what="test")
    found = MappedWindows(mapped(), length, stride)
    assert len(found) == len(inputs)
    pairs = found.read(range(len(found)))
    assert pairs.dtype == np.int64
    assert np.array_equal(pairs[:, :-1], inputs)
    assert np.array_equal(pairs[:, 1:], targets)
    assert np.array_equal(found.read([len(found) - 1, 0]), pairs[[-1, 0]])
    assert found.read([]).shape == (0, length + 1)
    assert count_windows(length, length, stride) == 0
    with pytest.raises(InputError, match=r"the test split has 1000 tokens.* needs 1001"):
        require_windows(mapped(), 1000, "test")


@pytest.mark.parametrize("n", [1, 2, 3, 5, 16, 17, 64, 65, 1000])
def test_a_permutation(n):
    order = Permutation(n, 123, 4)
    assert len(order) == n
    assert sorted(order[:]) == list(range(n))
    assert order[:].dtype == np.int64
    assert order[2:7].tolist() == order[:].tolist()[2:7]
    if n > 16:
        assert order[:].tolist() != Permutation(n, 123, 5)[:].tolist()
        assert order[:].tolist() != Permutation(n, 124, 4)[:].tolist()


def test_permutations_are_even():
    """All orders of four items, and each item in each position of 100, are about as frequent."""
    orders = [tuple(Permutation(4, 1, key)[:].tolist()) for key in range(1200)]
    counts = np.unique(orders, axis=0, return_counts=True)[1]
    assert len(counts) == 24
    assert ((counts - 50) ** 2 / 50).sum() < 60  # chi square, 23 degrees of freedom: p < 4e-5
    table = np.zeros((100, 100))
    for key in range(500):
        table[np.arange(100), Permutation(100, key)[:]] += 1
    assert ((table - 5) ** 2 / 5).sum() < 99 * 99 + 6 * (2 * 99 * 99) ** 0.5


def test_an_order_of_any_number_of_windows_takes_no_memory():
    order = Permutation(10**12, 1)
    found = order[10**11 : 10**11 + 1000]
    assert len(set(found.tolist())) == 1000
    assert 0 <= found.min() and found.max() < 10**12
    assert found.std() > 2e11


def test_the_order_of_the_loader_is_a_function_of_seed_and_epoch():
    loader = MappedLoader(mapped(), 8, 8, batch_size=3, seed=5)
    n = len(loader.windows[0])
    assert (n, len(loader)) == (124, 41)
    for epoch in (0, 1):
        batches = list(loader.batches(loader.order(epoch), start=3))
        assert len(batches) == len(loader) - 3
        chosen = Permutation(n, 5, epoch)[9:12]
        assert np.array_equal(batches[0][0], [IDS[8 * i : 8 * i + 8] for i in chosen])
        assert np.array_equal(batches[0][1], [IDS[8 * i + 1 : 8 * i + 9] for i in chosen])


def finish(trainer, settings, tokens, stop=None, path=None):
    """Train to the end; or save at a step and resume from there."""
    for event in trainer.events():
        if stop is not None and getattr(event, "norm", 0) is None and event.step == stop:
            run_state.write(path, trainer, run_state.Record(settings, tokens.sha256))
            _, model, saved = run_state.read(path)
            return finish(run.resume(settings, tokens, model, saved), settings, tokens)
    history = [without_clock(line) for line in trainer.progress.history]
    return trainer.model.params.wte.weight.tobytes(), trainer.rng.state.tobytes(), history


@pytest.mark.slow
@pytest.mark.parametrize("shards", ["llmc", "nanogpt"])
def test_a_run_on_token_files_resumes_bit_for_bit(shards, tmp_path):
    text = "".join(map(chr, IDS[:300] % 90 + 32))
    to, _ = write(
        tmp_path / "to", [text[:150], text[150:], text[:60]], layout=shards, val_fraction=0.4
    )
    settings = replace(SETTINGS, data=str(to))
    tokens = read_tokens(settings)
    trainer = run.start(settings, tokens)
    expected = finish(trainer, settings, tokens)
    per_epoch = len(trainer.steps_data)
    for stop in (per_epoch // 2, per_epoch - 1, 2 * per_epoch - 2):
        started = run.start(settings, tokens)
        assert finish(started, settings, tokens, stop, tmp_path / "checkpoint.h5") == expected


def test_the_files_of_llmc_and_nanogpt(tmp_path):
    llmc, nano = tmp_path / "llmc", tmp_path / "nano"
    llmc.mkdir()
    nano.mkdir()
    write_llmc(llmc / "fineweb_val_000000.bin", IDS[:300])
    write_llmc(llmc / "fineweb_train_000001.bin", IDS[300:700])
    write_llmc(llmc / "fineweb_train_000002.bin", IDS[700:], (20240801, 7), "<u4")
    IDS[:300].astype("<u2").tofile(nano / "val.bin")
    IDS[300:].astype("<u2").tofile(nano / "train.bin")
    (nano / "meta.pkl").write_bytes(b"never read")
    said = []
    found = [
        read_tokens(replace(SETTINGS, data=str(path)), say=said.append) for path in (llmc, nano)
    ]
    assert said[0] == f"3 token files read in {llmc}"
    assert said[1] == f"2 token files read in {nano}"
    assert said[2].startswith("1 file passed over: ")
    for tokens in found:
        assert tokens.train.read(0, 700).tolist() == IDS[300:].tolist()
        assert tokens.val.read(0, 300).tolist() == IDS[:300].tolist()
    assert found[0].sha256 != found[1].sha256
    (llmc / "fineweb_val_000000.bin").unlink()  # then the end of the documents is
    tokens = read_tokens(replace(SETTINGS, data=str(llmc)))
    assert (len(tokens.train), len(tokens.val)) == (630, 70)
    assert tokens.val.read(0, 70).tolist() == IDS[930:].tolist()


def change(name, **values):
    """A change of the index, or of its first shard."""

    def edit(to, index):
        (index["shards"][0] if name == "shard" else index).update(values)
        (to / "index.json").write_text(json.dumps(index))

    return edit


def damage(text, edit):
    """A change of the bytes of a file whose name contains a text."""

    def apply(to, _):
        path = next(path for path in sorted(to.iterdir()) if text in path.name)
        path.write_bytes(edit(path.read_bytes()))

    return apply


HEADER = np.array([20240520, 2, 7], "<i4").tobytes()
BAD = {
    "cut": (damage("train", lambda b: b[:-1]), "bytes, but its header says 7 tokens"),
    "longer": (damage("train", lambda b: b + b"ab"), "bytes, but its header says 7 tokens"),
    "no header": (damage("train", lambda b: b[:100]), "is truncated: 100 bytes"),
    "magic": (damage("train", lambda b: b"abcd" + b[4:]), "begins with 1684234849 (version 1)"),
    "version": (damage("train", lambda b: HEADER + b[12:]), "begins with 20240520 (version 2)"),
    "negative": (
        damage("train", lambda b: b[:8] + np.array([-5], "<i4").tobytes() + b[12:]),
        "header says -5 tokens",
    ),
    "missing": (lambda to, _: next(to.glob("*train*")).unlink(), "which is missing"),
    "another count": (change("shard", tokens=6), "has 5 tokens, index.json says 6"),
    "a long name": (change("shard", file="x" * 5000), "which is missing"),
    "a name twice": (
        lambda to, index: change("index", shards=index["shards"][:1] * 2)(to, index),
        "tokens_val_000000.bin twice",
    ),
    "a path": (change("shard", file="../x.bin"), "a shard is"),
    "no shards": (change("index", shards=5), "has no list of shards"),
    "a number": (change("index", shards=[5]), "a shard is 5"),
    "another kind": (change("index", kind="x"), "is not an index of token files"),
    "a later version": (change("index", version=2), "has version 2"),
    "another tokenizer": (
        change("index", tokenizer="gpt2", vocab_size=50257, end_of_text=50256),
        "was made with the tokenizer gpt2, not with byte: give --tokenizer gpt2",
    ),
    "another tokenizer of the same size": (
        change("index", tokenizer="gpt2"),
        "was made with the tokenizer gpt2, not with byte: give --tokenizer gpt2",
    ),
    "a tokenizer of a path": (
        change("index", tokenizer="my model", vocab_size=300),
        "was made with the tokenizer my model, not with byte: give --tokenizer 'my model'",
    ),
    "no tokenizer": (change("index", tokenizer=None), "tokenizer is None"),
    "no JSON": (damage("index", lambda b: b[:50]), "index.json"),
    "not complete": (
        lambda to, _: ((to / "index.json").unlink(), (to / ".npgpt-tokenize").mkdir()),
        "is not complete: repeat its npgpt tokenize command",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_token_files_are_one_line(name, tmp_path):
    edit, message = BAD[name]
    to, index = write(tmp_path / "to", val_fraction=0.4)
    read_tokens(replace(SETTINGS, data=str(to)))
    edit(to, index)
    with pytest.raises(InputError) as error:
        read_tokens(replace(SETTINGS, data=str(to)))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_ids_and_hashes_are_compared(tmp_path, capsys):
    to, index = write(tmp_path / "to", val_fraction=0.4)
    name = next(entry["file"] for entry in index["shards"] if entry["split"] == "train")
    damage(name, lambda b: b[:-2] + b"\xff\x7f")(to, index)
    tokens = read_tokens(replace(SETTINGS, data=str(to)))
    with pytest.raises(InputError, match=f"{name} has token id 32767, outside the vocab"):
        tokens.train.read(0, 7)
    with pytest.raises(InputError, match=f"{name} is damaged: its sha256 is"):
        list(open_token_files(to).verify(257))
    assert main(["inspect", str(to), "--verify"]) == 2
    assert f"{name} is damaged" in capsys.readouterr().err
    (to / "index.json").unlink()  # without the hash, the id is found
    with pytest.raises(InputError, match="has token id 32767"):
        list(open_token_files(to).verify(257))


def test_inspect_shows_token_files(tmp_path, capsys):
    to, _ = write(tmp_path / "to", val_fraction=0.4)
    assert main(["inspect", str(to), "--verify"]) == 0
    out = capsys.readouterr().out
    assert "llmc; tokenizer byte; checksums: verified\n" in out
    assert "train: 14 tokens in 2 files" in out
    assert main(["inspect", str(to), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["tokens"] == {"train": 14, "val": 5} and report["tokenizer"] == "byte"


def test_a_token_file_is_named_by_its_directory(tmp_path):
    to, index = write(tmp_path / "to", val_fraction=0.4)
    file = to / index["shards"][0]["file"]
    with pytest.raises(InputError) as error:
        read_tokens(replace(SETTINGS, data=str(file)))
    assert str(error.value) == f"{file} is a token file: give its directory, {to}"


def test_a_large_text_is_encoded_once(tmp_path, monkeypatch):
    monkeypatch.setenv("NPGPT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(mapped_data, "LARGE", 500)
    path, said = tmp_path / "large.txt", []
    path.write_text("one two three\r\n" * 50 + "<|endoftext|>" + "four " * 90)
    settings = replace(SETTINGS, data=str(path))
    tokens = read_tokens(settings, say=said.append)
    assert len(said) == 1 and str(path) in said[0]
    expected = [256, *("one two three\n" * 50).encode(), 256, *("four " * 90).encode()]
    everything = [*tokens.train.read(0, len(tokens.train)), *tokens.val.read(0, len(tokens.val))]
    assert everything == expected
    assert len(tokens.train) == int(0.9 * len(expected))  # no document ends behind it
    moved = tmp_path / "moved.txt"
    shutil.move(path, moved)
    again = read_tokens(replace(settings, data=str(moved)), say=said.append)
    assert len(said) == 1
    assert again.sha256 == tokens.sha256
    half = replace(settings, data=str(moved), training=replace(TRAINING, train_fraction=0.3))
    assert len(read_tokens(half).train) == 701  # where the first document ends
    moved.write_text("another text " * 50)
    assert read_tokens(replace(settings, data=str(moved)), say=said.append).sha256 != tokens.sha256
    assert len(said) == 2


def test_lines_of_json_are_read_as_documents_not_as_text(tmp_path, monkeypatch):
    monkeypatch.setenv("NPGPT_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "one"}\n{"text": "two"}\n')
    tokens = read_tokens(replace(SETTINGS, data=str(path)))
    assert tokens.train.read(0, len(tokens.train)).tolist() == [256, *b"one", 256, *b"tw"]


def test_validation_data_of_their_own(tmp_path):
    to, _ = write(tmp_path / "to", val_fraction=0.4)
    whole, _ = write(tmp_path / "whole", val_fraction=0)
    path = tmp_path / "val.txt"
    path.write_text("a validation text")
    settings = replace(SETTINGS, data=str(whole), val_data=str(path))
    tokens = read_tokens(settings)
    assert len(tokens.train) == 19
    assert tokens.val.tolist() == list(b"a validation text")
    other = read_tokens(replace(settings, val_data=str(to)))
    assert (len(other.train), len(other.val)) == (19, 5)
    assert len(read_tokens(replace(settings, val_data=str(whole))).val) == 19
    assert other.sha256 != tokens.sha256
    swapped = read_tokens(replace(settings, data=str(path), val_data=str(whole)))
    assert swapped.train.tolist() == tokens.val.tolist()


def test_files_that_are_read_and_passed_over_are_said(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a long path would be cut
    said, folder = [], write_folder(Path("folder"))
    text = "".join(path.read_text() for path in sorted(folder.glob("*.txt")))
    tokens = read_tokens(replace(SETTINGS, data=str(folder)), say=said.append)
    assert isinstance(tokens.train, np.ndarray)  # as before: a short text
    assert len(tokens.train) + len(tokens.val) == len(text.encode()) + 39
    assert said == [
        f"40 of 41 files in {folder} are read",
        f"1 file passed over: {folder / 'notes.md'}",
    ]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("data_train_000001.bin data_val_000000.bin", True),
        ("train.bin notes.txt", False),
        ("train.bin notes.txt index.json", True),
        (".npgpt-tokenize", True),
        ("pytorch_model.bin", False),
        ("config.json model.safetensors training_args.bin", False),
    ],
)
def test_a_directory_of_a_model_or_of_texts_has_no_token_files(tmp_path, names, expected):
    for name in names.split():
        (tmp_path / name).touch()
    assert is_token_directory(tmp_path) == expected
