"""View 6: one step of an optimizer."""

from typing import Any

import numpy as np

from npgpt import ops
from npgpt.config import TrainingConfig
from npgpt.errors import InputError
from npgpt.explain import precision
from npgpt.explain import step as explained
from npgpt.gpt import GPT
from npgpt.play.api.backward import SMALL, read_targeted
from npgpt.play.api.body import Body
from npgpt.play.computation import Job, Reply
from npgpt.play.session import Session

MOST_TOKENS, MOST_EARLIER = 128, 100
SHOWN = 8  # tokens per position
POINTS = 1500  # numbers of a parameter in the picture
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "sgd": {"optimizer": "sgd"},
    "momentum": {"optimizer": "sgd", "momentum": 0.9},
    "nesterov": {"optimizer": "sgd", "momentum": 0.9, "nesterov": True},
    "rmsprop": {"optimizer": "rmsprop", "beta2": 0.99},
    "adam": {"optimizer": "adam"},
    "adamw": {"optimizer": "adamw"},
    "muon": {"optimizer": "muon"},
}


def take(body: Body, session: Session, job: Job) -> Reply:
    """Return one step: moments, update, the loss along it, and probabilities before and after."""
    session.require()
    tokens, unread = read_targeted(body, session, MOST_TOKENS)
    training = TrainingConfig(
        **OPTIMIZERS[body.choice("optimizer", *OPTIMIZERS)],
        lr=body.number("lr", 0, 1e6),
        weight_decay=body.number("weight_decay", 0, 10),
        decay="matrices",
    )
    name = body.text("parameter", 100)
    found = explained.take(
        widen(session.model), tokens, training,
        earlier=body.integer("earlier", 0, MOST_EARLIER),
        fractions=explained.FRACTIONS[:: 1 if session.model.size < SMALL else 2],
        progress=lambda done, total: job.report(done, total, "Forward and backward"),
    )  # fmt: skip
    rows = np.arange(len(found.targets))
    order = np.argsort(-np.maximum(found.before, found.after), -1, kind="stable")[:, :SHOWN]
    gradient, update = explained.find(found.gradients, name), explained.find(found.update, name)
    every = max(1, -(-gradient.size // POINTS))
    largest = np.unravel_index(np.abs(gradient).argmax(), gradient.shape)
    index = tuple(int(i) for i in largest)
    entry = explained.entry(found, name, index)
    data = {
        "unread": unread, "optimizer": found.optimizer.rpartition(", npgpt")[0] + ")",
        "dtype": found.update.wte.weight.dtype.name,
        "steps": found.steps, "loss": found.loss, "predicted": found.predicted,
        "measured": found.measured,
        "rules": [rule._asdict() | {"code": rule.code._asdict()} for rule in found.rules],
        "changes": [change._asdict() for change in found.changes],
        "index": index, "entry": entry._asdict(),
    }  # fmt: skip
    arrays = {
        "tokens": np.asarray(tokens), "targets": found.targets,
        "fractions": found.fractions, "losses": found.losses, "errors": explained.errors(found),
        "before": found.before[rows, found.targets], "after": found.after[rows, found.targets],
        "ids": order, "top_before": np.take_along_axis(found.before, order, -1),
        "top_after": np.take_along_axis(found.after, order, -1),
        "gradient": gradient.ravel()[::every], "update": update.ravel()[::every],
    }  # fmt: skip
    return Reply(finite(data), arrays)


def finite(data: dict[str, Any]) -> dict[str, Any]:
    """Return the data. Raise InputError if a size is not finite, as of a rate that is too large."""
    sizes = [
        value for change in data["changes"] for value in change.values() if isinstance(value, float)
    ]
    if not np.isfinite([*sizes, data["loss"], data["predicted"], data["measured"]]).all():
        raise InputError("the step has numbers that are not finite: choose a lower learning rate")
    return data


def widen(model: GPT) -> GPT:
    """Return a small model in float64, where a difference of losses has more digits."""
    return precision.cast(model, ops=ops) if model.size < SMALL else model
