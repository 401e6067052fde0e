"""Fetching a file: whole and right, or not at all. The servers are in this process."""

import base64
import hashlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from urllib.error import URLError
from urllib.parse import urlsplit

import numpy as np
import pytest

from npgpt.data import text
from npgpt.download import cache_dir, gpt2, http, resumable, verdict
from npgpt.download.gpt2 import ReleasedModel
from npgpt.download.http import Digest
from npgpt.download.verdict import download_small
from npgpt.errors import DownloadError, InputError, RunError
from npgpt.system import files

CONTENT = b"It was not so much that she was beautiful.\n" * 5000
SHA256 = hashlib.sha256(CONTENT).hexdigest()
PIECE = 1 << 14  # instead of a megabyte
DATE = "Wed, 21 Oct 2015 07:28:00 GMT"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Handler(BaseHTTPRequestHandler):
    """Gives server.files[path]. How, the next of server.plan[path] says, or else the path."""

    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        server = self.server
        self.close_connection = True
        path = urlsplit(self.path).path  # of a proxy's request, too
        server.asked.append((self.path, self.headers["Range"], self.headers["If-Range"]))
        plan = server.plan.get((self.command, path)) or server.plan.get(path) or ["good"]
        how = plan.pop(0) if len(plan) > 1 else plan[0]
        if isinstance(how, int):
            self.send_error(how)
            return
        if how == "nonsense":
            self.wfile.write(b"not http at all\r\n\r\n")
            return
        if how == "hangup":
            return
        if how == "silence":
            server.released.wait(1)
            return
        stall, how = how == "stall", "cut 100000" if how == "stall" else how
        if how.startswith("to "):
            self.send_response(302)
            self.send_header("Location", how.removeprefix("to ").removesuffix(" with a flood"))
            self.send_header("X-Repo-Commit", COMMIT)
            self.end_headers()
            if how.endswith(" with a flood"):
                self.flood(bytes(PIECE))
            return
        body = server.files.get(path)
        if body is None:
            self.send_error(404)
        elif how in ("chunked", "chunked cut", "endless"):
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"%x\r\n%b\r\n" % (1000, body[:1000]))
            if how == "endless":
                self.flood(b"%x\r\n%b\r\n" % (PIECE, bytes(PIECE)))
            elif how == "chunked":
                self.wfile.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(body) - 1000, body[1000:]))
        else:
            self.give(how, body[::-1] if how == "wrong" else body, stall)

    def flood(self, piece):
        """Far too much, for whoever takes it."""
        with suppress(OSError):
            for _ in range(4000):
                self.wfile.write(piece)
            self.server.drained = True

    def give(self, how, body, stall):
        """The body, or the part asked for, with its headers; hanging up late, if at all."""
        whole, first, etag = len(body), 0, f'"{hashlib.md5(body).hexdigest()}"'
        name = DATE if how == "dated" else etag
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers["Range"] or "")
        unless = self.headers["If-Range"]
        deaf = how == "no ranges" or (unless not in (None, name) and how != "no if-range")
        if asked and not deaf:
            first = int(asked[1])
            if first >= whole:
                self.send_error(416)
                return
            self.send_response(206)
            said = first + 1 if how == "shifted" else first
            if how != "no range header":
                total = whole + 1 if how == "another total" else whole
                self.send_header("Content-Range", f"bytes {said}-{whole - 1}/{total}")
        else:
            self.send_response(206 if how == "unasked" else 200)
        body = body[first:]
        if how == "dated":
            self.send_header("Last-Modified", DATE)
        elif how != "nameless":
            self.send_header("ETag", {"weak": f"W/{etag}", "another name": '"x"'}.get(how, etag))
        if how in ("md5", "bad md5"):
            sent = body if how == "md5" else body[::-1]
            self.send_header("Content-MD5", base64.b64encode(hashlib.md5(sent).digest()).decode())
        if how in ("sha1", "bad sha1", "unverified sha1"):
            sha1 = hashlib.sha1(body if how == "sha1" else body[::-1]).hexdigest()
            prefix = "unverified:" if how == "unverified sha1" else ""
            self.send_header("x-bz-content-sha1", prefix + sha1)
        if how == "packed":
            self.send_header("Content-Encoding", "gzip")
        if how.startswith("hub "):
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("X-Linked-ETag", f'"{how.removeprefix("hub ")}"')
            self.send_header("X-Linked-Size", str(whole))
        if how in ("unannounced", "more"):
            self.end_headers()
            self.wfile.write(body + b"!" * (how == "more"))
            return
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        cut = re.fullmatch(r"cut (\d+)", how)
        with suppress(OSError):
            self.wfile.write(body[: int(cut[1])] if cut else body + b"more" * (how == "beyond"))
            if how == "beyond" or stall:
                self.server.released.wait(20)  # without hanging up

    def end_headers(self):
        self.send_header("Connection", "close")
        super().end_headers()

    def log_message(self, *args):
        pass


