"""A download that is interrupted is resumed, or started again."""

import json
from itertools import pairwise

import numpy as np
import pytest

from npgpt.download import http, resumable
from npgpt.download.http import Digest
from npgpt.errors import DownloadError
from parity_tests.support.downloads import KNOWN, interrupted
from parity_tests.support.file_server import CONTENT, DATE, PIECE, SHA256, ranges


@pytest.mark.parametrize("known", KNOWN)
@pytest.mark.parametrize("cuts", [[1], [PIECE], [100_000, 50_000, 50_000], [0, 0, 0, 0]])
def test_a_lost_connection_is_resumed(large, server, cuts, known):
    assert large(*(f"cut {cut}" for cut in cuts), "good", **KNOWN[known]) == CONTENT
    starts = np.cumsum(cuts)
    assert ranges(server) == [("/a", f"bytes={n}-" if n else None) for n in (0, *starts)]
    if known != "sha256":  # then If-Range must ask for the same version
        assert all(unless for _, asked, unless in server.asked if asked)


def test_a_connection_lost_within_chunks_is_resumed(large, server):
    assert large("chunked cut", "chunked", **KNOWN["sha256"], **KNOWN["size"]) == CONTENT
    assert ranges(server) == [("/a", None), ("/a", "bytes=1000-")]


def test_the_date_is_the_validator_without_an_etag(large, server):
    rest = interrupted(large, "dated")
    assert large("dated") == CONTENT
    assert server.asked == [("/a", rest, DATE)]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_ctrl_c_keeps_the_received_bytes(large, server, error):
    rest = interrupted(large, error=error)
    assert large() == CONTENT
    assert ranges(server) == [("/a", rest)]


def test_a_complete_part_is_not_requested_again(large, server, monkeypatch, no_network):
    """Killed after the last byte, before the file is renamed."""

    def killed(path):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(resumable, "sync_file", killed)
        large()
    no_network()
    assert large() == CONTENT


