"""The functions of the views, by address: `(body, session, job) -> Reply`.

Each checks the fields of its body, calls `npgpt.explain`, and answers with numbers.
"""

from collections.abc import Callable

from npgpt.play.api import (
    attention,
    backward,
    logit_lens,
    muon,
    next_token,
    nudge,
    ravine,
    step,
    training,
    writing,
)
from npgpt.play.api.body import Body
from npgpt.play.computation import Job, Reply
from npgpt.play.session import Session

FUNCTIONS: dict[str, Callable[[Body, Session, Job], Reply]] = {
    "next-token": next_token.logits,
    "draws": next_token.draws,
    "encode": writing.encode,
    "read": writing.read,
    "write": writing.write,
    "attention": attention.head,
    "attention-overview": attention.overview,
    "logit-lens": logit_lens.lens,
    "backward": backward.steps,
    "backward-numbers": backward.numbers,
    "backward-outer": backward.outer,
    "step": step.take,
    "parameter": nudge.parameter,
    "nudge": nudge.measure,
    "train": training.train,
    "train-rate": training.change_rate,
    "ravine": ravine.race,
    "muon": muon.steps,
}

# These compute nothing, and need not wait for the computation that is under way
IMMEDIATE = frozenset({"train-rate"})
