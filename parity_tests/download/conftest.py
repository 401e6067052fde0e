"""A local server, and downloads from it."""

import socket
import threading

import pytest

from npgpt.download import gpt2, http, resumable
from npgpt.download.gpt2 import ReleasedModel
from parity_tests.support.downloads import CHECKPOINT
from parity_tests.support.file_server import CONTENT, PIECE, Server, listed


@pytest.fixture
def server(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setattr(http, "RETRY_DELAY", 0.001)
    monkeypatch.setattr(http, "CHUNK", PIECE)
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.released.set()
    server.shutdown()
    thread.join()
    server.server_close()  # after the last answer
    assert not server.drained


@pytest.fixture
def no_network(monkeypatch):
    """A function that makes every further connection a failure of the test."""

    def refuse(*args, **kwargs):
        pytest.fail("the network was used")

    def disconnect():
        monkeypatch.setattr(socket.socket, "connect", refuse)
        monkeypatch.setattr(socket, "getaddrinfo", refuse)

    return disconnect


# Large files, from one URL or the next


@pytest.fixture
def large(server, tmp_path):
    """A function that downloads /a, or else /b, into large.bin. `plan`: the answers for /a."""
    server.files |= {"/a": CONTENT, "/b": CONTENT}

    def download(*plan, urls=("/a", "/b"), **known):
        server.asked.clear()
        server.plan["/a"] = list(plan) or ["good"]
        path = tmp_path / "large.bin"
        resumable.fetch([server.url + url for url in urls], path, **known)
        assert listed(tmp_path) == ["large.bin"]
        return path.read_bytes()

    return download


@pytest.fixture
def openai(server, tmp_path, monkeypatch):
    """A function that downloads gpt2-small, which has two URLs on the local server."""
    monkeypatch.setenv("NPGPT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(gpt2, "OPENAI", (f"{server.url}/one", f"{server.url}/two"))
    sizes = tuple(map(len, CHECKPOINT.values()))
    for name, folder in (("gpt2-small", "124M"), ("gpt2-large", "774M")):
        model = ReleasedModel("", folder, sizes if name == "gpt2-small" else (None,) * 4)
        monkeypatch.setitem(gpt2.MODELS, name, model)
        for base in ("one", "two"):
            server.files |= {f"/{base}/{folder}/{f}": data for f, data in CHECKPOINT.items()}

    def download(name="gpt2-small", **options):
        server.asked.clear()
        return gpt2.download_model(name, source="openai", **options)

    return download
