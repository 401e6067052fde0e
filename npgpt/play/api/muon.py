"""View 10: Muon's five steps."""

from npgpt.explain import gradients, muon_steps
from npgpt.explain.step import find
from npgpt.play.api import backward
from npgpt.play.api.body import Body
from npgpt.play.computation import Job, Reply
from npgpt.play.session import Session


def steps(body: Body, session: Session, job: Job) -> Reply:
    """Return the singular values of a matrix's gradient (6, r): before, and after each step."""
    found, unread = backward.run(body, session, job)
    gradient = find(found.gradients, body.text("parameter", 100))
    data = {
        "unread": unread,
        "tokens": len(found.tokens) + 1,
        "matrices": gradients.matrices(found),
    }
    return Reply(data, {"singular": muon_steps.steps(gradient).singular})
