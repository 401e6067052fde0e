"""The Verdict: a small file with a known hash."""

import shutil

import pytest

from npgpt.data import text
from npgpt.download import cache_dir, verdict
from npgpt.download.verdict import download_small
from npgpt.errors import DownloadError
from parity_tests.support.file_server import CONTENT, SHA256


@pytest.fixture
def get(server, tmp_path):
    """A function that downloads one of the paths into cache/file.txt."""
    for path in ("/good", "/wrong", "/cut", "/chunked-cut", "/chunked", "/beyond"):
        server.files[path] = CONTENT
    server.plan = {"/404": [404], "/500": [500], "/wrong": ["wrong"], "/nonsense": ["nonsense"],
                   "/cut": [f"cut {len(CONTENT) // 2}"], "/chunked-cut": ["chunked cut"],
                   "/chunked": ["chunked"], "/hangup": ["hangup"],
                   "/beyond": ["beyond"]}  # fmt: skip

    def download(path, *, max_size=1 << 20):
        file = tmp_path / "cache" / "file.txt"
        return download_small(server.url + path, file, sha256=SHA256, max_size=max_size)

    return download


def test_a_good_file_is_downloaded_once(get, server, tmp_path):
    path = get("/good")
    assert path == tmp_path / "cache" / "file.txt"
    assert path.read_bytes() == CONTENT
    assert [p.name for p in path.parent.iterdir()] == ["file.txt"]
    assert get("/good") == path
    assert server.paths == ["/good"]


@pytest.mark.parametrize("path", ["/good", "/chunked", "/beyond"])
def test_a_file_of_the_maximal_size_is_accepted(get, path):
    assert get(path, max_size=len(CONTENT)).read_bytes() == CONTENT


BAD = {
    "/wrong": f"received {len(CONTENT)} bytes with sha256 .*expected {SHA256[:12]}",
    "/404": r"could not be downloaded \(Not Found\)",
    "/500": r"could not be downloaded \(Internal Server Error\)",
    "/cut": "could not be downloaded|received 107500 bytes",
    "/chunked-cut": "could not be downloaded|received",
    "/nonsense": "could not be downloaded",
    "/hangup": "could not be downloaded",
}


@pytest.mark.parametrize("path", BAD)
@pytest.mark.parametrize("before", [None, b"an older file"])
def test_a_bad_answer_changes_no_file(get, server, tmp_path, path, before):
    file = tmp_path / "cache" / "file.txt"
    if before is not None:
        file.parent.mkdir()
        file.write_bytes(before)
    with pytest.raises(DownloadError, match=BAD[path]) as caught:
        get(path)
    assert server.paths == [path]
    assert f"download it yourself and pass it as --data PATH: {server.url}" in str(caught.value)
    assert "\n" not in str(caught.value)
    left = {p.name: p.read_bytes() for p in file.parent.glob("*")}
    assert left == ({} if before is None else {"file.txt": before})


def test_reading_stops_at_the_maximal_size(get):
    with pytest.raises(DownloadError, match="received 1001 bytes"):
        get("/good", max_size=1000)


def test_no_server_answers(server, tmp_path):
    with pytest.raises(DownloadError, match="could not be downloaded"):
        download_small("http://127.0.0.1:9/x", tmp_path / "x", sha256=SHA256, max_size=1)
    with pytest.raises(DownloadError, match="could not be downloaded"):
        download_small("nonsense", tmp_path / "x", sha256=SHA256, max_size=1)


def test_a_changed_file_is_downloaded_again(get, tmp_path):
    path = get("/good")
    path.write_bytes(CONTENT[:-1])
    assert get("/good").read_bytes() == CONTENT


def test_a_cache_that_cannot_be_written(get, tmp_path):
    (tmp_path / "cache").write_text("a file in place of the directory")
    with pytest.raises(DownloadError, match=r"file\.txt could not be written: .*NPGPT_CACHE"):
        get("/good")


def test_the_verdict_from_the_cache(data, tmp_path, monkeypatch, no_network):
    shutil.copy(data / "the-verdict.txt", tmp_path)
    monkeypatch.setenv("NPGPT_CACHE", str(tmp_path))
    no_network()
    assert verdict.download_verdict() == tmp_path / "the-verdict.txt"
    assert len(text.read("verdict")) == 20_479


def test_the_cache_directory_is_the_platforms_or_NPGPT_CACHE(monkeypatch, tmp_path):
    monkeypatch.setenv("NPGPT_CACHE", str(tmp_path))
    assert cache_dir.cache_dir() == tmp_path
    monkeypatch.delenv("NPGPT_CACHE")
    assert cache_dir.cache_dir().name == "npgpt"
