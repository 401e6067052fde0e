"""Exercise on the loss: cross-entropy with ignored targets."""

from typing import Any

import numpy as np

from npgpt.arrays import Array
from npgpt.learn import sizes
from npgpt.learn.exercise import Arguments, Case, Exercise, Region
from npgpt.learn.sizes import Sizes, V
from npgpt.ops import attention


def cross_entropy_cases(s: Sizes) -> list[Case]:
    """Return two ignored targets; none; large logits; rows far apart; a target far below."""
    rng = sizes.rng("cross_entropy")
    logits, targets = 2 * sizes.normal(rng, s.B, s.T, s.V), sizes.targets(rng, s)
    every = np.where(targets < 0, 4, targets)
    apart, unlikely = logits + sizes.apart(s.B)[:, None, None], logits.copy()
    unlikely[0, 0, targets[0, 0]] -= 900
    return [
        Case({"logits": logits, "targets": targets}),
        Case({"logits": logits, "targets": every}, about="targets of which none is ignored"),
        Case({"logits": logits + 1000, "targets": targets}, about="logits near 1000"),
        Case({"logits": apart, "targets": targets}, about="rows 2000 apart"),
        Case({"logits": unlikely, "targets": targets}, about="a target with a logit of -900"),
    ]


def cross_entropy_loss(a: Arguments) -> Any:
    """Return the mean over the targets that count."""
    logits, targets = a["logits"].reshape(-1, V), a["targets"].ravel()
    counts = targets >= 0
    logits, targets = logits[counts], targets[counts]
    largest = logits.max(-1, keepdims=True)
    norm = np.log(np.exp(logits - largest).sum(-1)) + largest[:, 0]
    return (norm - logits[np.arange(len(targets)), targets]).mean()


def cross_entropy_summands(a: Arguments) -> dict[str, dict[str, Array]]:
    """Return the two terms of the gradient."""
    counts = (a["targets"] >= 0)[..., None]
    onehot = np.arange(V) == a["targets"][..., None]
    return {
        "dlogits": {
            "the softmax": attention.softmax(a["logits"]) * counts / counts.sum(),
            "-1 at the target": -1.0 * onehot / counts.sum(),
        }
    }


def cross_entropy_regions(a: Arguments) -> dict[str, list[Region]]:
    """Return the ignored positions, the others, and the targets."""
    ignored = (a["targets"] < 0)[..., None]
    return {
        "dlogits": [
            Region("the rows of ignored targets, whose gradient is 0,", ignored),
            Region("the rows of targets that count", ~ignored),
            Region("the target's numbers", np.arange(V) == a["targets"][..., None]),
        ]
    }


CROSS_ENTROPY = Exercise(
    name="cross_entropy",
    title="Cross-entropy with ignored targets",
    results={"cross_entropy": ("loss", "dlogits")},
    axes={"dlogits": "B T V"},
    cases=cross_entropy_cases,
    loss=cross_entropy_loss,
    inputs={"dlogits": "logits"},
    summands=cross_entropy_summands,
    regions=cross_entropy_regions,
    factors="13/15 13 B T V B*T",
)
