"""Correct and wrong answers of a server, and no answer."""

import hashlib
import time
import urllib.request
from urllib.error import URLError

import pytest

from npgpt.download import http, resumable
from npgpt.download.http import Digest
from npgpt.errors import DownloadError
from parity_tests.support.downloads import KNOWN, interrupted
from parity_tests.support.file_server import CONTENT, SHA256, listed, ranges

# If one URL fails, the next is used: the answer of the first, and the number of its requests.
ELSEWHERE = {
    404: 1,
    403: 1,
    500: http.MAX_ATTEMPTS,
    503: http.MAX_ATTEMPTS,
    "hangup": http.MAX_ATTEMPTS,
    "nonsense": http.MAX_ATTEMPTS,
    "packed": 1,
    "unasked": 1,
    "to ftp://127.0.0.1/a": 1,
    "to file:///etc/hostname": 1,
    "to nowhere://": 1,
    "to http://[": 1,
    "to http://127.0.0.1:9/": 1,
    "to /a": None,  # forever
    "bad md5": 1,
    "bad sha1": 1,
}


@pytest.mark.parametrize("known", KNOWN)
@pytest.mark.parametrize("how", ELSEWHERE)
def test_the_second_url(large, server, how, known):
    assert large(how, **KNOWN[known]) == CONTENT
    tries = server.paths.count("/a")
    assert server.paths == ["/a"] * tries + ["/b"]
    assert tries == ELSEWHERE[how] or (ELSEWHERE[how] is None and 1 < tries < 20)


WRONG = {
    ("wrong", "sha256"): "received 215000 bytes with sha256 .*, expected " + SHA256[:12],
    ("more", "size"): "received 215001 bytes or more, expected 215000",
    ("endless", "size"): "received 215001 bytes or more, expected 215000",
    ("endless", "nothing"): "did not announce the file's size",
    ("unannounced", "nothing"): "did not announce the file's size",
    ("good", "another size"): "announced 215,000 bytes, expected 215,001",
    ("bad md5", "size"): "received 215000 bytes with md5 .*, expected",
    ("bad sha1", "size"): "received 215000 bytes with sha1 .*, expected",
    ("packed", "size"): r"sent the file compressed \(gzip\)",
    (404, "size"): "Not Found",
}


@pytest.mark.parametrize(("how", "known"), WRONG)
def test_a_wrong_file_is_reported_and_not_kept(large, server, tmp_path, how, known):
    told = []
    sizes = {**KNOWN, "another size": {"size": len(CONTENT) + 1}}
    with pytest.raises(DownloadError, match=WRONG[how, known]) as caught:
        large(how, urls=["/a"], progress=lambda *at: told.append(at), **sizes[known])
    said = str(caught.value)
    assert said.startswith(f"large.bin could not be downloaded (127.0.0.1:{server.server_port}: ")
    assert "\n" not in said
    assert "run this again" not in said
    assert len(server.asked) == 1
    assert listed(tmp_path) == []
    assert all(done <= len(CONTENT) for done, _ in told)


@pytest.mark.parametrize(
    "how", ["md5", "sha1", "unverified sha1", "beyond", "to /c", "to /c with a flood"]
)
def test_correct_answers(large, server, how):
    server.files["/c"] = CONTENT
    assert large(how) == CONTENT
    assert server.paths == ["/a"] + ["/c"] * how.startswith("to")


def test_a_known_size_need_not_be_announced(large, server):
    assert large("unannounced", size=len(CONTENT)) == CONTENT
    assert server.paths == ["/a"]


def test_the_first_answers_hash_is_verified_at_the_end(large, server, tmp_path):
    """The Content-MD5 of a partial answer is that of a range, not of the complete file."""
    rest = interrupted(large, "md5")
    assert large("md5") == CONTENT
    assert ranges(server) == [("/a", rest)]
    (tmp_path / "large.bin").unlink()
    rest = interrupted(large, "bad md5")
    assert large("good") == CONTENT
    assert ranges(server) == [("/a", rest), ("/a", None)]


def test_a_redirect_keeps_the_range(large, server):
    server.files["/c"] = CONTENT
    server.plan["/c"] = ["cut 1000", "good"]
    assert large(f"to {server.url}/c") == CONTENT
    assert ranges(server) == [("/a", None), ("/c", None)] + [(p, "bytes=1000-") for p in
                                                             ("/a", "/c")]  # fmt: skip


def test_no_redirect_leaves_tls():
    class Closed:
        def close(self):
            pass

    ask = urllib.request.Request("https://example.org/a", headers={"Range": "bytes=1-"})
    follow = http.Redirect().redirect_request
    with pytest.raises(URLError, match="from https to http://example"):
        follow(ask, Closed(), 302, "", {}, "http://example.org/a")
    next_one = follow(ask, Closed(), 302, "", {}, "https://example.com/a")
    assert next_one.headers == {"Range": "bytes=1-"}


@pytest.mark.slow
def test_a_silent_server_times_out(large, server, tmp_path, monkeypatch):
    monkeypatch.setattr(http, "TIMEOUT", 0.1)
    assert large("silence", "stall", "good") == CONTENT
    assert ranges(server) == [("/a", None), ("/a", None), ("/a", "bytes=100000-")]
    server.plan["/b"] = ["silence"]
    (tmp_path / "large.bin").unlink()
    started = time.perf_counter()
    with pytest.raises(DownloadError, match=r"timed out.*timed out"):
        large("silence")
    assert time.perf_counter() - started < 5


def test_a_proxy_is_used(server, tmp_path, monkeypatch):
    monkeypatch.setenv("http_proxy", server.url)
    server.files["/a"] = CONTENT
    resumable.fetch(["http://no-such-host.invalid/a"], tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == CONTENT
    assert server.paths == ["http://no-such-host.invalid/a"]


GIT = hashlib.sha1(b"blob %d\0" % len(CONTENT) + CONTENT).hexdigest()


@pytest.mark.parametrize(
    "digest",
    [Digest("git", GIT), Digest("sha256", SHA256), Digest("md5", hashlib.md5(CONTENT).hexdigest())],
)
def test_digests(large, tmp_path, digest):
    assert large(digest=digest) == CONTENT
    assert not resumable.matches(tmp_path / "large.bin", None, Digest(digest.algorithm, "0"))
