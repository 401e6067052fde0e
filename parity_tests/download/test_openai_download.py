"""Downloads of GPT-2 from OpenAI's server."""

import json
import os
import re

import pytest

from npgpt.download import gpt2, resumable
from npgpt.download.gpt2 import ReleasedModel
from npgpt.errors import DownloadError, InputError, RunError, WeightFileError
from parity_tests.support.downloads import CHECKPOINT, SMALL
from parity_tests.support.file_server import contents, listed


def test_the_checkpoint_of_openai(openai, server, tmp_path, no_network):
    told = []
    folder = openai(progress=lambda *at: told.append(at))
    assert folder == tmp_path / "cache" / "openai" / "gpt2-small"
    assert contents(folder) == CHECKPOINT
    assert server.paths == [f"/one/124M/{file}" for file in CHECKPOINT]
    assert [at for at in told if at[1] == at[2]] == [(f, len(d), len(d)) for f, d in
                                                     CHECKPOINT.items()]  # fmt: skip
    no_network()
    assert openai() == folder


def test_another_directory(openai, tmp_path, no_network):
    for to in (tmp_path / "new" / "one", str(tmp_path / "str"), tmp_path / "used"):
        if "used" in str(to):
            to.mkdir()
            (to / "notes.txt").write_text("mine")
        assert openai(to=to) == resumable.Path(to)
        assert {**CHECKPOINT, "notes.txt": b"mine"}.items() >= contents(resumable.Path(to)).items()
    no_network()
    assert openai(to=to) == to
    assert not (tmp_path / "cache").exists()


def test_openais_second_url(openai, server):
    server.plan = {f"/one/124M/{file}": [404] for file in CHECKPOINT}
    assert contents(openai()) == CHECKPOINT
    assert [path for path in server.paths if "two" in path] == [
        f"/two/124M/{file}" for file in CHECKPOINT
    ]


def test_openai_without_a_network(openai, server, monkeypatch):
    monkeypatch.setattr(gpt2, "OPENAI", ("http://127.0.0.1:9", "http://127.0.0.1:9"))
    with pytest.raises(DownloadError) as caught:
        openai()
    assert re.fullmatch(
        r"model\.ckpt\.data-00000-of-00001 could not be downloaded \(127\.0\.0\.1:9: .*refused; "
        r"127\.0\.0\.1:9: .*refused\); you can also try --source huggingface",
        str(caught.value),
    )


def test_downloaded_files_are_kept_if_another_one_fails(openai, server, tmp_path):
    at = "/one/124M/model.ckpt.data-00000-of-00001"
    server.plan = {at: ["cut 100000", 404], at.replace("one", "two"): [404],
                   "/one/124M/checkpoint": [404], "/two/124M/checkpoint": [404]}  # fmt: skip
    with pytest.raises(DownloadError, match="100,000 bytes were kept: run this again"):
        openai(to=tmp_path / "to")
    server.plan[at] = ["good"]
    with pytest.raises(DownloadError, match="checkpoint could not be downloaded"):
        openai(to=tmp_path / "to")
    assert server.asked[0][1] == "bytes=100000-"
    assert [path for path in listed(tmp_path / "to") if not path.startswith(".")] == []
    server.plan = {}
    assert contents(openai(to=tmp_path / "to")) == CHECKPOINT
    assert server.paths == ["/one/124M/checkpoint", "/one/124M/hparams.json"]


def test_nothing_is_left_if_every_file_fails(openai, server, tmp_path):
    server.files.clear()
    with pytest.raises(DownloadError, match="Not Found"):
        openai(to=tmp_path / "to")
    assert listed(tmp_path / "to") == []


def test_files_are_checked_before_they_are_moved(openai, server, tmp_path):
    to, seen = tmp_path / "to", []

    def check(folder):
        seen.append(contents(folder))
        assert not {path.name for path in to.iterdir()} & {*CHECKPOINT}

    assert openai(to=to, check=check) == to
    assert openai(to=to, check=check) == to
    assert seen == [CHECKPOINT]


@pytest.mark.parametrize("state", ["part", "whole"])
def test_a_link_in_place_of_a_hidden_directory_is_not_followed(openai, tmp_path, state):
    to, other = tmp_path / "to", tmp_path / "other"
    for path in (to, other):
        path.mkdir()
    (to / f".gpt2-small-openai.{state}").symlink_to(other)
    with pytest.raises(DownloadError, match=rf"\.{state} is a symbolic link; resolve this"):
        openai(to=to)
    assert listed(other) == []


def test_files_that_cannot_be_checked_are_kept(openai, tmp_path):
    """That the disk fails says nothing about them."""

    def check(folder):
        raise RunError("wte cannot be read: Input/output error")

    with pytest.raises(RunError, match="cannot be read"):
        openai(to=tmp_path / "to", check=check)
    assert contents(tmp_path / "to/.gpt2-small-openai.part") == CHECKPOINT
    assert contents(openai(to=tmp_path / "to")) == CHECKPOINT