class Server(ThreadingHTTPServer):
    """What it has, how it will answer, what it was asked."""

    daemon_threads = False
    request_queue_size = 20

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.plan, self.asked = {}, {}, []
        self.released, self.drained = threading.Event(), False
        self.url = f"http://127.0.0.1:{self.server_port}"

    @property
    def paths(self):
        return [path for path, _, _ in self.asked]

    def handle_error(self, request, address):
        assert isinstance(sys.exception(), OSError)  # whoever asked has hung up


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
    server.server_close()  # once every answer is given
    assert not server.drained


@pytest.fixture
def no_network(monkeypatch):
    """Calling it takes the network away."""

    def nobody(*args, **kwargs):
        pytest.fail("the network was asked")

    def gone():
        monkeypatch.setattr(socket.socket, "connect", nobody)
        monkeypatch.setattr(socket, "getaddrinfo", nobody)

    return gone


def listed(folder):
    """Every path below a folder."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


# The Verdict: a small file, whose hash is known


@pytest.fixture
def get(server, tmp_path):
    """Fetches one of the paths into cache/file.txt."""
    for path in ("/good", "/wrong", "/cut", "/chunked-cut", "/chunked", "/beyond"):
        server.files[path] = CONTENT
    server.plan = {"/404": [404], "/500": [500], "/wrong": ["wrong"], "/nonsense": ["nonsense"],
                   "/cut": [f"cut {len(CONTENT) // 2}"], "/chunked-cut": ["chunked cut"],
                   "/chunked": ["chunked"], "/hangup": ["hangup"],
                   "/beyond": ["beyond"]}  # fmt: skip

    def fetched(path, *, most=1 << 20):
        file = tmp_path / "cache" / "file.txt"
        return download_small(server.url + path, file, sha256=SHA256, max_size=most)

    return fetched


def test_a_good_file_is_fetched_once(get, server, tmp_path):
    path = get("/good")
    assert path == tmp_path / "cache" / "file.txt"
    assert path.read_bytes() == CONTENT
    assert [p.name for p in path.parent.iterdir()] == ["file.txt"]
    assert get("/good") == path
    assert server.paths == ["/good"]


@pytest.mark.parametrize("path", ["/good", "/chunked", "/beyond"])
def test_as_large_as_allowed_is_not_too_large(get, path):
    assert get(path, most=len(CONTENT)).read_bytes() == CONTENT


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
def test_a_bad_answer_leaves_everything_as_it_was(get, server, tmp_path, path, before):
    file = tmp_path / "cache" / "file.txt"
    if before is not None:
        file.parent.mkdir()
        file.write_bytes(before)
    with pytest.raises(RunError, match=BAD[path]) as caught:
        get(path)
    assert server.paths == [path]
    assert f"download it yourself and pass it as --data PATH: {server.url}" in str(caught.value)
    assert "\n" not in str(caught.value)
    left = {p.name: p.read_bytes() for p in file.parent.glob("*")}
    assert left == ({} if before is None else {"file.txt": before})


def test_no_more_is_read_than_is_allowed(get):
    with pytest.raises(RunError, match="received 1001 bytes"):
        get("/good", most=1000)


def test_nobody_there(server, tmp_path):
    with pytest.raises(RunError, match="could not be downloaded"):
        download_small("http://127.0.0.1:9/x", tmp_path / "x", sha256=SHA256, max_size=1)
    with pytest.raises(RunError, match="could not be downloaded"):
        download_small("nonsense", tmp_path / "x", sha256=SHA256, max_size=1)


def test_a_changed_file_is_fetched_again(get, tmp_path):
    path = get("/good")
    path.write_bytes(CONTENT[:-1])
    assert get("/good").read_bytes() == CONTENT


def test_a_cache_that_cannot_be_written(get, tmp_path):
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(RunError, match=r"file\.txt could not be written: .*NPGPT_CACHE"):
        get("/good")


def test_the_verdict_out_of_the_cache(data, tmp_path, monkeypatch, no_network):
    shutil.copy(data / "the-verdict.txt", tmp_path)
    monkeypatch.setenv("NPGPT_CACHE", str(tmp_path))
    no_network()
    assert verdict.download_verdict() == tmp_path / "the-verdict.txt"
    assert len(text.read("verdict")) == 20_479


def test_the_cache_is_the_platforms_unless_it_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("NPGPT_CACHE", str(tmp_path))
    assert cache_dir.cache_dir() == tmp_path
    monkeypatch.delenv("NPGPT_CACHE")
    assert cache_dir.cache_dir().name == "npgpt"


# Large files, from one address or the next


@pytest.fixture
def large(server, tmp_path):
    """Fetches /a, or failing that /b, into large.bin; `plan`: how /a is given, answer by answer."""
    server.files |= {"/a": CONTENT, "/b": CONTENT}

    def fetched(*plan, urls=("/a", "/b"), **known):
        server.asked.clear()
        server.plan["/a"] = list(plan) or ["good"]
        path = tmp_path / "large.bin"
        resumable.fetch([server.url + url for url in urls], path, **known)
        assert listed(tmp_path) == ["large.bin"]
        return path.read_bytes()

    return fetched


def ranges(server):
    return [(path, asked) for path, asked, _ in server.asked]


KNOWN = {"sha256": {"digest": Digest("sha256", SHA256)}, "size": {"size": len(CONTENT)},
         "nothing": {}}  # fmt: skip


@pytest.mark.parametrize("known", KNOWN)
@pytest.mark.parametrize("cuts", [[1], [PIECE], [100_000, 50_000, 50_000], [0, 0, 0, 0]])
def test_a_cut_is_gone_on_from(large, server, cuts, known):
    assert large(*(f"cut {cut}" for cut in cuts), "good", **KNOWN[known]) == CONTENT
    starts = np.cumsum(cuts)
    assert ranges(server) == [("/a", f"bytes={n}-" if n else None) for n in (0, *starts)]
    if known != "sha256":  # then the server has to vouch for the pieces
        assert all(unless for _, asked, unless in server.asked if asked)


def test_a_server_that_hangs_up_midway_through_chunks(large, server):
    assert large("chunked cut", "chunked", **KNOWN["sha256"], **KNOWN["size"]) == CONTENT
    assert ranges(server) == [("/a", None), ("/a", "bytes=1000-")]


def test_the_date_will_do_where_there_is_no_etag(large, server):
    rest = interrupted(large, "dated")
    assert large("dated") == CONTENT
    assert server.asked == [("/a", rest, DATE)]


def interrupted(large, *plan, error=KeyboardInterrupt, **known):
    """Ctrl-C once 100,000 bytes are there; the Range that has to be asked for next."""
    there = []

    def tell(done, total):
        there.append(done)
        if done >= 100_000:
            raise error

    with pytest.raises(error):
        large(*plan, progress=tell, **known)
    return f"bytes={there[-1]}-"


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_ctrl_c_leaves_what_is_there(large, server, error):
    rest = interrupted(large, error=error)
    assert large() == CONTENT
    assert ranges(server) == [("/a", rest)]


def test_what_was_whole_already_is_not_asked_for_again(large, server, monkeypatch, no_network):
    """Killed after the last byte, before the renaming."""

    def killed(path):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(resumable, "sync", killed)
        large()
    no_network()
    assert large() == CONTENT


AFTER_A_CUT = {
    "no ranges": [],  # sends everything, which is taken from its beginning
    "no if-range": [],
    "shifted": [None],  # a part, but another one
    "no range header": [None],
    "another total": [None],
    "unasked": [],
    "to http://127.0.0.1:9/": ["bytes=100000-"],
    416: [None],
    500: ["bytes=100000-"],
    "hangup": ["bytes=100000-"],
    "nonsense": ["bytes=100000-"],
}


@pytest.mark.parametrize("known", KNOWN)
@pytest.mark.parametrize("how", AFTER_A_CUT)
def test_strange_answers_to_a_range(large, server, how, known):
    assert large("cut 100000", how, "good", **KNOWN[known]) == CONTENT
    tries = [None, "bytes=100000-", *AFTER_A_CUT[how]]
    assert ranges(server) == [("/a", asked) for asked in tries]


@pytest.mark.parametrize("how", ["good", "no if-range", "no ranges"])
def test_a_file_that_changed_between_two_tries_is_not_glued(large, server, how):
    interrupted(large)
    server.files["/a"] = CONTENT.swapcase()
    assert large(how) == CONTENT.swapcase()


def test_a_file_that_changed_is_noticed_by_its_hash(large, server):
    server.files["/a"] = CONTENT.swapcase()
    interrupted(large, digest=Digest("sha256", SHA256))
    server.files["/a"] = CONTENT
    assert large("no if-range", digest=Digest("sha256", SHA256)) == CONTENT
    assert len(server.asked) == 2
    assert server.asked[0][1] is not None
    assert server.asked[1][1] is None


def test_two_names_for_the_same_bytes_do_no_harm_where_the_hash_is_known(large, server):
    """As of two servers behind one address."""
    rest = interrupted(large, **KNOWN["sha256"])
    assert large("another name", **KNOWN["sha256"]) == CONTENT
    assert server.asked == [("/a", rest, None)]


@pytest.mark.parametrize("how", ["weak", "nameless"])
def test_without_a_name_for_the_version_everything_is_fetched_again(large, server, how):
    interrupted(large, how)
    assert large(how) == CONTENT
    assert ranges(server) == [("/a", None)]


@pytest.mark.parametrize(
    "note",
    ["", "{", "[]", "{}", '{"url": 1}', "[" * 10_000, b"\xff",
     {"size": "many"}, {"size": float("inf")}, {"size": 10}, {"size": None}, {"url": "/b"},
     {"validator": ""}, {"digests": 1}, {"digests": [["shake", "00"]]}, {"digests": [1]}],
)  # fmt: skip
def test_a_note_that_makes_no_sense_is_not_believed(large, server, tmp_path, note):
    interrupted(large)
    file = tmp_path / ".large.bin.0.part.json"
    if isinstance(note, dict):
        note = json.dumps(json.loads(file.read_text()) | note)
    file.write_bytes(note if isinstance(note, bytes) else note.encode())
    assert large() == CONTENT
    assert ranges(server) == [("/a", None)]


def test_a_validator_that_is_no_header_is_an_error_like_any_other(large, server, tmp_path):
    interrupted(large)
    file = tmp_path / ".large.bin.0.part.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"validator": "a\r\nHost: b"}))
    assert large() == CONTENT
    assert ranges(server) == [("/b", None)]


# What one address does not give, the next may: how it answers, and how often it is asked.
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
    "to /a": None,  # for ever
    "bad md5": 1,
    "bad sha1": 1,
}


@pytest.mark.parametrize("known", KNOWN)
@pytest.mark.parametrize("how", ELSEWHERE)
def test_the_second_address(large, server, how, known):
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
def test_what_is_wrong_is_said_and_nothing_of_it_kept(large, server, tmp_path, how, known):
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
def test_good_answers(large, server, how):
    server.files["/c"] = CONTENT
    assert large(how) == CONTENT
    assert server.paths == ["/a"] + ["/c"] * how.startswith("to")


def test_a_size_that_is_known_need_not_be_announced(large, server):
    assert large("unannounced", size=len(CONTENT)) == CONTENT
    assert server.paths == ["/a"]


def test_a_hash_that_came_with_the_first_part_is_held_against_the_whole(large, server, tmp_path):
    """Another answer's Content-MD5 is that of a part, and says nothing of the whole."""
    rest = interrupted(large, "md5")
    assert large("md5") == CONTENT
    assert ranges(server) == [("/a", rest)]
    (tmp_path / "large.bin").unlink()
    rest = interrupted(large, "bad md5")
    assert large("good") == CONTENT
    assert ranges(server) == [("/a", rest), ("/a", None)]


