"""Answers of npgpt serve: the texts of tokens, and streams whose client may have left."""

import asyncio

import npgpt
from npgpt.serve import request, response, server
from npgpt.serve.engine import Piece
from parity_tests.support.play_client import byte_model


def test_tokens_that_are_no_text():
    tokenizer = npgpt.tokenizer("byte")
    assert response.token_text(tokenizer, 0xE2) == "bytes:\\xe2"
    assert response.token_text(tokenizer, ord("a")) == "a"


def test_the_loop_runs_between_two_parts_of_a_stream():
    """Otherwise many pieces at once are written to a client that has left, of which asyncio warns
    on standard error."""
    model, tokenizer = byte_model(), npgpt.tokenizer("byte")
    sent, seen = [], []

    async def send(message):
        if message["type"] == "http.response.body":
            assert seen == sent, "the loop has not run since the last part"
            sent.append(message["body"])
            asyncio.get_running_loop().call_soon(seen.append, message["body"])

    async def stream():
        found = request.parse(b'{"prompt": "a", "stream": true}', "tiny-1", model, tokenizer)
        answer = server.Answer(service, found)
        for number in range(9):
            answer.pieces.put_nowait(Piece(0, "a", [], "length" if number == 8 else None))
        await answer.stream({}, None, send)

    service = server.Service(model, tokenizer, "tiny-1", size=1)
    try:
        asyncio.run(stream())
    finally:
        service.engine.close()
    assert len(sent) == 10 and sent[-1] == response.LAST_EVENT
