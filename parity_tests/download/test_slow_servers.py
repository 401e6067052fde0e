"""Servers that send a byte at a time. The clock is a fake one: no test waits."""

import io
import itertools
import threading

import pytest

from npgpt.data import gpt2_bpe, tokenizer
from npgpt.download import http, hub, pacing, resumable
from npgpt.download.http import RequestError, open_url
from npgpt.errors import DownloadError
from npgpt.system.time_limit import within
from parity_tests.support.file_server import CONTENT


def clock(step):
    """A clock by which each read takes `step` seconds: it is read before and after each."""
    return itertools.count(0, step).__next__


@pytest.fixture
def drip(monkeypatch):
    """A reader of 10,000 bytes that come one a second, in reads of `size` bytes."""

    def make(size=1):
        monkeypatch.setattr(pacing, "clock", clock(size))
        raw = io.BytesIO(bytes(10_000))
        raw.readinto = lambda buffer: io.BytesIO.readinto(raw, memoryview(buffer)[:size])
        return pacing.PacedReader(raw)

    return make


def test_headers_that_drip(drip):
    reader = drip()
    with pytest.raises(TimeoutError, match=r"^the headers took more than 60 seconds$"):
        reader.read()
    assert reader.raw.tell() == 61


def test_a_body_that_drips(drip):
    reader = drip()
    assert [len(reader.read(1)) for _ in range(60)] == [1] * 60
    reader.start_body()
    with pytest.raises(TimeoutError, match=r"^61 bytes in 61 seconds$"):
        reader.read()
    assert reader.raw.tell() == 121


def test_a_body_that_is_slow_but_comes(drip, monkeypatch):
    monkeypatch.setattr(pacing, "MIN_RATE", 1)
    reader = drip(size=7)
    reader.start_body()
    assert reader.read() == bytes(10_000)


def test_a_fast_start_buys_no_time(drip):
    reader = drip()
    reader.start_body()
    reader.received = 60_000
    with pytest.raises(TimeoutError, match=r"^61 bytes in 61 seconds$"):
        reader.read()
    assert reader.raw.tell() == 122


def test_a_download_from_a_slow_server_ends_and_is_resumed(server, monkeypatch, tmp_path):
    content = server.files["/a"] = CONTENT * 10  # more than two reads
    monkeypatch.setattr(pacing, "clock", clock(61))
    with pytest.raises(RequestError, match=r"the headers took more than 60 seconds") as raised:
        open_url(f"{server.url}/a", {})
    assert raised.value.retry
    with pytest.raises(DownloadError, match=r"a could not be downloaded .*60 seconds"):
        resumable.fetch([f"{server.url}/a"], tmp_path / "a")
    monkeypatch.setattr(pacing, "HEADER_TIME", 1000)
    monkeypatch.setattr(pacing, "clock", clock(31))  # the first read of a body is in time
    monkeypatch.setattr(pacing, "MIN_RATE", 1 << 20)
    monkeypatch.setattr(http, "MAX_ATTEMPTS", 1)
    with pytest.raises(DownloadError, match=r"bytes in 62 seconds\)\. [\d,]+ bytes were kept: run"):
        resumable.fetch([f"{server.url}/a"], tmp_path / "a")
    monkeypatch.undo()
    resumable.fetch([f"{server.url}/a"], tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == content
    assert server.asked[-1][1].startswith("bytes=")


def test_a_library_without_a_time_limit(monkeypatch):
    released = threading.Event()
    with pytest.raises(TimeoutError, match=r"no complete answer within 0\.01 seconds"):
        within(0.01, released.wait)
    assert within(5, lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        within(5, lambda: 1 // 0)
    monkeypatch.setattr(hub, "HEADER_TIME", 0.01)
    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", lambda *a, **k: released.wait())
    with pytest.raises(RequestError, match=r"no complete answer") as raised:
        hub.read_metadata("a/b", "c", None)
    assert raised.value.retry
    monkeypatch.setattr(gpt2_bpe, "MAX_TIME", 0.01)
    monkeypatch.setattr("tiktoken.load.read_file_cached", lambda url, sha256: released.wait())
    with pytest.raises(DownloadError, match=r"could not be downloaded \(TimeoutError\)"):
        tokenizer.named("gpt2")
    released.set()