def test_a_redirection_keeps_the_range(large, server):
    server.files["/c"] = CONTENT
    server.plan["/c"] = ["cut 1000", "good"]
    assert large(f"to {server.url}/c") == CONTENT
    assert ranges(server) == [("/a", None), ("/c", None)] + [(p, "bytes=1000-") for p in
                                                             ("/a", "/c")]  # fmt: skip


def test_nobody_is_redirected_out_of_tls():
    class Closed:
        def close(self):
            pass

    ask = http.urllib.request.Request("https://example.org/a", headers={"Range": "bytes=1-"})
    follow = http.Redirect().redirect_request
    with pytest.raises(URLError, match="from https to http://example"):
        follow(ask, Closed(), 302, "", {}, "http://example.org/a")
    next_one = follow(ask, Closed(), 302, "", {}, "https://example.com/a")
    assert next_one.headers == {"Range": "bytes=1-"}


def test_giving_up_says_what_is_there(large, server):
    cut = "cut 100000"
    with pytest.raises(DownloadError) as caught:
        large(cut, "hangup", 404, urls=["/a"])
    assert str(caught.value).endswith(
        "Not Found). 100,000 bytes were kept: run this again to resume"
    )
    assert large(urls=["/a"]) == CONTENT
    assert ranges(server) == [("/a", "bytes=100000-")]


