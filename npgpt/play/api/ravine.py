"""View 9: optimizers on a ravine."""

import numpy as np

from npgpt.config import TrainingConfig
from npgpt.explain import ravine
from npgpt.play.api.body import Body
from npgpt.play.api.step import OPTIMIZERS
from npgpt.play.computation import Job, Reply
from npgpt.play.session import Session

STEPS = 120
# Learning rates with which each is quick on the ravine
RATES = {"sgd": 0.35, "momentum": 0.1, "nesterov": 0.1, "rmsprop": 0.08, "adam": 0.15,
         "adamw": 0.15, "muon": 0.6}  # fmt: skip


def race(body: Body, session: Session, job: Job) -> Reply:
    """Return the paths of all optimizers (n, steps + 1, 2), nan where one has diverged."""
    factor = body.number("factor", 0.01, 100)
    paths = np.full((len(RATES), STEPS + 1, 2), np.nan)
    losses = np.full((len(RATES), STEPS + 1), np.nan)
    for i, (name, rate) in enumerate(RATES.items()):
        training = TrainingConfig(**OPTIMIZERS[name], lr=rate * factor, weight_decay=0.0)
        found = ravine.race(training, STEPS)
        paths[i, : len(found.path)], losses[i, : len(found.losses)] = found.path, found.losses
    return Reply(
        {"names": list(RATES), "rates": [rate * factor for rate in RATES.values()],
         "hessian": ravine.hessian(ravine.RAVINE).tolist()},
        {"paths": paths, "losses": losses},
    )  # fmt: skip
