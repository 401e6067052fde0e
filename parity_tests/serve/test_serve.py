"""npgpt serve: OpenAI's own client, the tokens of npgpt.generate, and clients that misbehave."""

import asyncio
import json
import logging
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import httpx
import numpy as np
import pytest

import npgpt
from npgpt.inference.batch import Batch
from npgpt.inference.sampling import log_probabilities
from npgpt.serve import server

openai = pytest.importorskip("openai", reason="the client of OpenAI is in the extra [test]")
pytestmark = pytest.mark.slow  # it imports the openai package
NAME = "tiny-1"
CONTEXT = 48
ENDLESS = {"logit_bias": {256: -100}}  # no text draws its end by chance


def tiny_model(**options):
    """A model whose texts depend on its prompts."""
    config = npgpt.Config(vocab_size=257, context_length=CONTEXT, n_layer=2, n_head=2, n_embd=16)
    model = npgpt.GPT(config, ops="numpy", tokenizer="byte", scheme="book", **options)
    model.params.wte.weight[:] *= 0.5
    return model


@contextmanager
def running(model=None, *, buffer=None, **options):
    """A server in a thread of this process: its service and its port."""
    model = tiny_model() if model is None else model
    service = server.Service(model, npgpt.tokenizer("byte"), NAME, **{"size": 8} | options)
    listening = server.bind("127.0.0.1", 0)
    if buffer:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
    runs = server.Server(service)
    thread = threading.Thread(target=lambda: asyncio.run(runs.serve([listening])))
    thread.start()
    try:
        yield service, listening.getsockname()[1]
    finally:
        runs.should_exit = True
        thread.join()
        service.engine.close()


@pytest.fixture(scope="module")
def served():
    """Texts that are alone in the batch are continued by drafts, and no text changes."""
    with running(model := tiny_model(), speculate=npgpt.Speculation(model)) as found:
        yield found


@pytest.fixture(scope="module")
def client(served):
    with openai.OpenAI(base_url=f"http://127.0.0.1:{served[1]}/v1", api_key="none") as made:
        yield made


def own(model, prompt, count, *, seed=None, stop_at=None, **settings):
    """The text of npgpt.generate."""
    tokenizer = npgpt.tokenizer("byte")
    rng = None if seed is None else npgpt.Generator(seed)
    tokens = npgpt.generate(
        model, tokenizer.encode(prompt), count, eos_id=tokenizer.eot_token, rng=rng, **settings
    )
    return tokenizer.decode([token for token in tokens if token != tokenizer.eot_token])


def test_greedy_text_is_that_of_generate(served, client):
    made = client.completions.create(model=NAME, prompt="The light", max_tokens=12, temperature=0)
    (choice,) = made.choices
    assert choice.text == own(served[0].model, "The light", 12)
    assert made.usage.prompt_tokens == 9 and made.usage.total_tokens == 9 + 12
    assert choice.finish_reason == "length" and choice.logprobs is None
    assert served[0].engine.new_batch.keywords["speculate"].accepted > 0


def test_the_same_seed_gives_what_generate_gives(served, client):
    settings = dict(temperature=1.3, top_p=0.9)
    made = client.completions.create(
        model=NAME, prompt=["ab", "A longer prompt"], n=2, max_tokens=10, seed=5, **settings
    )
    prompts = "ab", "ab", "A longer prompt", "A longer prompt"
    expected = [
        own(served[0].model, prompt, 10, seed=5 + i, **settings) for i, prompt in enumerate(prompts)
    ]
    assert [choice.text for choice in made.choices] == expected
    assert len(set(expected)) == 4
    assert made.usage.prompt_tokens == 2 + 15


def test_a_stream_is_the_whole_in_parts(client):
    options = dict(
        model=NAME, prompt="once", max_tokens=12, temperature=0.9, seed=3, logprobs=2, n=2
    )
    whole = client.completions.create(**options)
    *parts, last = client.completions.create(
        **options, stream=True, stream_options={"include_usage": True}
    )
    for index in range(2):
        pieces = [c for part in parts for c in part.choices if c.index == index]
        assert "".join(piece.text for piece in pieces) == whole.choices[index].text
        tokens = [token for piece in pieces for token in piece.logprobs.tokens]
        assert tokens == whole.choices[index].logprobs.tokens
        assert [p.finish_reason for p in pieces][-1] == whole.choices[index].finish_reason
    assert last.usage == whole.usage and not last.choices
    assert len(parts) > 4


