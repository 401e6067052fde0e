"""The guard of npgpt play: each way in which another site could reach the page is refused."""

import asyncio
import json
import threading
import time

import pytest

from npgpt.play import security
from npgpt.play.api import FUNCTIONS
from npgpt.play.computation import Cancelled, Reply
from npgpt.play.security import MAX_BODY
from parity_tests.support.play_client import HEADERS, Client, byte_model, decode, given

CALL = {"source": "model", "prompt": "a"}


@pytest.fixture(scope="module")
def client():
    made = Client()
    yield made
    made.close()


GOOD_HOSTS = (
    "127.0.0.1", "127.0.0.1:8124", "localhost", "localhost:1", "LOCALHOST:80", "[::1]", "[::1]:8124"
)  # fmt: skip
BAD_HOSTS = (
    None, "", "example.com", "127.0.0.1.example.com", "localhost.example.com:8124", "0.0.0.0:8124",
    "127.0.0.2", "::1", "[::1", "[::2]:8124", "localhost:", "localhost:80a", "127.0.0.1:8124@x",
    "user@localhost", "localhost\t", "127.1", "2130706433",
)  # fmt: skip


@pytest.mark.parametrize("host", GOOD_HOSTS)
def test_hosts_of_this_machine(client, host):
    assert client.request("GET", "/", headers=[("host", host)]).status == 200
    assert client.post("next-token", CALL, host=host, origin=f"http://{host}").status == 200


@pytest.mark.parametrize("host", BAD_HOSTS)
def test_other_hosts(client, host):
    headers = [] if host is None else [("host", host)]
    assert client.request("GET", "/", headers=headers).status == 421
    assert client.post("next-token", CALL, host=host, origin=f"http://{host}").status == 421


def test_two_hosts(client):
    headers = [("host", "localhost"), ("host", "example.com")]
    assert client.request("GET", "/", headers=headers).status == 421


REFUSED = {
    "another origin": (dict(origin="http://example.com"), 403),
    "another port's origin": (dict(origin="http://127.0.0.1:9999"), 403),
    "another scheme's origin": (dict(origin="https://127.0.0.1:8124"), 403),
    "a sandboxed origin": (dict(origin="null"), 403),
    "another site": (dict(sec_fetch_site="cross-site"), 403),
    "another port": (dict(sec_fetch_site="same-site"), 403),
    "no token": (dict(x_npgpt_token=None), 403),
    "an empty token": (dict(x_npgpt_token=""), 403),
    "another server's token": (dict(x_npgpt_token="secres"), 403),
    "a form": (dict(content_type="application/x-www-form-urlencoded"), 415),
    "a form as text": (dict(content_type="text/plain"), 415),
    "no type": (dict(content_type=None), 415),
    "a length that is none": (dict(content_length="-1"), 400),
    "a large length": (dict(content_length=str(MAX_BODY + 1)), 413),
    "a huge length": (dict(content_length="9" * 5000), 413),
}


@pytest.mark.parametrize(("changed", "status"), REFUSED.values(), ids=REFUSED)
def test_refused(client, changed, status):
    answer = client.post("next-token", CALL, **changed)
    assert answer.status == status
    assert answer.body.count(b"\n") == 1


def test_without_an_origin_the_token_decides(client):
    assert client.post("next-token", CALL, origin=None).status == 200
    assert client.post("next-token", CALL, origin=None, x_npgpt_token=None).status == 403


def test_a_type_with_a_charset(client):
    assert (
        client.post("next-token", CALL, content_type="Application/JSON; charset=utf-8").status
        == 200
    )


def test_a_get_with_another_origin_is_refused(client):
    headers = [("host", "localhost"), ("origin", "http://example.com")]
    assert client.request("GET", "/", headers=headers).status == 403


@pytest.mark.parametrize("chunks", [1, 40])
def test_a_body_is_limited_without_its_length(client, chunks):
    for size, status in ((MAX_BODY, 400), (MAX_BODY + 1, 413)):  # 400: it is no JSON
        answer = client.request("POST", "/api/next-token", b" " * size, given({}), chunks=chunks)
        assert answer.status == status


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"1", b'{"a": NaN', b"[" * 60_000, b"\xff"])
def test_a_body_is_a_json_object(client, body):
    answer = client.post("next-token", body)
    assert answer.status == 400
    assert b"must be" in answer.body


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "x"])
def test_other_methods(client, method):
    answer = client.request(method, "/", headers=given({}))
    assert answer.status == 405
    assert "access-control-allow-origin" not in answer.headers


def test_a_get_changes_nothing(client):
    """No function is called by GET, and no file is written to."""
    before = client.session.last
    for path in ("/api/next-token", "/api/draws", "/api/model"):
        assert client.request("GET", path, headers=[("host", "localhost")]).status in (404, 405)
    assert client.session.last is before


PATHS = (
    "/../server.py", "/d3/../../server.py", "/..%2fserver.py", "//etc/passwd", "/etc/passwd",
    "/static/index.html", "/index.html", "/d3", "/d3/", "/\\..\\server.py", "/app.js/", "/.",
)  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
def test_paths_are_names_in_a_table(client, path):
    assert client.request("GET", path, headers=[("host", "localhost")]).status == 404


