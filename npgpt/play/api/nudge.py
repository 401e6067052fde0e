"""View 7: one number of a parameter is nudged, and the slope of the loss measured."""

from typing import Any

import numpy as np

from npgpt import ops
from npgpt.explain import nudge as explained
from npgpt.explain.passes import Passes
from npgpt.explain.step import check_index, find
from npgpt.play.api import backward
from npgpt.play.api.body import Body
from npgpt.play.computation import Job, Reply
from npgpt.play.session import Session

ROWS, COLUMNS = 12, 8  # numbers shown at once


def parameter(body: Body, session: Session, job: Job) -> Reply:
    """Return a part of a parameter and of its gradient, (rows, columns), and where it begins.

    `row`, `column`: of the number that must be in it. A vector is one row.
    """
    found, unread = backward.run(body, session, job)
    name = body.text("parameter", 100)
    values, gradient = (
        np.atleast_2d(find(tree, name)) for tree in (session.model.params, found.gradients)
    )
    starts = [
        max(0, min(body.integer(what, 0, size - 1) - most // 2, size - most))
        for what, size, most in zip(
            ("row", "column"),
            values.shape,
            (ROWS, COLUMNS * (1 if len(values) > 1 else ROWS)),
            strict=True,
        )
    ]
    counts = (ROWS, COLUMNS) if len(values) > 1 else (1, ROWS * COLUMNS)
    part = tuple(slice(start, start + count) for start, count in zip(starts, counts, strict=True))
    shape = find(session.model.params, name).shape
    data = {
        "unread": unread, "read": len(found.targets) + 1, "shape": shape, "start": starts,
        "loss": found.loss,
    }  # fmt: skip
    return Reply(data, {"values": as_float(values[part]), "gradient": as_float(gradient[part])})


def measure(body: Body, session: Session, job: Job) -> Reply:
    """Return the slope at one number, and the losses around it."""
    model = session.require()
    tokens, _ = backward.read_targeted(body, session)
    name = body.text("parameter", 100)
    index = check_index(name, body.get("index"), find(model.params, name).shape)
    key = tuple(tokens)
    if session.passes is None or session.passes[0] != key:
        session.passes = key, Passes(model, tokens, ops=ops)
    found = explained.measure_in(
        session.passes[1], name, index, points=17 if model.size < backward.SMALL else 5,
        progress=lambda done, total: job.report(done, total, "Measuring the loss, layer by layer"),
    )  # fmt: skip
    arrays = {"offsets": found.offsets, "losses": found.losses}
    data: dict[str, Any] = found._asdict() | {"agrees": found.agrees}
    return Reply({key: value for key, value in data.items() if key not in arrays}, arrays)


def as_float(values: Any) -> Any:
    """Return numbers as float32."""
    return np.asarray(values, np.float32)