def test_damaged_files_are_deleted(openai, server, tmp_path):
    def check(folder):
        raise WeightFileError("wte: its crc32c is 1, not 2")

    with pytest.raises(DownloadError, match=r"is damaged and was deleted \(wte: its"):
        openai(to=tmp_path / "to", check=check)
    assert listed(tmp_path / "to") == []
    assert contents(openai(to=tmp_path / "to")) == CHECKPOINT
    assert len(server.asked) == 4


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"{}", b"[" * 100_000, b"\xff",
                                  json.dumps({**SMALL, "n_head": 16}).encode()])  # fmt: skip
def test_another_model_is_refused(openai, server, tmp_path, monkeypatch, text):
    server.files["/one/124M/hparams.json"] = text
    monkeypatch.setitem(gpt2.MODELS, "gpt2-small", ReleasedModel("", "124M", (None,) * 4))
    with pytest.raises(DownloadError, match=r"is damaged .*hparams\.json (has|must be)"):
        openai(to=tmp_path / "to")
    assert listed(tmp_path / "to") == []


def test_known_sizes_are_verified(openai, server, tmp_path):
    """A gateway may answer with a page of its own."""
    at = "/one/124M/model.ckpt.data-00000-of-00001"
    server.files[at] = b"<html>Log in, please</html>"
    assert contents(openai()) == CHECKPOINT
    assert server.paths[:2] == [at, at.replace("one", "two")]


@pytest.mark.parametrize("move", range(4))
def test_a_kill_while_files_are_moved(openai, tmp_path, monkeypatch, no_network, move):
    to, moved = tmp_path / "to", []
    replace = os.replace

    def dying(old, new):
        if resumable.Path(new).parent == to:
            if len(moved) == move:
                raise KeyboardInterrupt
            moved.append(resumable.Path(new).name)
        replace(old, new)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "replace", dying)
        openai(to=to)
    assert moved == list(CHECKPOINT)[:move]
    no_network()
    assert openai(to=to) == to
    assert contents(to) == CHECKPOINT


def test_no_file_is_overwritten(openai, server, tmp_path):
    """A directory with other files of these names, such as a fine-tuned model, is unchanged."""
    mine = {"model.ckpt.index": b"my own"}
    cases = (mine, {**CHECKPOINT, **mine}, {**CHECKPOINT, "hparams.json": b"x" * 75},
             {file: CHECKPOINT[file] for file in list(CHECKPOINT)[:3]})  # fmt: skip
    for i, mine in enumerate(cases):
        to = tmp_path / str(i)
        to.mkdir()
        for file, data in mine.items():
            (to / file).write_bytes(data)
        with pytest.raises(InputError, match="move it away, or choose another directory with --to"):
            openai(to=to)
        assert contents(to) == mine
    assert server.asked == []


def test_two_models_do_not_share_a_directory(openai, server, tmp_path):
    at = "/one/774M/hparams.json"
    server.files[at] = json.dumps({**SMALL, "n_layer": 36, "n_head": 20, "n_embd": 1280}).encode()
    assert openai("gpt2-large", to=tmp_path / "to") == tmp_path / "to"
    with pytest.raises(
        InputError, match=r"hparams\.json already exists with \d+ bytes, but that of"
    ):
        openai(to=tmp_path / "to")
    with pytest.raises(InputError, match=r"= \[12, 12, 768\], but gpt2-large has \[36, 20, 1280"):
        openai("gpt2-large", to=openai())


def test_two_models_do_not_share_their_parts(openai, server, tmp_path):
    to = tmp_path / "to"
    server.files["/one/774M/model.ckpt.index"] = CHECKPOINT["model.ckpt.index"][::-1]
    server.plan = {f"/{base}/774M/checkpoint": [404] for base in ("one", "two")}
    with pytest.raises(DownloadError, match="checkpoint could not be downloaded"):
        openai("gpt2-large", to=to)
    assert openai(to=to) == to
    assert {file: (to / file).read_bytes() for file in CHECKPOINT} == CHECKPOINT


def test_another_process_completed_the_download(openai, server, tmp_path, monkeypatch):
    locked = gpt2.file_lock

    def late(path, busy):
        monkeypatch.setattr(gpt2, "file_lock", locked)
        openai(to=tmp_path / "to")
        server.asked.clear()
        return locked(path, busy)

    monkeypatch.setattr(gpt2, "file_lock", late)
    assert contents(openai(to=tmp_path / "to")) == CHECKPOINT
    assert server.asked == []


def test_names_and_sources():
    with pytest.raises(InputError, match="unknown model 'gpt3'; expected one of gpt2-small, "):
        gpt2.download_model("gpt3")
    with pytest.raises(
        InputError, match="unknown source 'ftp'; expected one of huggingface, openai"
    ):
        gpt2.download_model("gpt2-xl", source="ftp")


def test_known_sizes_fit_the_parameters():
    assert {*gpt2.MODELS} == {name for name in gpt2.PRESETS if name.startswith("gpt2-")}
    for name, parameters in (("gpt2-small", 124_439_808), ("gpt2-medium", 354_823_168)):
        assert gpt2.MODELS[name].sizes[0] == 4 * parameters
