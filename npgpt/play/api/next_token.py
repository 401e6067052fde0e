"""View 1: the logits of the next token, and draws from its distribution.

The page computes the distribution from the logits, so that a slider needs no request. Draws are
npgpt's: the n-th is that of `npgpt.Generator(seed)`, and the first one the token of npgpt generate.
"""

from typing import Any

import numpy as np

from npgpt.explain import next_token
from npgpt.inference import sampling
from npgpt.play.api.body import MAX_SEED, Body
from npgpt.play.computation import Job, Reply
from npgpt.play.session import Session
from npgpt.rng import Generator

MAX_DRAWS = 10_000
AT_A_TIME = 20  # draws between two reports


def logits(body: Body, session: Session, job: Job) -> Reply:
    """Return the logits (V,) of the token after a prompt; or those of the book's nine words."""
    if body.choice("source", "model", "book") == "book":
        return Reply({"words": next_token.BOOK_WORDS}, {"logits": next_token.BOOK_LOGITS})
    tokens, unread = body.read_tokens(session)
    found = session.next_logits(tokens)
    return Reply({"unread": unread}, {"logits": found, "tokens": np.asarray(tokens, np.int32)})


def draws(body: Body, session: Session, job: Job) -> Reply:
    """Return `count` tokens (count,) drawn from the distribution, in the order of the draws."""
    is_book = body.choice("source", "model", "book") == "book"
    settings = read_settings(body)
    count = body.integer("count", 1, MAX_DRAWS)
    rng = Generator(body.integer("seed", 0, MAX_SEED))
    if is_book:
        found = next_token.BOOK_LOGITS
    else:
        found = session.next_logits(body.read_tokens(session)[0])
    if settings["temperature"] == 0:
        return Reply({}, {"drawn": np.full(count, found.argmax(), np.int32)})
    probs = sampling.probabilities(found[None], **settings)[0]
    drawn = np.empty(count, np.int32)
    for first in range(0, count, AT_A_TIME):
        job.report(first, count, "Drawing")
        part = drawn[first : first + AT_A_TIME]
        part[:] = next_token.draws(probs, len(part), rng)
    return Reply({}, {"drawn": drawn})


def read_settings(body: Body) -> dict[str, Any]:
    """Return temperature, top_k and top_p. The last two may be null."""
    names = "temperature", "top_k", "top_p"
    settings = sampling.Sampling(*map(body.get, names))
    return {name: getattr(settings, name) for name in names}