def test_the_parts_of_two_addresses_are_kept_apart(large, server):
    server.plan["/b"] = ["cut 50000", 404]
    with pytest.raises(DownloadError, match="100,000 bytes were kept"):
        large("cut 100000", 404)
    server.plan["/b"] = ["good"]
    assert large(404) == CONTENT
    assert ranges(server) == [("/a", "bytes=100000-"), ("/b", "bytes=50000-")]


def test_pauses_grow_and_start_over_once_there_is_progress(large, monkeypatch):
    slept = []
    monkeypatch.setattr(http.time, "sleep", slept.append)
    monkeypatch.setattr(http, "RETRY_DELAY", 1)
    plan = [500, 500, f"cut {2 * PIECE}", 500, 500, 500, f"cut {2 * PIECE}", "cut 1"]
    assert large(*plan, "good") == CONTENT
    assert slept == [1, 2, 1, 2, 4, 8, 1, 2]


def test_drops_are_no_progress(large, server):
    """A server that hangs up after every byte is not asked for ever."""
    with pytest.raises(DownloadError, match="closed after 5 of 215,000 bytes"):
        large("cut 1", urls=["/a"])
    assert len(server.asked) == http.MAX_ATTEMPTS


@pytest.mark.parametrize("then", [416, "shifted", "too short"])
def test_a_server_that_leads_nowhere_is_left(large, server, then):
    """It would give the same bytes again and again, but never more."""
    plan = ["unannounced", 416] if then == "too short" else ["cut 100000", then]
    with pytest.raises(DownloadError):
        large(*plan * 50, urls=["/a"], size=len(CONTENT) + (then == "too short"))
    assert len(server.asked) <= 2 * http.MAX_ATTEMPTS