def test_log_probabilities_are_the_models(served, client):
    made = client.completions.create(
        model=NAME, prompt="abc", max_tokens=4, temperature=0, logprobs=3, echo=True
    )
    (choice,), model = made.choices, served[0].model
    found = choice.logprobs
    ids = [*b"abc", *npgpt.generate(model, [*b"abc"], 4)]
    expected = log_probabilities(model.logits(np.array([ids]))[0])
    assert found.token_logprobs[0] is None and found.top_logprobs[0] is None
    # both are float32 sums of 16 terms of about 1, in another order
    np.testing.assert_allclose(
        found.token_logprobs[1:], [expected[i, ids[i + 1]] for i in range(6)], atol=1e-5
    )
    for i, top in enumerate(found.top_logprobs[1:]):
        best = np.sort(expected[i])[::-1][:3]
        np.testing.assert_allclose(sorted(top.values(), reverse=True), best, atol=1e-5)
    assert choice.text.startswith("abc") and found.text_offset[:3] == [0, 1, 2]
    assert len(found.tokens) == 7


def test_echo_alone_scores_the_prompt(served, client):
    made = client.completions.create(
        model=NAME, prompt=[5, 6, 7], max_tokens=0, echo=True, logprobs=1
    )
    assert made.choices[0].finish_reason == "length" and made.usage.completion_tokens == 0
    expected, greedy = served[0].model.log_probs(np.array([[5, 6]]), np.array([[6, 7]]))
    found = made.choices[0].logprobs
    np.testing.assert_allclose(found.token_logprobs[1:], expected[0], atol=1e-5)
    is_best = [
        max(t.values()) == p
        for t, p in zip(found.top_logprobs[1:], found.token_logprobs[1:], strict=True)
    ]
    assert is_best == list(greedy[0])


def test_a_stop_string_ends_the_text_before_it(served, client):
    text = own(served[0].model, "The light", 20)
    stop = text[7:9]
    made = client.completions.create(
        model=NAME, prompt="The light", max_tokens=20, temperature=0, stop=[stop, "never"],
        logprobs=0,
    )  # fmt: skip
    (choice,) = made.choices
    assert choice.text == text[: text.index(stop)] and choice.finish_reason == "stop"
    assert all(offset < len(choice.text) for offset in choice.logprobs.text_offset)


def test_a_bias_and_an_end_of_text(client):
    eot = npgpt.tokenizer("byte").eot_token
    made = client.completions.create(
        model=NAME, prompt="a", max_tokens=5, temperature=0, logit_bias={str(eot): 100}, logprobs=1
    )
    assert made.choices[0].finish_reason == "stop" and made.choices[0].text == ""
    assert made.choices[0].logprobs.tokens == []


def test_the_context_ends_a_text(client):
    made = client.completions.create(model=NAME, prompt="x" * 40, max_tokens=100, seed=1)
    assert made.choices[0].finish_reason == "length"
    assert made.usage.completion_tokens == CONTEXT - 40 + 1


def test_an_empty_prompt_begins_a_text(client):
    assert client.completions.create(model=NAME, prompt="", max_tokens=1).usage.prompt_tokens == 1


def test_models(client):
    assert [model.id for model in client.models.list()] == [NAME]
    assert client.models.retrieve(NAME).owned_by == "npgpt"
    with pytest.raises(openai.NotFoundError, match="tiny-1"):
        client.models.retrieve("gpt-4")


