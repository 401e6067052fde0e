"""npgpt play: its model, its port, and one line for what is wrong."""

import dataclasses
import os
import socket
import sys
import threading
import webbrowser
from pathlib import Path

import pytest

import npgpt
from npgpt import preset
from npgpt.cli import play
from npgpt.play import server
from npgpt.play.computation import Cancelled, Job
from parity_tests.support.play_client import Client, byte_model, decode


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(play, "compile_for", lambda model: None)


@pytest.fixture
def served(monkeypatch):
    """The functions that give the model to `npgpt play`. Nothing is served."""
    found = []

    def serve_on(self, listening):
        found.append(self.session.prepare)
        listening.close()
        return True

    monkeypatch.setattr(server.Server, "serve_on", serve_on)
    return found


@pytest.fixture
def short(monkeypatch):
    """The model that is trained first is smaller, and trained for three steps."""
    made = preset.defaults("tiny")
    config = dataclasses.replace(made.config, n_layer=1, n_embd=8, context_length=16)
    training = dataclasses.replace(made.training, steps=3, eval_tokens=256)
    settings = dataclasses.replace(made, config=config, training=training, ops="numpy")
    monkeypatch.setattr(preset, "defaults", lambda name: settings)


def silent(done, total, text):
    """Report nothing."""


def test_a_model_is_trained_first(npgpt_, served, short):
    """With the steps reported; the next command finds it."""
    npgpt_("play --no-browser --port 0")
    told = []
    model, tokenizer, name = served[0](lambda *step: told.append(step))
    assert (model.config.n_embd, str(tokenizer)) == (8, "byte")
    assert name == "runs/tiny-1"
    assert [step[:2] for step in told if step[1]] == [(1, 3), (2, 3), (3, 3)]
    assert all("Training a small model first" in text for _, total, text in told if total)
    npgpt_("play --no-browser --port 0")
    model, _, name = served[1](silent)
    assert (model.config.n_embd, Path(name)) == (8, Path("runs/tiny-1/checkpoint.h5"))


def test_training_that_is_interrupted_is_saved(npgpt_, served, short):
    npgpt_("play --no-browser --port 0")

    def leave(done, total, text):
        if done == 2:
            raise Cancelled

    with pytest.raises(npgpt.RunError, match="ended with status 130"):
        served[0](leave)
    npgpt_("play --no-browser --port 0")  # shows it, and says how far it is
    client = Client(prepare=served[1])
    client.session.load()
    said = client.call("model")
    assert (said["name"], said["run"]) == ("runs/tiny-1/checkpoint.h5", [2, 3])
    Path("runs/tiny-1/config.json").unlink()
    assert client.call("model")["run"] == [2, None]
    client.close()


def test_a_checkpoint_that_is_damaged_is_passed_over(npgpt_, served):
    for number, length in ((1, None), (2, 5000)):
        Path(f"runs/tiny-{number}").mkdir(parents=True)
        path = Path(f"runs/tiny-{number}/checkpoint.h5")
        byte_model().save(path)
        path.write_bytes(path.read_bytes()[:length])
        os.utime(path, (number, number))
    said = npgpt_("play --no-browser --port 0")
    assert said.err.startswith("npgpt: the newest run is passed over: runs/tiny-2/checkpoint.h5")
    assert said.err.count("\n") == 1
    assert served[0](silent)[2] == "runs/tiny-1/checkpoint.h5"
    client = Client(prepare=served[0])
    client.session.load()
    assert client.call("model")["run"] is None  # a model without a run
    client.close()
    npgpt_("play --no-browser --model runs/tiny-2/checkpoint.h5", code=2)


def test_the_model_that_is_named(npgpt_, served):
    byte_model().save("model.h5")
    said = npgpt_("play --no-browser --model model.h5 --port 0")
    assert served[0](silent)[2] == "model.h5"
    assert said.out.startswith("The page is http://127.0.0.1:")
    assert said.out.count("\n") == 1


INVALID = {
    "no model": ("--model no.h5", "no.h5"),
    "no weights": ("--model text.txt", "text.txt"),
    "a host": ("--host 0.0.0.0", "host is '0.0.0.0', but must be one of 127.0.0.1, localhost"),
    "a host, and how to reach the page": (
        "--host 192.168.1.5 --port 9000",
        "forward the port: ssh -L 9000:127.0.0.1:9000 HOST, and open http://127.0.0.1:9000/ there",
    ),
    "a port": ("--port 65536", "port is 65536, but must be from 0"),
    "a tokenizer": ("--model model.h5 --tokenizer gpt2", "--tokenizer gpt2 does not fit"),
}


