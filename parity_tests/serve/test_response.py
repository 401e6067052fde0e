"""The texts of tokens in npgpt serve's answers."""

import npgpt
from npgpt.serve import response


def test_tokens_that_are_no_text():
    tokenizer = npgpt.tokenizer("byte")
    assert response.token_text(tokenizer, 0xE2) == "bytes:\\xe2"
    assert response.token_text(tokenizer, ord("a")) == "a"
