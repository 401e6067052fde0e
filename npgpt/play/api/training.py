"""View 8: a run of the tiny model, live; optimizers on a ravine; Muon's five steps."""

from dataclasses import replace
from typing import Any

import numpy as np

from npgpt import backends
from npgpt.config import TrainingConfig
from npgpt.explain import live, muon_steps, threads
from npgpt.explain import ravine as explained
from npgpt.explain.step import find
from npgpt.play.api import backward
from npgpt.play.api.body import MAX_SEED, Body
from npgpt.play.api.step import OPTIMIZERS
from npgpt.play.computation import Job, Reply
from npgpt.play.session import Session
from npgpt.preset import defaults

MOST_STEPS, RACE = 2000, 120
# Learning rates with which each is quick on the ravine
RATES = {"sgd": 0.35, "momentum": 0.1, "nesterov": 0.1, "rmsprop": 0.08, "adam": 0.15,
         "adamw": 0.15, "muon": 0.6}  # fmt: skip


def train(body: Body, session: Session, job: Job) -> Reply:
    """Train the tiny model on the bundled text, and emit an event for every step.

    It ends when the client leaves. The model that the page shows is another one.
    """
    run = settings(body, session)
    job.report(0, 0, "Preparing the run")
    here = live.Live(run)
    job.emit({"kind_of": "start", "names": here.names, "total": here.total})
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
    return Reply({})


def settings(body: Body, session: Session) -> Any:
    """Return the settings of the run: those of the preset, with the reader's choices."""
    chosen = OPTIMIZERS[body.choice("optimizer", *OPTIMIZERS)]
    rate, steps = body.number("lr", 0, 1e3), body.integer("steps", 1, MOST_STEPS)
    preset = defaults("tiny")
    key = backends.key_of(session.require().ops)
    training = replace(
        preset.training, **chosen, lr=rate, min_lr=rate / 10, initial_lr=rate / 100, steps=steps,
        seed=body.integer("seed", 0, MAX_SEED), eval_every=50, eval_tokens=1536, sample_tokens=48,
    )  # fmt: skip
    return replace(preset, training=training, ops="numpy" if key == "numpy" else "fused")


def ravine(body: Body, session: Session, job: Job) -> Reply:
    """Return the paths of all optimizers (n, steps + 1, 2), nan where one has diverged."""
    factor = body.number("factor", 0.01, 100)
    paths = np.full((len(RATES), RACE + 1, 2), np.nan)
    losses = np.full((len(RATES), RACE + 1), np.nan)
    for i, (name, rate) in enumerate(RATES.items()):
        training = TrainingConfig(**OPTIMIZERS[name], lr=rate * factor, weight_decay=0.0)
        found = explained.race(training, RACE)
        paths[i, : len(found.path)], losses[i, : len(found.losses)] = found.path, found.losses
    return Reply(
        {"names": list(RATES), "rates": [rate * factor for rate in RATES.values()],
         "hessian": explained.hessian(explained.RAVINE).tolist()},
        {"paths": paths, "losses": losses},
    )  # fmt: skip


def muon(body: Body, session: Session, job: Job) -> Reply:
    """Return the singular values of a matrix's gradient (6, r): before, and after each step."""
    found, _ = backward.run(body, session, job)
    gradient = find(found.gradients, body.text("parameter", 100))
    return Reply({}, {"singular": muon_steps.steps(gradient).singular})
