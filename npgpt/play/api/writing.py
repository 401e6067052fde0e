"""View 2: a text is written token by token, and read: the surprise of each, its alternatives."""

import numpy as np

from npgpt.explain import writing
from npgpt.inference.generate import generate
from npgpt.play.api.body import MAX_SEED, MAX_TEXT, Body
from npgpt.play.api.next_token import read_settings
from npgpt.play.computation import Job, Reply
from npgpt.play.session import Session
from npgpt.rng import Generator

ALTERNATIVES = 10
MAX_NEW = 500  # tokens of one request


def encode(body: Body, session: Session, job: Job) -> Reply:
    """Return the tokens (T,) of a text."""
    return Reply(
        {}, {"tokens": np.asarray(session.encode(body.text("prompt", MAX_TEXT)), np.int32)}
    )


def read(body: Body, session: Session, job: Job) -> Reply:
    """Return the surprise of each token, and the likeliest tokens at each position and after all.

    `unread`: how many tokens come before the context; they have no numbers.
    """
    tokens, unread = body.read_tokens(session)
    found = writing.reading(session.model, tokens, count=ALTERNATIVES)
    return Reply({"unread": unread}, found._asdict())


def write(body: Body, session: Session, job: Job) -> Reply:
    """Emit `count` new tokens, one event each, as npgpt generate draws them.

    `drawn`: how many of the last tokens were drawn with this seed already. The stream continues
    after them, so that two requests write what one would.
    """
    model, settings = session.require(), read_settings(body)
    tokens = body.tokens(session)
    count = body.integer("count", 1, MAX_NEW)
    rng = Generator(body.integer("seed", 0, MAX_SEED))
    if settings["temperature"] > 0:  # a draw takes as many random numbers as there are tokens
        even = np.ones((1, model.config.vocab_size), np.float32)
        for _ in range(body.integer("drawn", 0, MAX_TEXT)):
            job.check()
            rng.multinomial(even)
    eos = session.tokenizer.eot_token
    for done, token in enumerate(generate(model, tokens, count, **settings, eos_id=eos, rng=rng)):
        job.emit({"token": token})
        job.report(done + 1, count, "Writing")
        if token == eos:
            break
    return Reply({})
