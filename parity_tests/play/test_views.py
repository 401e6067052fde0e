"""Views 2 to 4 of npgpt play: writing, attention and the logit lens."""

from threading import Thread

import numpy as np
import pytest

import npgpt
from npgpt.explain import attention, logit_lens, writing
from npgpt.play.api.attention import SMALL, shrink
from npgpt.play.session import Session
from parity_tests.support.play_client import Client, decode

TEXT = "The sea, a rock"
LONG = "0123456789 abcdefghij"  # the context is 16
SETTINGS = {"temperature": 0.9, "top_k": 50, "top_p": 0.95}


@pytest.fixture(scope="module")
def client():
    made = Client()
    yield made
    made.close()


def written(client, tokens, count, seed, drawn=0, **settings):
    fields = dict(tokens=tokens, count=count, seed=seed, drawn=drawn, **SETTINGS | settings)
    *events, result = decode(client.post("write", fields).body)
    assert result["kind"] == "result"
    return [event["token"] for event in events if event["kind"] == "event"]


def test_writing_draws_the_tokens_of_generate(client):
    """And two requests draw the tokens of one: the second continues the stream."""
    prompt, rng = list(TEXT.encode()), npgpt.Generator(7)
    whole = list(npgpt.generate(client.session.model, prompt, 12, **SETTINGS, rng=rng))
    assert written(client, prompt, 12, 7) == whole
    assert written(client, prompt + whole[:5], 7, 7, drawn=5) == whole[5:]
    assert written(client, prompt + whole[:5], 7, 7) != whole[5:]


def test_greedy_writing(client):
    prompt = list(TEXT.encode())
    whole = list(npgpt.generate(client.session.model, prompt, 6))
    assert written(client, prompt, 6, 1, temperature=0) == whole


def test_writing_ends_with_the_text(monkeypatch):
    client = Client()
    client.session.model.params.wte.weight[:] = 0  # all tokens are as likely as token 0
    tokenizer = client.session.tokenizer
    monkeypatch.setattr(tokenizer, "eot_token", 0)
    assert written(client, [5], 9, 1, temperature=0) == [0]
    client.close()


@pytest.mark.parametrize("text", [TEXT, LONG])
def test_reading(client, text):
    said = client.call("read", prompt=text)
    tokens = list(text.encode())[-16:]
    found = writing.reading(client.session.model, tokens, count=10)
    assert said["unread"] == len(text) - len(tokens)
    for name, array in found._asdict().items():
        assert np.array_equal(said[name], array, equal_nan=True)
    assert client.call("encode", prompt=text)["tokens"].tolist() == list(text.encode())


def test_attention(client):
    for layer, head in ((0, 1), (1, 0)):
        said = client.call("attention", prompt=TEXT, layer=layer, head=head)
        found = attention.weights(client.session.model, list(TEXT.encode()), layer)[head]
        assert np.array_equal(said["weights"], found)
        assert np.allclose(said["weights"].sum(-1), 1)
        assert said["tokens"].tolist() == list(TEXT.encode())
    said = client.call("attention", prompt=LONG, layer=0, head=0)
    assert (said["unread"], said["weights"].shape) == (5, (16, 16))


def test_every_head_as_a_small_picture(client):
    said = client.call("attention-overview", prompt=TEXT)
    found = list(attention.every_layer(client.session.model, list(TEXT.encode())))
    assert np.array_equal(said["small"], np.rint(255 * np.stack(found)))


def test_small_pictures_have_the_largest_weight_of_a_tile(rng):
    weights = rng.random((2, 100, 100)).astype(np.float32)
    weights[1, 99, 50] = 1
    small = shrink(weights, SMALL)
    assert small.shape == (2, SMALL, SMALL)
    assert small[1, -1, 50 * SMALL // 100] == 255
    assert small[0, 0, 0] == np.rint(255 * weights[0, :4, :4].max())


def test_logit_lens(client):
    said = client.call("logit-lens", prompt=TEXT)
    found = logit_lens.lens(client.session.model, list(TEXT.encode()), count=5)
    for name, array in found._asdict().items():
        assert np.array_equal(said[name], array, equal_nan=True)


INVALID = {
    "a layer": ("attention", {"layer": 2, "head": 0}, "layer is 2, but must be from 0 to 1"),
    "a head": ("attention", {"layer": 0, "head": -1}, "head is -1, but must be from 0 to 1"),
    "a token": ("write", SETTINGS | {"count": 501}, "count is 501, but must be from 1 to 500"),
    "drawn": ("write", SETTINGS | {"count": 1, "seed": 1}, "drawn is missing"),
}


@pytest.mark.parametrize(("name", "fields", "says"), INVALID.values(), ids=INVALID)
def test_invalid_fields(client, name, fields, says):
    said = client.call(name, prompt="a", **fields)
    assert (said["kind"], said["message"]) == ("error", says)


def test_a_question_waits_for_the_model(client):
    """One that arrives while the model is being loaded."""
    here, asked = client.session, []
    session = Session(lambda report: (here.model, here.tokenizer, "late"))
    question = Thread(target=lambda: asked.append(session.encode(TEXT)))
    question.start()
    session.load()
    question.join()
    assert asked == [list(TEXT.encode())]
