"""Views 8 to 10 of npgpt play: a live run, the ravine, and Muon's five steps."""

import asyncio
import json

import numpy as np
import pytest

import npgpt
from npgpt.explain import muon_steps, ravine
from npgpt.play.api import training as api
from parity_tests.support.play_client import Client, decode, given

RUN = {"optimizer": "adamw", "lr": 5e-3, "seed": 7, "steps": 2}
SMALL = npgpt.Config(vocab_size=257, context_length=16, n_layer=1, n_head=2, n_embd=8, tied=False)


@pytest.fixture
def client(monkeypatch):
    """A server whose runs train a smaller model than that of the preset."""
    from dataclasses import replace

    preset = api.defaults("tiny")
    monkeypatch.setattr(api, "defaults", lambda name: replace(preset, config=SMALL))
    made = Client()
    yield made
    made.close()


def events_of(client, **fields):
    *events, result = decode(client.post("train", RUN | fields).body)
    assert result["kind"] == "result", result
    return [event for event in events if event["kind"] == "event"]


def test_a_run_is_live(client):
    start, *events = events_of(client, steps=3)
    assert start["total"] == 3 and "h.0.mlp.c_fc.weight" in start["names"]
    points = [event for event in events if event["kind_of"] == "point"]
    assert [point["step"] for point in points] == [0, 1, 2]
    assert points[0]["sizes"].shape == (len(start["names"]),) and "sizes" not in points[1]
    assert points[0]["lr"] == pytest.approx(5e-5)  # of the warmup
    assert [event["step"] for event in events if event["kind_of"] == "losses"] == [0]
    texts = [event["text"] for event in events if event["kind_of"] == "text"]
    assert len(texts) == 2 and all(text.startswith("The lighthouse") for text in texts)
    again = [event["loss"] for event in events_of(client, steps=3) if "loss" in event]
    assert again == [point["loss"] for point in points]  # the same seed
    other = [event["loss"] for event in events_of(client, steps=3, seed=8) if "loss" in event]
    assert other != again


def test_a_run_ends_when_its_client_leaves(client):
    async def leave():
        gone = asyncio.Event()
        body = json.dumps(RUN | {"steps": 2000}).encode()
        asyncio.get_running_loop().call_later(0.3, gone.set)
        return await client.answer("POST", "/api/train", body, given({}), leaves=gone)

    frames = decode(asyncio.run(leave()).body)
    assert all(frame["kind"] != "result" for frame in frames)
    assert client.call("ravine", factor=1)["kind"] == "result"  # the next one has its turn


def test_the_ravine(client):
    said = client.call("ravine", factor=0.5)
    assert said["paths"].shape == (7, 121, 2)
    for i, (name, rate) in enumerate(zip(said["names"], said["rates"], strict=True)):
        training = npgpt.TrainingConfig(**api.OPTIMIZERS[name], lr=rate, weight_decay=0.0)
        np.testing.assert_array_equal(said["paths"][i], ravine.race(training, 120).path)
    assert client.call("ravine", factor=100)["losses"].max() > 1e100


def test_every_optimizer_arrives_at_its_rate(client):
    losses = client.call("ravine", factor=1)["losses"]
    assert (losses[:, -1] < 0.01 * losses[:, 0]).all()


def test_muons_steps_of_a_gradient(client):
    said = client.call("muon", prompt="The sea", parameter="h.1.mlp.c_fc.weight")
    gradient = client.session.backward[1].gradients.h[1].mlp.c_fc.weight
    np.testing.assert_array_equal(said["singular"], muon_steps.steps(gradient).singular)
    assert said["matrices"].count("h.1.mlp.c_fc.weight") == 1 and said["tokens"] == 7


@pytest.mark.parametrize(
    ("name", "fields", "says"),
    [("train", RUN | {"steps": 0}, "steps is 0"), ("train", RUN | {"optimizer": "lion"}, "lion"),
     ("train", RUN | {"lr": -1}, "lr is -1"), ("train", RUN | {"seed": 1.5}, "seed"),
     ("train", RUN | {"optimizer": "sgd", "lr": 1e3, "steps": 60}, "loss became|norm became"),
     ("ravine", {"factor": 0}, "factor is 0"),
     ("muon", {"prompt": "ab", "parameter": "ln_f.bias"}, "the matrix must be")],
)  # fmt: skip
def test_requests_that_are_refused(client, name, fields, says):
    frame = decode(client.post(name, fields).body)[-1]
    assert frame["kind"] == "error"
    assert any(part in frame["message"] for part in says.split("|")), frame["message"]
    assert "has failed" not in frame["message"]