@pytest.mark.parametrize("name", ["nothing", "__init__", "constructor", "next-token/x", ""])
def test_unknown_functions(client, name):
    assert client.post(name, CALL).status in (404, 405)


def test_headers_of_every_answer(client):
    answers = [
        client.request("GET", "/", headers=[("host", "localhost")]),
        client.request("GET", "/nothing", headers=[("host", "localhost")]),
        client.request("GET", "/", headers=[("host", "example.com")]),
        client.post("next-token", CALL),
        client.post("next-token", b"{"),
    ]
    assert [answer.status for answer in answers] == [200, 404, 421, 200, 400]
    for answer in answers:
        for name, value in security.HEADERS.items():
            assert answer.headers[name] == value
        assert not any(name.startswith("access-control") for name in answer.headers)
    policy = answers[0].headers["content-security-policy"]
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy


def test_the_token_is_in_the_page_alone(client):
    pages = {path: client.request("GET", path, headers=[("host", "localhost")]).body
             for path in ("/", "/app.js", "/api.js")}  # fmt: skip
    assert [path for path, body in pages.items() if HEADERS["x-npgpt-token"].encode() in body] == [
        "/"
    ]
    assert b"{{token}}" not in pages["/"]


def test_a_websocket_is_closed(client):
    sent = []

    async def connect():
        async def send(message):
            sent.append(message)

        await client.app({"type": "websocket", "headers": []}, None, send)

    asyncio.run(connect())
    assert sent == [{"type": "websocket.close", "code": 1008}]


def test_two_computations_take_turns(client, monkeypatch):
    """The second one begins when the first one has ended."""
    running, most, order = [], [], []

    def compute(body, session, job):
        running.append(1)
        most.append(len(running))
        threading.Event().wait(0.05)
        order.append(body.get("n"))
        running.pop()
        return Reply({"n": body.get("n")})

    monkeypatch.setitem(FUNCTIONS, "slow", compute)

    async def both():
        return await asyncio.gather(
            *(
                client.answer("POST", "/api/slow", json.dumps({"n": n}).encode(), given({}))
                for n in range(3)
            )
        )

    answers = asyncio.run(both())
    assert [decode(answer.body)[-1]["n"] for answer in answers] == [0, 1, 2]
    assert (most, order) == ([1, 1, 1], [0, 1, 2])


def test_a_client_that_leaves_ends_its_computation(client, monkeypatch):
    started, ended, jobs = threading.Event(), threading.Event(), []

    def long(body, session, job):
        jobs.append(job)
        started.set()
        try:
            end = time.monotonic() + 5
            while time.monotonic() < end:
                job.report(1, 2, "Waiting")
        except Cancelled:
            ended.set()
            raise
        return Reply({})

    monkeypatch.setitem(FUNCTIONS, "long", long)

    async def leave():
        gone = asyncio.Event()
        asking = asyncio.ensure_future(
            client.answer("POST", "/api/long", b"{}", given({}), leaves=gone)
        )
        await asyncio.to_thread(started.wait, 10)
        gone.set()
        return await asking

    answer = asyncio.run(leave())
    found = ended.wait(5)
    jobs[0].cancelled.set()  # if it was not, the thread would never end
    assert found
    assert all(frame["kind"] == "progress" for frame in decode(answer.body))
    assert client.call("next-token", **CALL)["kind"] == "result"


def test_a_computation_in_the_queue_is_not_started(client, monkeypatch):
    """Its client has left before its turn."""
    release, started = threading.Event(), []

    def hold(body, session, job):
        started.append(body.get("n"))
        release.wait(10)
        return Reply({})

    monkeypatch.setitem(FUNCTIONS, "hold", hold)

    async def leave():
        gone = asyncio.Event()
        first = asyncio.ensure_future(client.answer("POST", "/api/hold", b'{"n": 1}', given({})))
        second = asyncio.ensure_future(
            client.answer("POST", "/api/hold", b'{"n": 2}', given({}), leaves=gone)
        )
        while not started:
            await asyncio.sleep(0.001)
        gone.set()
        await second
        release.set()
        await first

    asyncio.run(leave())
    client.call("next-token", **CALL)  # the thread has looked at the second one
    assert started == [1]


def test_an_unexpected_error_is_one_line(client, monkeypatch, capsys):
    def fails(body, session, job):
        raise ZeroDivisionError("by\nzero")

    monkeypatch.setitem(FUNCTIONS, "fails", fails)
    said = client.call("fails")
    assert said["kind"] == "error"
    assert said["message"] == "npgpt has failed (ZeroDivisionError: by zero); see the terminal"
    assert "Traceback" in capsys.readouterr().err


def test_a_model_of_nans():
    model = byte_model()
    model.params.h[1].mlp.c_fc.weight[0, 0] = float("nan")
    client = Client(model)
    said = client.call("next-token", **CALL)
    client.close()
    assert said["kind"] == "error"
    assert said["message"].startswith("the logits are nan: h.1.mlp.c_fc.weight holds nan")