def test_thirty_two_clients_get_their_own_texts(served):
    service, port = served
    prompts = [f"{'word ' * (i % 7)}{i}" for i in range(32)]
    body = dict(model=NAME, max_tokens=6 + 4 % 7, temperature=0.8)

    def ask(i):
        with httpx.Client(timeout=60) as one:
            url = f"http://127.0.0.1:{port}/v1/completions"
            return one.post(url, json={**body, "prompt": prompts[i], "seed": i}).json()

    with ThreadPoolExecutor(32) as pool:
        found = list(pool.map(ask, range(32)))
    for i, prompt in enumerate(prompts):
        count = min(10, CONTEXT - len(prompt) + 1)
        expected = own(service.model, prompt, count, seed=i, temperature=0.8)
        assert found[i]["choices"][0]["text"] == expected
    assert service.engine.load == 0


def test_refusals_have_the_form_of_openais(served):
    url = f"http://127.0.0.1:{served[1]}/v1/completions"
    good = json.dumps({"prompt": "a", "max_tokens": 1}).encode()
    kind = {"content-type": "application/json"}
    cases = [
        (httpx.post(url, content=b"{", headers=kind), 400),
        (httpx.post(url, content=b"x" * 10_000_000, headers=kind), 413),
        (httpx.post(url, content=good, headers={"content-type": "text/plain"}), 415),
        (httpx.post(url, content=good, headers={**kind, "host": "example.com"}), 421),
        (httpx.post(url, json={"prompt": "a", "model": "gpt-4"}), 404),
        (httpx.get(url), 405),
        (httpx.get(url + "/../../etc/passwd"), 404),
    ]
    for answer, status in cases:
        assert answer.status_code == status
        assert answer.json()["error"]["message"]
    assert httpx.post(url, content=good, headers=kind).status_code == 200  # it still answers


def test_an_api_key():
    with running(key="secret") as (_, port):
        url = f"http://127.0.0.1:{port}/v1/models"
        assert httpx.get(url).status_code == 401
        assert httpx.get(url, headers={"authorization": "Bearer other"}).status_code == 401
        assert httpx.get(url, headers={"authorization": "Bearer secret"}).status_code == 200


def raw_request(port, fields, *, buffer=0):
    """Return a socket that has sent a request. `buffer`: bytes that it receives unread."""
    body = json.dumps(fields).encode()
    one = socket.socket()
    if buffer:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    one.connect(("127.0.0.1", port))
    one.sendall(
        b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
    )
    return one


