"""From texts to requests, as lm-evaluation-harness makes them."""

from collections.abc import Iterator

from npgpt.data.tokenizer import Tokenizer
from npgpt.errors import InputError
from npgpt.inference.scoring import Request


def encode_pair(tokenizer: Tokenizer, context: str, continuation: str) -> Request:
    """Return the request to score a continuation, whose first token may begin with a space.

    Both are encoded in one piece, and what follows the context's tokens is predicted. White space
    at the end of the context belongs to the continuation. An empty context becomes the end of a
    text. Raises ValueError if no token is left to predict.
    """
    if not context:
        prefix, ids = end_of_text(tokenizer), tokenizer.encode(continuation)
        request = Request(ids[:1], ids[1:]) if ids[:1] == [prefix] else Request([prefix], ids)
    else:
        known = tokenizer.encode(context.rstrip())
        request = Request(known, tokenizer.encode(context + continuation)[len(known) :])
    if not request.context or not request.continuation:
        raise ValueError("no token is left to predict")
    return request


def rolling_windows(tokenizer: Tokenizer, text: str, length: int) -> Iterator[Request]:
    """Yield requests that predict every token of a text once, with contexts up to `length`.

    The first window begins after the end of a text. The last one is a full window as well: it
    begins earlier, and predicts only the tokens that are left.
    """
    ids = [end_of_text(tokenizer), *tokenizer.encode(text)]
    end = 1
    while end < len(ids):
        before, end = end, min(end + length, len(ids))
        start = max(0, end - 1 - length)
        yield Request(ids[start:before], ids[before:end])


def end_of_text(tokenizer: Tokenizer) -> int:
    """Return the token that stands before the first one. Raise InputError if there is none."""
    if tokenizer.eot_token is None:
        raise InputError(
            f"the tokenizer {tokenizer} has no token for the end of a text, which a text without a "
            "context is read after"
        )
    return tokenizer.eot_token