@pytest.mark.parametrize(("flags", "says"), INVALID.values(), ids=INVALID)
def test_invalid_input_is_one_line(npgpt_, served, flags, says):
    Path("text.txt").write_text("a")
    byte_model().save("model.h5")
    said = npgpt_(f"play --no-browser {flags}", code=2)
    assert (said.err.count("\n"), said.out, served) == (1, "", [])
    assert says in said.err


def test_the_next_port_that_is_free(npgpt_, served):
    byte_model().save("model.h5")
    with server.bind("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        said = npgpt_(f"play --no-browser --model model.h5 --port {port}")
    first, second = said.out.splitlines()
    assert first.startswith(f"Port {port} is in use; the page is on port ")
    assert f"http://127.0.0.1:{first.rpartition(' ')[2].rstrip('.')}/" in second


def test_no_port_is_free(monkeypatch):
    monkeypatch.setattr(server, "PORTS", 1)
    with server.bind("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(npgpt.InputError, match=f"no port from {port} to {port} is free"):
            server.bind("127.0.0.1", port)


@pytest.mark.skipif(not socket.has_ipv6, reason="this machine has no IPv6")
def test_ipv6(npgpt_, served):
    byte_model().save("model.h5")
    try:
        server.bind("::1", 0).close()
    except npgpt.InputError:
        pytest.skip("this machine has no address ::1")
    said = npgpt_("play --no-browser --model model.h5 --host ::1 --port 0")
    assert said.out.startswith("The page is http://[::1]:")


@pytest.mark.parametrize("name", ["starlette", "uvicorn"])
def test_without_the_extra(npgpt_, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "npgpt.play.server")
    monkeypatch.delattr("npgpt.play.server")
    for loaded in [one for one in sys.modules if one.startswith(f"{name}.")]:
        monkeypatch.delitem(sys.modules, loaded)
    said = npgpt_("play", code=2)
    assert said.err == (f"npgpt: npgpt play needs the package {name}: pip install 'npgpt[play]'\n")


def test_ctrl_c_is_the_end(npgpt_, monkeypatch):
    def interrupted(self, sockets):
        sockets[0].close()
        raise KeyboardInterrupt

    monkeypatch.setattr(server.Server, "run", interrupted)
    byte_model().save("model.h5")
    npgpt_("play --no-browser --model model.h5 --port 0", code=0)


def test_what_cannot_be_cancelled_does_not_keep_the_process(monkeypatch):
    """The server does not wait for a kernel that is being compiled."""
    release = threading.Event()

    def prepare(report):
        release.wait(10)
        return byte_model(), npgpt.tokenizer("byte"), "runs/tiny-1"

    monkeypatch.setattr(server.Server, "run", lambda self, sockets: None)
    made = server.Server(prepare)
    assert not made.serve_on(None, patience=0.05)
    assert made.runner.worker.thread.daemon
    release.set()
    assert made.runner.close()


def test_a_browser_is_opened_where_there_are_windows(monkeypatch):
    opened = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    monkeypatch.setattr(sys, "platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    play.open_browser("http://127.0.0.1:1/")
    assert opened == []
    monkeypatch.setenv("DISPLAY", ":0")
    play.open_browser("http://127.0.0.1:2/")
    assert opened == ["http://127.0.0.1:2/"]


def test_the_page_hears_how_far_the_model_is(monkeypatch):
    """And then gets it. The model is loaded once the page has heard."""
    model, heard, send = byte_model(), threading.Event(), Job.send

    def prepare(report):
        report(3, 7, "Training")
        assert heard.wait(20)
        return model, npgpt.tokenizer("byte"), "runs/tiny-1"

    def listen(self, kind, data, arrays=None):
        send(self, kind, data, arrays)
        if data.get("text") == "Training":
            heard.set()

    monkeypatch.setattr(Job, "send", listen)
    client = Client(prepare=prepare)
    client.runner.worker.submit(client.session.load)
    *steps, last = decode(client.post("model", {}).body)
    assert {(step["done"], step["total"], step["text"]) for step in steps} >= {(3, 7, "Training")}
    assert (last["kind"], last["name"]) == ("result", "runs/tiny-1")
    client.close()


def test_a_model_that_cannot_be_loaded():
    def prepare(report):
        raise npgpt.RunError("the disk is full")

    client = Client(prepare=prepare)
    client.session.load()
    for name, fields in (("model", {}), ("next-token", {"source": "model", "prompt": "a"})):
        said = client.call(name, **fields)
        assert (said["kind"], said["message"]) == ("error", "the disk is full")
    client.close()
