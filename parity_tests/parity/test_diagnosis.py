"""Ports with known mistakes, with several, with unknown ones and with none: what is said."""

import numpy as np
import pytest

from npgpt.parity import diagnosis, dump, probe
from npgpt.parity.compute import compute
from npgpt.parity.mistakes import MISTAKES
from npgpt.parity.port import RIGHT

BY_NAME = {mistake.name: mistake for mistake in MISTAKES}
SHORT = "loss", "grad"
PASSES = "act", "logits", "loss", "dact", "grad"
ALL = *PASSES, "logits_again", "cached_logits", "after3"


class Bench:
    """The tiny probe, and the runs of all diagnoses, which are shared."""

    def __init__(self):
        self.probe, self.labs = probe.make(), []

    def dump(self, kinds, port=RIGHT, dtype=np.float32):
        return dump.make(compute(port, self.probe, kinds, dtype=dtype))

    def diagnose(self, kinds, *mistakes, port=RIGHT):
        for name in mistakes:
            port = BY_NAME[name].change(port)
        return diagnosis.diagnose(self.dump(kinds, port), self.probe, labs=self.labs)


def names_of(found):
    """The names of all causes, chains joined by a plus sign."""
    return {" + ".join(one.name for one in chain) for chain in found.causes}


@pytest.fixture(scope="module")
def bench():
    return Bench()


@pytest.mark.slow
def test_every_mistake_is_named(bench):
    """Optimizers and caches with everything, which costs more; the passes without them."""
    wrong = {}
    for mistake in MISTAKES:
        kinds = PASSES if mistake.stage in ("forward", "loss", "backward") else ALL
        found = names_of(bench.diagnose(kinds, mistake.name))
        if found != {mistake.name}:
            wrong[mistake.name] = found
    assert wrong == {}


@pytest.mark.slow
def test_loss_and_gradients_name_what_they_show(bench):
    wrong = {}
    for mistake in MISTAKES:
        found = bench.diagnose(SHORT, mistake.name)
        if not found.agrees and mistake.name not in names_of(found):
            wrong[mistake.name] = names_of(found)
    assert wrong == {}
