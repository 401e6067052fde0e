"""View 8: a run of the tiny model, live."""

from dataclasses import replace
from typing import Any

import numpy as np

from npgpt import backends
from npgpt.explain import live, threads
from npgpt.play.api.body import MAX_SEED, Body
from npgpt.play.api.step import OPTIMIZERS
from npgpt.play.computation import Job, Reply
from npgpt.play.session import Session
from npgpt.preset import defaults

MOST_STEPS = 2000


def train(body: Body, session: Session, job: Job) -> Reply:
    """Train the tiny model on the bundled text, and emit an event for every step.

    It ends when the client leaves. The model that the page shows is another one.
    """
    run = settings(body, session)
    job.report(0, 0, "Preparing the run")
    here = live.Live(run, sample_every=run.training.eval_every)
    number = next(session.run_numbers)
    session.live = number, here
    try:
        job.emit({"kind_of": "start", "run": number, "names": here.names, "total": here.total})
        with threads.limit(here.model):
            for event in here.events():
                arrays = {}
                data: dict[str, Any] = {"kind_of": type(event).__name__.lower(), **event._asdict()}
                if isinstance(event, live.Point):
                    sizes = data.pop("sizes")
                    if sizes is not None:
                        arrays["sizes"] = sizes.astype(np.float32)
                    job.report(event.step + 1, here.total, "Training")
                job.emit(data, arrays)
    finally:
        session.live = None
    return Reply({})


def change_rate(body: Body, session: Session, job: Job) -> Reply:
    """Change the learning rate of a run that is under way. An event of the run says from when on.

    `running`: False if it has ended.
    """
    number, rate = body.integer("run", 0, MAX_SEED), body.number("lr", 0, 1e3)
    current = session.live
    if current is None or current[0] != number:
        return Reply({"running": False})
    current[1].change(**rates(rate))
    return Reply({"running": True})


def rates(peak: float) -> dict[str, Any]:
    """Return the settings of the learning rate's curve."""
    return {"lr": peak, "min_lr": peak / 10, "initial_lr": peak / 100}


def settings(body: Body, session: Session) -> Any:
    """Return the settings of the run: those of the preset, with the reader's choices."""
    chosen = OPTIMIZERS[body.choice("optimizer", *OPTIMIZERS)]
    rate, steps = body.number("lr", 0, 1e3), body.integer("steps", 1, MOST_STEPS)
    preset = defaults("tiny")
    key = backends.key_of(session.require().ops)
    training = replace(
        preset.training, **chosen, **rates(rate), steps=steps,
        seed=body.integer("seed", 0, MAX_SEED), eval_every=min(50, max(5, steps // 8)),
        eval_tokens=1536, sample_tokens=48,
    )  # fmt: skip
    return replace(preset, training=training, ops="numpy" if key == "numpy" else "fused")
