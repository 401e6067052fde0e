"""Fetching a file: whole and right, or not at all. The server is in this process."""

import hashlib
import shutil
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from npgpt.data import download, text
from npgpt.data.download import fetch
from npgpt.errors import RunError

CONTENT = b"It was not so much that she was beautiful.\n" * 5000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """Each path is a way to answer."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.server.asked.append(self.path)
        self.close_connection = True
        if self.path in ("/404", "/500"):
            self.send_error(int(self.path[1:]))
            return
        if self.path == "/nonsense":
            self.wfile.write(b"not http at all\r\n\r\n")
            return
        if self.path == "/hangup":
            return
        self.send_response(200)
        body = CONTENT[::-1] if self.path == "/wrong" else CONTENT
        if self.path == "/chunked-cut":
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"ffff\r\n" + body[:1000])
            return
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if self.path == "/cut" else body)

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def server():
    server = HTTPServer(("127.0.0.1", 0), Handler)
    server.asked = []
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def get(server, tmp_path, monkeypatch):
    """Fetches one of the paths into cache/file.txt."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    server.asked.clear()

    def fetched(path, *, most=1 << 20):
        url = f"http://127.0.0.1:{server.server_port}{path}"
        return fetch(url, tmp_path / "cache" / "file.txt", sha256=SHA256, most=most)

    return fetched


def test_a_good_file_is_fetched_once(get, server, tmp_path):
    path = get("/good")
    assert path == tmp_path / "cache" / "file.txt"
    assert path.read_bytes() == CONTENT
    assert [p.name for p in path.parent.iterdir()] == ["file.txt"]
    assert get("/good") == path
    assert server.asked == ["/good"]


def test_as_large_as_allowed_is_not_too_large(get):
    assert get("/good", most=len(CONTENT)).read_bytes() == CONTENT


BAD = {
    "/wrong": f"arrived as {len(CONTENT)} bytes with sha256 .*expected {SHA256[:12]}",
    "/404": r"could not be fetched \(Not Found\)",
    "/500": r"could not be fetched \(Internal Server Error\)",
    "/cut": "could not be fetched|arrived as 107500 bytes",
    "/chunked-cut": "could not be fetched|arrived as",
    "/nonsense": "could not be fetched",
    "/hangup": "could not be fetched",
}


@pytest.mark.parametrize("path", BAD)
@pytest.mark.parametrize("before", [None, b"an older file"])
def test_a_bad_answer_leaves_everything_as_it_was(get, server, tmp_path, path, before):
    file = tmp_path / "cache" / "file.txt"
    if before is not None:
        file.parent.mkdir()
        file.write_bytes(before)
    with pytest.raises(RunError, match=BAD[path]) as caught:
        get(path)
    assert server.asked == [path]
    assert (
        f"fetch it yourself and pass it as --data PATH: http://127.0.0.1:{server.server_port}"
        in str(caught.value)
    )
    assert "\n" not in str(caught.value)
    left = {p.name: p.read_bytes() for p in file.parent.glob("*")}
    assert left == ({} if before is None else {"file.txt": before})


def test_no_more_is_read_than_is_allowed(get):
    with pytest.raises(RunError, match="arrived as 1001 bytes"):
        get("/good", most=1000)


def test_nobody_there(server, tmp_path):
    with pytest.raises(RunError, match="could not be fetched"):
        fetch("http://127.0.0.1:9/x", tmp_path / "x", sha256=SHA256, most=1)
    with pytest.raises(RunError, match="could not be fetched"):
        fetch("nonsense", tmp_path / "x", sha256=SHA256, most=1)


def test_a_changed_file_is_fetched_again(get, tmp_path):
    path = get("/good")
    path.write_bytes(CONTENT[:-1])
    assert get("/good").read_bytes() == CONTENT


def test_a_cache_that_cannot_be_written(get, tmp_path):
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(RunError, match=r"file\.txt could not be written: .*NPGPT_CACHE"):
        get("/good")


def test_the_verdict_out_of_the_cache(data, tmp_path, monkeypatch):
    shutil.copy(data / "the-verdict.txt", tmp_path)
    monkeypatch.setenv("NPGPT_CACHE", str(tmp_path))
    monkeypatch.setattr("urllib.request.urlopen", None)  # whoever calls it fails
    assert download.verdict() == tmp_path / "the-verdict.txt"
    assert len(text.read("verdict")) == 20_479


def test_the_cache_is_the_platforms_unless_it_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("NPGPT_CACHE", str(tmp_path))
    assert download.cache_folder() == tmp_path
    monkeypatch.delenv("NPGPT_CACHE")
    assert download.cache_folder().name == "npgpt"
