"""Requests that npgpt serve refuses."""

import json

import pytest

import npgpt
from npgpt.errors import InputError
from npgpt.serve import request
from parity_tests.support.play_client import byte_model

BAD = {
    "no JSON": b"{",
    "a list": b"[]",
    "deep": b"[" * 100_000,
    "an unknown field": {"promt": "a"},
    "another model": {"model": "gpt-4"},
    "a number as prompt": {"prompt": 3},
    "an empty list": {"prompt": []},
    "a mixture": {"prompt": ["a", 3]},
    "a token outside": {"prompt": [257]},
    "half a character": b'{"prompt": "\\ud800"}',
    "too long a prompt": {"prompt": "x" * (17)},
    "too many prompts": {"prompt": ["a"] * 129},
    "too many choices": {"prompt": ["a"] * 65, "n": 2},
    "no choice": {"n": 0},
    "best_of": {"best_of": 2},
    "best_of that is no number": {"best_of": True},
    "a penalty that is no number": {"presence_penalty": False},
    "n that is no number": {"n": True},
    "a seed that is no number": {"seed": False},
    "suffix": {"suffix": "a"},
    "a penalty": {"presence_penalty": 0.5},
    "a temperature": {"temperature": -1},
    "nan": b'{"prompt": "a", "temperature": NaN}',
    "top_p": {"top_p": 0},
    "top_k": {"top_k": 0},
    "no tokens": {"max_tokens": 0},
    "a text as number": {"max_tokens": "5"},
    "log-probabilities": {"logprobs": 21},
    "an empty stop": {"stop": ""},
    "many stops": {"stop": ["a"] * 17},
    "a bias": {"logit_bias": {"1": 101}},
    "a bias of a name": {"logit_bias": {"a": 1}},
    "a bias outside": {"logit_bias": {"999": 1}},
    "a seed": {"seed": -1},
    "stream": {"stream": 1},
    "stream_options": {"stream_options": 1},
}  # fmt: skip


@pytest.mark.parametrize("body", BAD.values(), ids=BAD)
def test_an_invalid_request_is_one_line(body):
    content = body if isinstance(body, bytes) else json.dumps({"prompt": "a", **body}).encode()
    with pytest.raises(InputError) as error:
        request.parse(content, "tiny-1", byte_model(), npgpt.tokenizer("byte"))
    assert "\n" not in str(error.value)
