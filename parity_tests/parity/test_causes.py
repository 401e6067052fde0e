"""The causes of a port's errors: each known mistake, several at once, none for an unknown one."""

import numpy as np
import pytest

from npgpt.parity import diagnosis, dump, op_by_op, order, probe
from npgpt.parity.budget import Task
from npgpt.parity.causes import Lab, find
from npgpt.parity.compute import compute
from npgpt.parity.mistakes import MISTAKES
from npgpt.parity.port import RIGHT

BY_NAME = {mistake.name: mistake for mistake in MISTAKES}
SHORT = "loss", "grad"
PASSES = "act", "loss", "dact", "grad"
ALL = *PASSES, "after2"
KINDS = {
    "forward": PASSES, "loss": PASSES, "backward": PASSES, "step": ("loss", "grad", "after2"),
    "cache": ("loss", "logits", "cached_logits"),
}  # fmt: skip
TOLD_APART_BY_A_STEP = "head-untied", "head-gradient-missing"
TOGETHER = [
    ("scores-not-scaled", "gelu-exact"),
    ("mask-sees-next-token", "dq-not-scaled"),
    ("variance-of-c-minus-1", "loss-mean-including-ignored"),
    ("softmax-backward-without-sum", "gelu-inner-without-3"),
    ("position-gradient-averaged", "adamw-is-adam"),
    ("gelu-exact", "label-smoothing", "adamw-is-adam"),
    ("layernorm-without-mean-path", "repeated-tokens-overwrite", "adam-eps-inside-sqrt"),
]
UNKNOWN = [  # function, right text, wrong text, and the first tensor that is wrong
    ("embedding:forward", "+ p.wpe[start", "+ 0.9 * p.wpe[start", "act/embedding"),
    ("layernorm:forward", "norm * p.weight", "norm * abs(p.weight) ** 0.9", "act/h.0.ln_1"),
    ("attention:forward", "scores = q @ k.mT", "scores = np.tanh(q @ k.mT)", "act/h.0.attn.probs"),
    ("gelu:forward", "0.5 * x * (1 + t)", "0.5 * x * (1.1 + t)", "act/h.0.mlp.gelu"),
    ("linear_cross_entropy:losses", "np.log(norm", "1.1 * np.log(norm", "loss"),
    ("layernorm:backward", "- via_mean", "- 0.5 * via_mean", "dact/h.1.after_mlp"),
    ("gelu:backward", "dout * slope", "np.clip(dout * slope, -1e-3, 1e-3)", "dact/h.1.mlp.c_fc"),
    ("attention:backward", "dq = dscores @ k", "dq = 1.5 * dscores @ k", "dact/h.1.attn.c_attn"),
    ("embedding:backward", "= dout.sum(0)", "= dout[:2].sum(0)", "grad/wpe.weight"),
    ("adamw:update", "p -= lr /", "p -= lr / step /", "after2/wte.weight"),
]


class Bench:
    """The tiny probe, and the runs of GPT-2 with mistakes, which all tests share."""

    def __init__(self):
        self.probe, self.labs = probe.make(), {}

    def lab(self, own):
        names = tuple(order.sort(own, self.probe.config))
        if names not in self.labs:
            self.labs[names] = Lab(Task(self.probe, names))
        return self.labs[names]

    def compute(self, kinds, port):
        numbers = compute(port, self.probe, kinds, dtype=np.float32)
        return {name: (x.astype(np.float64),) for name, x in numbers.items()}

    def causes(self, kinds, port):
        """The names of the mistakes that reproduce a port; None if it is right."""
        own = self.compute(kinds, port)
        lab = self.lab(own)
        if lab.fits(lab.run(()), own, lab.run(()).budgets):
            return None
        return [{mistake.name for mistake in chain} for chain in find(lab, own)]

    def diagnose(self, kinds, port):
        numbers = compute(port, self.probe, kinds, dtype=np.float32)
        return diagnosis.diagnose(dump.make(numbers), self.probe, labs=[self.lab(numbers)])


def port_of(*names):
    port = RIGHT
    for name in names:
        port = BY_NAME[name].change(port)
    return port


@pytest.fixture(scope="module")
def bench():
    return Bench()


def wrongly_named(bench, mistakes, kinds):
    """Return the mistakes that are not named, or not alone, and the causes in their place."""
    found = {one: bench.causes(kinds, port_of(one.name)) for one in mistakes}
    return {
        one.name: causes
        for one, causes in found.items()
        if causes is not None
        and causes != [{min((one.name, *one.twins))}]
        and one.name not in TOLD_APART_BY_A_STEP
    }


@pytest.mark.slow
@pytest.mark.parametrize("stage", KINDS)
def test_every_mistake_is_named(bench, stage):
    mistakes = [one for one in MISTAKES if one.stage == stage]
    assert wrongly_named(bench, mistakes, KINDS[stage]) == {}


@pytest.mark.slow
def test_loss_and_gradients_name_what_they_show(bench):
    wrong = {}
    for one in MISTAKES:
        if one.stage in ("forward", "loss", "backward"):
            found = bench.causes(SHORT, port_of(one.name))
            if found is not None and {min((one.name, *one.twins))} not in found:
                wrong[one.name] = found
    assert wrong == {}


@pytest.mark.slow
@pytest.mark.parametrize("names", TOGETHER, ids=" and ".join)
def test_mistakes_together_are_named(bench, names):
    assert bench.causes(ALL, port_of(*names)) == [set(names)]


@pytest.mark.slow
@pytest.mark.parametrize(("where", "right", "wrong", "first"), UNKNOWN, ids=lambda x: x)
def test_an_unknown_mistake_has_no_cause_but_a_tensor(bench, where, right, wrong, first):
    found = bench.diagnose(ALL, RIGHT.edit(f"npgpt.ops.{where}", right, wrong))
    assert (found.causes, found.first_wrong.name) == ((), first)
    assert found.between[1] == first


def test_every_wrong_op_is_found(bench):
    """On the port's own inputs, an error is not carried to the ops after it."""
    port = RIGHT.edit("npgpt.ops.attention:forward", "scores = q @ k.mT", "scores = 2 * q @ k.mT")
    port = port.edit("npgpt.ops.gelu:backward", "dout * slope", "dout * slope * slope")
    port = port.edit(
        "npgpt.ops.adamw:update", "p *= 1 - lr * weight_decay", "p *= 1 + lr * weight_decay"
    )
    own = bench.compute(ALL, port)
    found = {one.op for one in op_by_op.wrong_ops(bench.probe, own, "float32")}
    assert found == {"attention", "gelu backward", "clipping or optimizer"}