def wait_until(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_ends_its_row(stream):
    with running() as (service, port):
        gate, join = threading.Semaphore(3), service.engine._join

        def join_later(batch):  # no step is made before the client has left
            assert gate.acquire(timeout=30)
            join(batch)

        service.engine._join = join_later
        one = raw_request(port, {**ENDLESS, "prompt": "a", "max_tokens": 40, "stream": stream})
        wait_until(lambda: service.engine.running)
        one.close()
        wait_until(lambda: service.engine.left or not service.engine.load)
        gate.release(100)
        wait_until(lambda: service.engine.load == 0)
        fields, url = {**ENDLESS, "prompt": "a", "max_tokens": 2}, "/v1/completions"
        answer = httpx.post(f"http://127.0.0.1:{port}{url}", json=fields).json()
        assert answer["usage"]["completion_tokens"] == 2


def listen_to_uvicorn(monkeypatch, caplog):
    """Catch the messages of uvicorn, which do not propagate."""
    monkeypatch.setattr(logging.getLogger("uvicorn.error"), "handlers", [caplog.handler])


def test_a_reader_that_does_not_read_is_left(caplog, monkeypatch):
    with running(send_time=0.2, size=33, buffer=4096) as (service, port):
        listen_to_uvicorn(monkeypatch, caplog)
        # some 250 kB of events; the server's own buffer takes 64
        fields = dict(prompt=["a"] * 32, max_tokens=40, stream=True, **ENDLESS)
        slow = raw_request(port, fields, buffer=4096)
        url = f"http://127.0.0.1:{port}/v1/completions"
        answer = httpx.post(url, json={**ENDLESS, "prompt": "b", "max_tokens": 3}, timeout=60)
        assert answer.json()["usage"]["completion_tokens"] == 3
        wait_until(lambda: service.engine.load == 0)
        slow.settimeout(30)
        received = b""
        with suppress(ConnectionResetError):
            while part := slow.recv(1 << 16):
                received += part
        assert b"[DONE]" not in received
        slow.close()
    assert not caplog.records


def test_the_end_of_the_server_ends_all_texts_without_a_word(caplog, monkeypatch):
    """A client that reads is told. One that does not is cut."""
    monkeypatch.setattr(server, "END_TIME", 0.2)
    with running(size=33, buffer=4096) as (service, port):
        listen_to_uvicorn(monkeypatch, caplog)
        steps, join = threading.Semaphore(20), service.engine._join

        def join_until_the_end(batch):
            while not (steps.acquire(timeout=0.01) or service.engine.closed):
                pass
            join(batch)

        monkeypatch.setattr(service.engine, "_join", join_until_the_end)
        fields = dict(max_tokens=40, stream=True, **ENDLESS)
        reader = raw_request(port, fields | dict(prompt="b"))
        slow = raw_request(port, fields | dict(prompt=["a"] * 32), buffer=4096)
        wait_until(lambda: service.engine.load == 33 and not steps._value)
    with reader, slow:
        assert "the server is ending" in reader.makefile().read()
    assert not caplog.records


def test_a_model_of_nans_is_an_error():
    model = tiny_model()
    model.params.ln_f.weight[:] = np.nan
    with running(model) as (_, port):
        url = f"http://127.0.0.1:{port}/v1/completions"
        answer = httpx.post(url, json={"prompt": "a"})
        assert answer.status_code == 500 and "ln_f" in answer.json()["error"]["message"]
        with httpx.stream("POST", url, json={"prompt": "a", "stream": True}) as stream:
            (event, *_) = [line for line in stream.iter_lines() if line]
        assert "ln_f" in json.loads(event.removeprefix("data: "))["error"]["message"]


@pytest.mark.parametrize("said", ["an array of 300,000 bytes", ""])
def test_memory_that_runs_out_ends_a_text_and_not_the_server(said, monkeypatch, capsys):
    def fails(batch):
        raise MemoryError(said)

    with running() as (_, port):
        url, body = f"http://127.0.0.1:{port}/v1/completions", {"prompt": "a", "max_tokens": 1}
        with monkeypatch.context() as patch:
            patch.setattr(Batch, "step", fails)
            answer = httpx.post(url, json=body, timeout=30)
        message = "not enough memory" + (f": {said}" if said else "")
        assert (answer.status_code, answer.json()["error"]["message"]) == (500, message)
        assert httpx.post(url, json=body, timeout=30).status_code == 200
    assert capsys.readouterr().err == ""


def test_ending_the_server_ends_its_texts():
    with running() as (service, port):
        with raw_request(port, {**ENDLESS, "prompt": "a", "max_tokens": 40, "stream": True}) as one:
            one.settimeout(30)
            assert one.recv(1)
            service.engine.close()
    assert not service.engine.thread.is_alive()
    assert service.engine.load == 0


@pytest.mark.parametrize("name", ["_join", "_start"])
def test_a_mistake_in_the_engine_ends_the_waiting_clients_and_not_the_server(
    name, monkeypatch, capsys
):
    with running() as (service, port):

        def fails(*args):
            raise ZeroDivisionError

        url, body = f"http://127.0.0.1:{port}/v1/completions", {"prompt": "a", "max_tokens": 1}
        with monkeypatch.context() as patch:
            patch.setattr(service.engine, name, fails)
            for _ in range(2):
                answer = httpx.post(url, json=body, timeout=30)
                assert answer.status_code == 500
                assert "the server has failed: ZeroDivisionError" in answer.text
        assert httpx.post(url, json=body, timeout=30).status_code == 200
    assert capsys.readouterr().err.count("Traceback") >= 2


def test_a_thread_that_ends_leaves_no_client_waiting(monkeypatch):
    told = []
    monkeypatch.setattr(threading, "excepthook", lambda args: told.append(args.exc_type))
    with running() as (service, port):

        def ends(batch):
            raise SystemExit

        monkeypatch.setattr(service.engine, "_join", ends)
        url = f"http://127.0.0.1:{port}/v1/completions"
        for _ in range(2):
            assert httpx.post(url, json={"prompt": "a"}, timeout=30).status_code == 500
    assert told == [SystemExit]