def test_silence_ends(large, server, tmp_path, monkeypatch):
    monkeypatch.setattr(http, "TIMEOUT", 0.1)
    assert large("silence", "stall", "good") == CONTENT
    assert ranges(server) == [("/a", None), ("/a", None), ("/a", "bytes=100000-")]
    server.plan["/b"] = ["silence"]
    (tmp_path / "large.bin").unlink()
    started = time.perf_counter()
    with pytest.raises(DownloadError, match=r"timed out.*timed out"):
        large("silence")
    assert time.perf_counter() - started < 5


def test_what_is_there_and_right_is_not_asked_for(large, tmp_path, no_network):
    (tmp_path / "large.bin").write_bytes(CONTENT)
    no_network()
    for known in KNOWN.values():
        assert large(**known) == CONTENT


@pytest.mark.parametrize("known", ["sha256", "size"])
def test_what_is_there_and_wrong_is_replaced(large, tmp_path, known):
    (tmp_path / "large.bin").write_bytes(CONTENT[::-1][len(CONTENT) * (known == "size") :])
    assert large(**KNOWN[known]) == CONTENT


def test_progress_is_told(large):
    told = []
    large("cut 100000", "good", progress=lambda done, total: told.append((done, total)))
    assert {total for _, total in told} == {len(CONTENT)}
    sizes = [done for done, _ in told]
    assert (sizes[0], sizes[-1], sizes.count(100_000)) == (0, len(CONTENT), 2)
    assert sizes == sorted(sizes)
    assert max(after - before for before, after in pairwise(sizes)) <= PIECE


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


# The disk


def test_a_disk_without_room(large, server, tmp_path, monkeypatch):
    rest = interrupted(large)
    usage = shutil.disk_usage(tmp_path)
    needed = len(CONTENT) - int(rest.removeprefix("bytes=").removesuffix("-"))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=needed - 1))
    with pytest.raises(OSError, match=r"0\.1 MB are still to come and the disk has 0\.1 MB left"):
        large()
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=needed))
    assert large() == CONTENT
    assert ranges(server) == [("/a", rest)]


# GPT-2

SMALL = {"n_vocab": 50257, "n_ctx": 1024, "n_embd": 768, "n_head": 12, "n_layer": 12}
CHECKPOINT = {
    "model.ckpt.data-00000-of-00001": CONTENT,
    "model.ckpt.index": b"index" * 100,
    "checkpoint": b'model_checkpoint_path: "model.ckpt"\n',
    "hparams.json": json.dumps(SMALL).encode(),
}
HUB = {
    "model.safetensors": CONTENT,
    "config.json": json.dumps({**SMALL, "architectures": ["GPT2LMHeadModel"]}).encode(),
}


