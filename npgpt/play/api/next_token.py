"""View 1: the logits of the next token, and draws from its distribution.

The page computes the distribution from the logits, so that a slider needs no request. Draws are
npgpt's: the n-th is that of `npgpt.Generator(seed)`, and the first one the token of npgpt generate.
"""

from typing import Any

import numpy as np

from npgpt.inference import sampling
from npgpt.play.api.body import Body
from npgpt.play.computation import Job, Reply
from npgpt.play.session import Session
from npgpt.rng import Generator

MAX_DRAWS = 10_000
# Sebastian Raschka, Build a Large Language Model (from Scratch), chapter 5
BOOK_WORDS = "closer", "every", "effort", "forward", "inches", "moves", "pizza", "toward", "you"
BOOK_LOGITS = np.array([4.51, 0.89, -1.90, 6.75, 1.63, -1.62, -1.89, 6.28, 1.79], np.float32)


def logits(body: Body, session: Session, job: Job) -> Reply:
    """Return the logits (V,) of the token after a prompt; or those of the book's nine words."""
    if body.choice("source", "model", "book") == "book":
        return Reply({"words": BOOK_WORDS, "unread": 0}, {"logits": BOOK_LOGITS})
    tokens = body.tokens(session)
    found = session.next_logits(tokens)
    unread = max(0, len(tokens) - session.model.config.context_length)
    return Reply({"unread": unread}, {"logits": found, "tokens": np.asarray(tokens, np.int32)})


def draws(body: Body, session: Session, job: Job) -> Reply:
    """Return `count` tokens (count,) drawn from the distribution, in the order of the draws."""
    book = body.choice("source", "model", "book") == "book"
    settings = read_settings(body)
    count = body.integer("count", 1, MAX_DRAWS)
    rng = Generator(body.integer("seed", 0, 2**53 - 1))
    found = BOOK_LOGITS if book else session.next_logits(body.tokens(session))
    if settings["temperature"] == 0:
        return Reply({}, {"drawn": np.full(count, found.argmax(), np.int32)})
    probs = sampling.probabilities(found[None], **settings)
    drawn = np.empty(count, np.int32)
    for i in range(count):
        drawn[i] = rng.multinomial(probs)[0]
        job.report(i + 1, count, "Drawing")
    return Reply({}, {"drawn": drawn})


def read_settings(body: Body) -> dict[str, Any]:
    """Return temperature, top_k and top_p. The last two may be null."""
    return sampling.check(*map(body.get, ("temperature", "top_k", "top_p")))
