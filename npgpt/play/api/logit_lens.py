"""View 4: the next token that each layer would predict."""

from npgpt.explain import logit_lens
from npgpt.play.api.body import Body
from npgpt.play.computation import Job, Reply
from npgpt.play.session import Session

COUNT = 5


def lens(body: Body, session: Session, job: Job) -> Reply:
    """Return the likeliest tokens per layer and position, and the surprise of the next one."""
    tokens, unread = body.read_tokens(session)
    found = logit_lens.lens(session.model, tokens, count=COUNT)
    return Reply({"unread": unread}, found._asdict())