@pytest.fixture
def openai(server, tmp_path, monkeypatch):
    """gpt2-small at two addresses, both of the local server."""
    monkeypatch.setenv("NPGPT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(gpt2, "OPENAI", (f"{server.url}/one", f"{server.url}/two"))
    sizes = tuple(map(len, CHECKPOINT.values()))
    for name, folder in (("gpt2-small", "124M"), ("gpt2-large", "774M")):
        home = ReleasedModel("", folder, sizes if name == "gpt2-small" else (None,) * 4)
        monkeypatch.setitem(gpt2.MODELS, name, home)
        for base in ("one", "two"):
            server.files |= {f"/{base}/{folder}/{f}": data for f, data in CHECKPOINT.items()}

    def fetched(name="gpt2-small", **how):
        server.asked.clear()
        return gpt2.download_model(name, source="openai", **how)

    return fetched


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


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


def test_a_folder_of_ones_own(openai, tmp_path, no_network):
    for to in (tmp_path / "new" / "one", str(tmp_path / "str"), tmp_path / "lived in"):
        if "lived" in str(to):
            to.mkdir()
            (to / "notes.txt").write_text("mine")
        assert openai(to=to) == resumable.Path(to)
        assert {**CHECKPOINT, "notes.txt": b"mine"}.items() >= contents(resumable.Path(to)).items()
    no_network()
    assert openai(to=to) == to
    assert not (tmp_path / "cache").exists()


def test_the_second_address_of_openai(openai, server):
    server.plan = {f"/one/124M/{file}": [404] for file in CHECKPOINT}
    assert contents(openai()) == CHECKPOINT
    assert [path for path in server.paths if "two" in path] == [
        f"/two/124M/{file}" for file in CHECKPOINT
    ]


def test_openai_without_a_network(openai, server, monkeypatch):
    monkeypatch.setattr(gpt2, "OPENAI", ("http://127.0.0.1:9", "http://127.0.0.1:9"))
    with pytest.raises(RunError) as caught:
        openai()
    assert re.fullmatch(
        r"model\.ckpt\.data-00000-of-00001 could not be downloaded \(127\.0\.0\.1:9: .*refused; "
        r"127\.0\.0\.1:9: .*refused\); you can also try --source huggingface",
        str(caught.value),
    )


def test_what_arrived_is_kept_when_the_rest_does_not(openai, server, tmp_path):
    at = "/one/124M/model.ckpt.data-00000-of-00001"
    server.plan = {at: ["cut 100000", 404], at.replace("one", "two"): [404],
                   "/one/124M/checkpoint": [404], "/two/124M/checkpoint": [404]}  # fmt: skip
    with pytest.raises(RunError, match="100,000 bytes were kept: run this again"):
        openai(to=tmp_path / "to")
    server.plan[at] = ["good"]
    with pytest.raises(RunError, match="checkpoint could not be downloaded"):
        openai(to=tmp_path / "to")
    assert server.asked[0][1] == "bytes=100000-"
    assert [path for path in listed(tmp_path / "to") if not path.startswith(".")] == []
    server.plan = {}
    assert contents(openai(to=tmp_path / "to")) == CHECKPOINT
    assert server.paths == ["/one/124M/checkpoint", "/one/124M/hparams.json"]


def test_nothing_is_left_where_nothing_came(openai, server, tmp_path):
    server.files.clear()
    with pytest.raises(RunError, match="Not Found"):
        openai(to=tmp_path / "to")
    assert listed(tmp_path / "to") == []


def test_the_check_comes_before_the_names(openai, server, tmp_path):
    to, seen = tmp_path / "to", []

    def check(folder):
        seen.append(contents(folder))
        assert not {path.name for path in to.iterdir()} & {*CHECKPOINT}

    assert openai(to=to, check=check) == to
    assert openai(to=to, check=check) == to
    assert seen == [CHECKPOINT]


def test_what_the_check_finds_damaged_is_thrown_away(openai, server, tmp_path):
    def check(folder):
        raise InputError("wte: its crc32c is 1, not 2")

    with pytest.raises(RunError, match=r"is damaged and was deleted \(wte: its crc32c is 1, not"):
        openai(to=tmp_path / "to", check=check)
    assert listed(tmp_path / "to") == []
    assert contents(openai(to=tmp_path / "to")) == CHECKPOINT
    assert len(server.asked) == 4


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"{}", b"[" * 100_000, b"\xff",
                                  json.dumps({**SMALL, "n_head": 16}).encode()])  # fmt: skip
def test_another_model_than_was_asked_for(openai, server, tmp_path, monkeypatch, text):
    server.files["/one/124M/hparams.json"] = text
    monkeypatch.setitem(gpt2.MODELS, "gpt2-small", ReleasedModel("", "124M", (None,) * 4))
    with pytest.raises(RunError, match=r"is damaged .*hparams\.json (has|must be)"):
        openai(to=tmp_path / "to")
    assert listed(tmp_path / "to") == []


def test_the_size_is_known_beforehand(openai, server, tmp_path):
    """What a gateway puts in the way of a file does not look like it."""
    at = "/one/124M/model.ckpt.data-00000-of-00001"
    server.files[at] = b"<html>Log in, please</html>"
    assert contents(openai()) == CHECKPOINT
    assert server.paths[:2] == [at, at.replace("one", "two")]


@pytest.mark.parametrize("move", range(4))
def test_killed_while_putting_the_files_in_their_places(
    openai, tmp_path, monkeypatch, no_network, move
):
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


def test_nothing_is_written_over(openai, server, tmp_path):
    """A folder with something of that name, be it a fine-tuned model, stays as it is."""
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


def test_two_models_do_not_share_a_folder(openai, server, tmp_path):
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
    with pytest.raises(RunError, match="checkpoint could not be downloaded"):
        openai("gpt2-large", to=to)
    assert openai(to=to) == to
    assert {file: (to / file).read_bytes() for file in CHECKPOINT} == CHECKPOINT


def test_another_process_was_done_before_us(openai, server, tmp_path, monkeypatch):
    locked = gpt2.locked

    def late(path):
        monkeypatch.setattr(gpt2, "locked", locked)
        openai(to=tmp_path / "to")
        server.asked.clear()
        return locked(path)

    monkeypatch.setattr(gpt2, "locked", late)
    assert contents(openai(to=tmp_path / "to")) == CHECKPOINT
    assert server.asked == []