AFTER_A_CUT = {
    "no ranges": [],  # sends the complete file, which is used
    "no if-range": [],
    "shifted": [None],  # another range
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
def test_wrong_answers_to_a_range(large, server, how, known):
    assert large("cut 100000", how, "good", **KNOWN[known]) == CONTENT
    tries = [None, "bytes=100000-", *AFTER_A_CUT[how]]
    assert ranges(server) == [("/a", asked) for asked in tries]


@pytest.mark.parametrize("how", ["good", "no if-range", "no ranges"])
def test_bytes_of_two_versions_are_not_combined(large, server, how):
    interrupted(large)
    server.files["/a"] = CONTENT.swapcase()
    assert large(how) == CONTENT.swapcase()


def test_a_changed_file_is_found_by_its_hash(large, server):
    server.files["/a"] = CONTENT.swapcase()
    interrupted(large, digest=Digest("sha256", SHA256))
    server.files["/a"] = CONTENT
    assert large("no if-range", digest=Digest("sha256", SHA256)) == CONTENT
    assert len(server.asked) == 2
    assert server.asked[0][1] is not None
    assert server.asked[1][1] is None


def test_another_etag_is_ignored_with_a_known_hash(large, server):
    """Resume from another ETag, as of a second server behind the same URL."""
    rest = interrupted(large, **KNOWN["sha256"])
    assert large("another name", **KNOWN["sha256"]) == CONTENT
    assert server.asked == [("/a", rest, None)]


@pytest.mark.parametrize("how", ["weak", "nameless"])
def test_without_a_validator_the_download_restarts(large, server, how):
    interrupted(large, how)
    assert large(how) == CONTENT
    assert ranges(server) == [("/a", None)]


@pytest.mark.parametrize(
    "record",
    ["", "{", "[]", "{}", '{"url": 1}', "[" * 10_000, b"\xff",
     {"size": "many"}, {"size": float("inf")}, {"size": 10}, {"size": None}, {"url": "/b"},
     {"validator": ""}, {"digests": 1}, {"digests": [["shake", "00"]]}, {"digests": [1]}],
)  # fmt: skip
def test_an_invalid_record_of_the_origin_is_ignored(large, server, tmp_path, record):
    interrupted(large)
    file = tmp_path / ".large.bin.0.part.json"
    if isinstance(record, dict):
        record = json.dumps(json.loads(file.read_text()) | record)
    file.write_bytes(record if isinstance(record, bytes) else record.encode())
    assert large() == CONTENT
    assert ranges(server) == [("/a", None)]


def test_a_validator_that_is_not_a_header_fails_like_any_request(large, server, tmp_path):
    interrupted(large)
    file = tmp_path / ".large.bin.0.part.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"validator": "a\r\nHost: b"}))
    assert large() == CONTENT
    assert ranges(server) == [("/b", None)]


def test_the_final_error_names_the_kept_bytes(large, server):
    cut = "cut 100000"
    with pytest.raises(DownloadError) as caught:
        large(cut, "hangup", 404, urls=["/a"])
    assert str(caught.value).endswith(
        "Not Found). 100,000 bytes were kept: run this again to resume"
    )
    assert large(urls=["/a"]) == CONTENT
    assert ranges(server) == [("/a", "bytes=100000-")]


def test_each_url_has_its_own_part(large, server):
    server.plan["/b"] = ["cut 50000", 404]
    with pytest.raises(DownloadError, match="100,000 bytes were kept"):
        large("cut 100000", 404)
    server.plan["/b"] = ["good"]
    assert large(404) == CONTENT
    assert ranges(server) == [("/a", "bytes=100000-"), ("/b", "bytes=50000-")]


def test_delays_grow_and_restart_after_progress(large, monkeypatch):
    slept = []
    monkeypatch.setattr(http.time, "sleep", slept.append)
    monkeypatch.setattr(http, "RETRY_DELAY", 1)
    plan = [500, 500, f"cut {2 * PIECE}", 500, 500, 500, f"cut {2 * PIECE}", "cut 1"]
    assert large(*plan, "good") == CONTENT
    assert slept == [1, 2, 1, 2, 4, 8, 1, 2]


def test_single_bytes_are_not_progress(large, server):
    """A server that closes the connection after every byte is not asked forever."""
    with pytest.raises(DownloadError, match="closed after 5 of 215,000 bytes"):
        large("cut 1", urls=["/a"])
    assert len(server.asked) == http.MAX_ATTEMPTS


@pytest.mark.parametrize("then", [416, "shifted", "too short"])
def test_a_server_without_progress_is_given_up(large, server, then):
    """It would send the same bytes forever."""
    plan = ["unannounced", 416] if then == "too short" else ["cut 100000", then]
    with pytest.raises(DownloadError):
        large(*plan * 50, urls=["/a"], size=len(CONTENT) + (then == "too short"))
    assert len(server.asked) <= 2 * http.MAX_ATTEMPTS


def test_a_correct_file_is_not_requested(large, tmp_path, no_network):
    (tmp_path / "large.bin").write_bytes(CONTENT)
    no_network()
    for known in KNOWN.values():
        assert large(**known) == CONTENT


@pytest.mark.parametrize("known", ["sha256", "size"])
def test_a_wrong_file_is_replaced(large, tmp_path, known):
    (tmp_path / "large.bin").write_bytes(CONTENT[::-1][len(CONTENT) * (known == "size") :])
    assert large(**KNOWN[known]) == CONTENT


def test_progress_is_reported(large):
    told = []
    large("cut 100000", "good", progress=lambda done, total: told.append((done, total)))
    assert {total for _, total in told} == {len(CONTENT)}
    sizes = [done for done, _ in told]
    assert (sizes[0], sizes[-1], sizes.count(100_000)) == (0, len(CONTENT), 2)
    assert sizes == sorted(sizes)
    assert max(after - before for before, after in pairwise(sizes)) <= PIECE
