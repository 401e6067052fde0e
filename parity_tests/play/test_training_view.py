"""Views 8 to 10 of npgpt play: a live run, the ravine, and Muon's five steps."""

import asyncio
import json
import threading

import numpy as np
import pytest

import npgpt
from npgpt.explain import live, muon_steps, ravine
from npgpt.play.api import training as api
from npgpt.play.api.body import Body
from npgpt.training import schedule
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


def test_the_rate_of_a_run_that_is_under_way(client, monkeypatch):
    """It changes from the next step on, and the request does not wait until the run has ended."""
    changed, point = threading.Event(), live.Live.point

    def wait(self, event):
        if event.step == 2:
            assert changed.wait(20)
        return point(self, event)

    monkeypatch.setattr(live.Live, "point", wait)

    def post(name, fields):
        return client.answer("POST", f"/api/{name}", json.dumps(fields).encode(), given({}))

    async def both():
        run = asyncio.ensure_future(post("train", RUN | {"steps": 6}))
        while client.session.live is None or client.session.live[1].trainer.progress.step < 3:
            await asyncio.sleep(0.001)
        number = client.session.live[0]
        other = await post("train-rate", {"run": number + 1, "lr": 1})
        said = await post("train-rate", {"run": number, "lr": 0.02})
        changed.set()
        return [decode(answer.body) for answer in (await run, said, other)]

    events, said, other = asyncio.run(both())
    assert (said[-1]["running"], other[-1]["running"]) == (True, False)
    [told] = [event for event in events if event.get("kind_of") == "rate"]
    assert (told["step"], told["lr"]) == (3, 0.02)
    rates = [event["lr"] for event in events if event.get("kind_of") == "point"]
    old, new = (
        api.settings(Body(RUN | {"steps": 6, "lr": lr}), client.session).training
        for lr in (RUN["lr"], 0.02)
    )
    assert rates == [schedule.rate_of_step(old if i < 3 else new, i, 6) for i in range(6)]
    assert client.session.live is None
    assert client.call("train-rate", run=0, lr=1)["running"] is False


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
     ("train-rate", {"run": 0, "lr": -1}, "lr is -1"), ("train-rate", {"lr": 1}, "run is missing"),
     ("ravine", {"factor": 0}, "factor is 0"),
     ("muon", {"prompt": "ab", "parameter": "ln_f.bias"}, "the matrix must be")],
)  # fmt: skip
def test_requests_that_are_refused(client, name, fields, says):
    frame = decode(client.post(name, fields).body)[-1]
    assert frame["kind"] == "error"
    assert any(part in frame["message"] for part in says.split("|")), frame["message"]
    assert "has failed" not in frame["message"]