def test_a_folder_that_cannot_be(openai, tmp_path):
    (tmp_path / "file").write_text("")
    for to in (tmp_path / "file", tmp_path / "file" / "folder"):
        with pytest.raises(
            RunError, match=r"gpt2-small could not be written to .*another directory"
        ):
            openai(to=to)


def test_a_disk_that_fills_up(openai, tmp_path, monkeypatch):
    """First by what it says of itself, then by what it does."""
    usage = shutil.disk_usage(tmp_path)
    with (
        monkeypatch.context() as patch,
        pytest.raises(RunError, match=r"has 0\.0 MB left"),
    ):
        patch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
        openai()

    def opened(path, mode="r"):
        return open("/dev/full" if "w" in mode else path, mode)

    with monkeypatch.context() as patch, pytest.raises(RunError, match="No space left on device"):
        patch.setattr(resumable, "open", opened, raising=False)
        openai()
    assert contents(openai()) == CHECKPOINT


def test_names_and_sources():
    with pytest.raises(InputError, match="unknown model 'gpt3'; expected one of gpt2-small, "):
        gpt2.download_model("gpt3")
    with pytest.raises(
        InputError, match="unknown source 'ftp'; expected one of huggingface, openai"
    ):
        gpt2.download_model("gpt2-xl", source="ftp")


def test_the_real_sizes_are_those_of_the_parameters():
    assert {*gpt2.MODELS} == {name for name in gpt2.PRESETS if name.startswith("gpt2-")}
    for name, parameters in (("gpt2-small", 124_439_808), ("gpt2-medium", 354_823_168)):
        assert gpt2.MODELS[name].sizes[0] == 4 * parameters


SECOND = """
import sys
from npgpt.download import gpt2 as download
url, to = sys.argv[1:]
download.OPENAI = (url + "/one", url + "/two")
download.MODELS["gpt2-small"] = download.ReleasedModel("", "124M", (None,) * 4)
shown = lambda *at: print(*at, flush=True)
download.download_model("gpt2-small", source="openai", to=to, progress=shown)
"""


def test_a_second_process_is_sent_away_and_a_killed_one_forgotten(openai, server, tmp_path):
    to, at = tmp_path / "to", "/one/124M/model.ckpt.data-00000-of-00001"
    server.plan[at] = ["stall"]
    other = subprocess.Popen([sys.executable, "-c", SECOND, server.url, str(to)],
                             stdout=subprocess.PIPE, text=True)  # fmt: skip
    with other:
        for line in other.stdout:
            if int(line.split()[1]) >= 100_000:
                break
        with pytest.raises(RunError, match=r"another process is fetching into .*/to: run"):
            openai(to=to)
        assert server.asked == []
        assert [path for path in listed(to) if not path.startswith(".")] == []
        other.send_signal(signal.SIGKILL)
    server.released.set()
    server.plan[at] = ["good"]
    assert contents(openai(to=to)) == CHECKPOINT
    first = int(re.fullmatch(r"bytes=(\d+)-", server.asked[0][1])[1])
    assert 90_000 < first <= 100_000  # what Python had not written yet is lost


def test_a_file_system_without_locks(openai, monkeypatch):
    import fcntl

    def unknown(*args):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", unknown)
    assert contents(openai()) == CHECKPOINT


def test_a_lock_that_was_removed_under_us_is_taken_again(tmp_path, monkeypatch):
    hold, path = files.hold, tmp_path / "lock"

    def late(handle, at):
        """Between our opening and our locking, somebody finishes and removes it."""
        if seen.append(handle) is None and len(seen) == 1:
            path.unlink()
        hold(handle, at)

    seen = []
    monkeypatch.setattr(files, "hold", late)
    with files.locked(path):
        assert path.exists()
        with pytest.raises(RunError, match="another process"), files.locked(path):
            pass
        assert path.exists()
    assert not path.exists()
    assert len(seen) == 3


# The Hugging Face Hub

REPOSITORY = "/openai-community/gpt2"


