"""View 1 of npgpt play: the logits of the next token, and the draws."""

import numpy as np
import pytest

import npgpt
from parity_tests.support.play_client import Client

SETTINGS = {"temperature": 0.7, "top_k": 20, "top_p": 0.9}


@pytest.fixture(scope="module")
def client():
    made = Client()
    yield made
    made.close()


def test_the_model(client):
    said = client.call("model")
    assert (said["name"], said["tokenizer"], said["end_of_text"]) == ("runs/tiny-1", "byte", 256)
    assert said["parameters"] == client.session.model.size
    assert said["config"]["context_length"] == 16
    assert said["lengths"].tolist() == [1] * 256 + [len("<|endoftext|>")]
    assert bytes(said["text"][:256]) == bytes(range(256))


def test_logits(client):
    said = client.call("next-token", source="model", prompt="The sea")
    model = client.session.model
    assert said["tokens"].tolist() == list(b"The sea")
    assert np.array_equal(said["logits"], model.next_logits([list(b"The sea")])[0])
    assert said["unread"] == 0


def test_a_prompt_beyond_the_context(client):
    said = client.call("next-token", source="model", prompt="0123456789 abcdefghij")
    read = list(b"56789 abcdefghij")
    assert said["unread"] == 5
    assert np.array_equal(said["logits"], client.session.model.next_logits([read])[0])


@pytest.mark.parametrize("settings", [SETTINGS, dict.fromkeys(SETTINGS) | {"temperature": 3.0}])
def test_the_first_draw_is_the_token_of_generate(client, settings):
    for seed in range(5):
        rng = npgpt.Generator(seed)
        (token,) = npgpt.generate(client.session.model, list(b"The sea"), 1, **settings, rng=rng)
        said = client.call(
            "draws", source="model", prompt="The sea", seed=seed, count=3, **settings
        )
        assert said["drawn"][0] == token
        assert len(said["drawn"]) == 3


def test_the_draws_of_the_book(client):
    """Chapter 5: 1,000 draws from nine words, with torch.manual_seed(123)."""
    settings = {"temperature": 1.0, "top_k": None, "top_p": None}
    said = client.call("draws", source="book", seed=123, count=1000, **settings)
    words = client.call("next-token", source="book")["words"]
    counts = dict(zip(words, np.bincount(said["drawn"], minlength=9).tolist(), strict=True))
    assert counts == {
        "closer": 73, "every": 0, "effort": 0, "forward": 582, "inches": 2, "moves": 0, "pizza": 0,
        "toward": 343, "you": 0,
    }  # fmt: skip


def test_temperature_0_draws_nothing(client):
    said = client.call(
        "draws", source="book", seed=1, count=9, temperature=0, top_k=None, top_p=None
    )
    assert said["drawn"].tolist() == [3] * 9


INVALID = {
    "no source": ({"source": "x"}, "source is 'x', but must be one of model, book"),
    "no prompt": ({"prompt": None}, "prompt is None, but must be a text"),
    "an empty prompt": ({"prompt": ""}, "the prompt is empty"),
    "a long prompt": ({"prompt": "a" * 20_001}, "prompt has 20,001 characters"),
    "half a character": ({"prompt": "\ud800"}, "prompt must be a text of whole characters"),
    "a text": ({"temperature": "1"}, "temperature is '1', but must be a finite number"),
    "a negative temperature": ({"temperature": -1}, "temperature is -1"),
    "no top_k": ({"top_k": 0}, "top_k is 0, but must be at least 1"),
    "no top_p": ({"top_p": 2}, "top_p is 2, but must be in (0, 1]"),
    "many draws": ({"count": 10**9}, "count is 1000000000, but must be from 1 to 10000"),
    "no seed": ({"seed": 1.5}, "seed is 1.5, but must be an integer"),
    "tokens": ({"tokens": [1, 257]}, "a token is 257, but must be from 0 to 256"),
    "no tokens": ({"tokens": []}, "tokens must be a list of 1 to 20,000 token ids"),
}


@pytest.mark.parametrize(("fields", "says"), INVALID.values(), ids=INVALID)
def test_invalid_fields(client, fields, says):
    valid = {"source": "model", "prompt": "a", "seed": 1, "count": 1}
    said = client.call("draws", **valid | SETTINGS | fields)
    assert said["kind"] == "error"
    assert said["message"].startswith(says)