@pytest.fixture
def hub(server, tmp_path, monkeypatch):
    """gpt2-small at a local server that answers as the Hub does: large files are elsewhere."""
    from huggingface_hub import constants

    monkeypatch.setenv("NPGPT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setattr(
        constants,
        "HUGGINGFACE_CO_URL_TEMPLATE",
        server.url + "/{repo_id}/resolve/{revision}/{filename}",
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    on_hub(server)

    def fetched(**how):
        server.asked.clear()
        return gpt2.download_model("gpt2-small", **how)

    return fetched


def on_hub(server):
    for revision in ("main", COMMIT):
        for file, data in HUB.items():
            path = f"{REPOSITORY}/resolve/{revision}/{file}"
            server.files[path] = data
            kind = hashlib.sha256 if file == "model.safetensors" else hashlib.sha1
            head = b"" if file == "model.safetensors" else b"blob %d\0" % len(data)
            server.plan["HEAD", path] = [f"hub {kind(head + data).hexdigest()}"]
        server.plan[path.replace("config.json", "model.safetensors")] = [f"to {server.url}/cdn"]
    server.files["/cdn"] = CONTENT


def test_the_hub(hub, server, tmp_path, no_network):
    server.plan["/cdn"] = ["cut 100000", "good"]
    told = []
    folder = hub(progress=lambda *at: told.append(at))
    assert folder == tmp_path / "cache" / "huggingface" / "gpt2-small"
    assert contents(folder) == HUB
    at = f"{REPOSITORY}/resolve/{COMMIT}"
    assert ranges(server)[-5:] == [
        (f"{at}/model.safetensors", None),
        ("/cdn", None),
        (f"{at}/model.safetensors", "bytes=100000-"),
        ("/cdn", "bytes=100000-"),
        (f"{at}/config.json", None),
    ]
    assert {at[0] for at in told} == {*HUB}
    no_network()
    assert hub() == folder


@pytest.mark.parametrize("file", HUB)
def test_other_bytes_than_the_hub_says(hub, server, tmp_path, file):
    at = "/cdn" if file == "model.safetensors" else f"{REPOSITORY}/resolve/{COMMIT}/{file}"
    server.plan[at] = ["wrong"]
    with pytest.raises(RunError, match=rf"{file} could not be downloaded .*received .* expected"):
        hub()
    server.plan[at] = ["good"]
    assert contents(hub(to=tmp_path / "to")) == HUB


def test_the_hub_is_asked_again_when_it_is_busy(hub, server):
    at = f"{REPOSITORY}/resolve/main/model.safetensors"
    server.plan["HEAD", at] = [503, "hangup", *server.plan["HEAD", at]]
    assert contents(hub()) == HUB
    assert server.paths[:3] == [at] * 3


NO_HUB = {
    "404": (404, r"\(.*404.*\)"),
    "401": (401, r"\(.*401.*\)"),
    "500": (500, r"\(.*500.*\)"),
    "another server": ("good", "has no commit, size or hash of model.safetensors"),
    "an unknown hash": ("hub abc", "has no commit, size or hash of model.safetensors"),
    "hangup": ("hangup", "disconnected"),
}


@pytest.mark.parametrize("case", NO_HUB)
def test_a_hub_that_does_not_answer_as_one(hub, server, tmp_path, case):
    how, said = NO_HUB[case]
    server.plan["HEAD", f"{REPOSITORY}/resolve/main/model.safetensors"] = [how]
    with pytest.raises(RunError, match=said) as caught:
        hub(to=tmp_path / "to")
    message = str(caught.value)
    assert message.startswith(
        "the files of openai-community/gpt2 could not be found on the Hugging Face Hub ("
    )
    assert message.endswith("; you can also try --source openai")
    assert "\n" not in message
    assert listed(tmp_path / "to") == []


def test_what_hugging_face_has_cached_is_used_from_there(hub, server, tmp_path, no_network):
    import huggingface_hub

    for file in HUB:
        huggingface_hub.hf_hub_download("openai-community/gpt2", file, endpoint=server.url)
    no_network()
    folder = hub()
    assert folder.is_relative_to(tmp_path / "hub")
    assert contents(folder) == HUB
    assert not (tmp_path / "cache").exists()
    assert contents(hub(to=tmp_path / "to")) == HUB


FOR_REAL = """
import sys
from npgpt.download import gpt2 as download
assert "huggingface_hub" not in sys.modules
try:
    print(download.download_model("gpt2-small"))
except Exception as error:
    print(type(error).__name__, error)
"""


def test_the_hubs_own_settings(server, tmp_path):
    """HF_ENDPOINT, HF_HOME, HF_HUB_OFFLINE and a proxy; the server is the proxy."""
    on_hub(server)
    at = f"{REPOSITORY}/resolve/{COMMIT}/model.safetensors"
    server.plan[at] = ["to http://cdn.invalid/cdn"]
    settings = {"HF_ENDPOINT": "http://hub.invalid", "HF_HOME": str(tmp_path / "hf"),
                "NPGPT_CACHE": str(tmp_path / "cache"), "http_proxy": server.url}  # fmt: skip

    def said(**more):
        done = subprocess.run([sys.executable, "-W", "error", "-c", FOR_REAL], text=True,
                              env={**os.environ, **settings, **more},
                              capture_output=True)  # fmt: skip
        assert done.stderr == ""
        return done.stdout.strip()

    assert re.match("DownloadError the files of .*offline mode", said(HF_HUB_OFFLINE="1"))
    assert server.asked == []
    folder = tmp_path / "cache" / "huggingface" / "gpt2-small"
    assert said() == str(folder)
    assert contents(folder) == HUB
    assert {f"http://hub.invalid{at}", "http://cdn.invalid/cdn"} <= {*server.paths}
    server.asked.clear()
    assert said(HF_HUB_OFFLINE="1") == said() == str(folder)
    assert server.asked == []
