"""Weights that a port has loaded wrongly: said of the parameters, and not of what follows."""

from dataclasses import replace

import numpy as np
import pytest

from npgpt.model.params import map_named, named
from npgpt.parity import diagnosis, dump, loading, probe, reading, report
from npgpt.parity.compute import compute
from npgpt.parity.port import RIGHT

KINDS = "act", "logits", "loss", "grad", "param"
PROBE = probe.make()
PARAMS = dict(named(PROBE.params))
H = PROBE.config.n_head
C = PROBE.config.n_embd
UNSCALED = RIGHT.edit("npgpt.ops.attention:forward", "q @ k.mT * D**-0.5", "q @ k.mT").edit(
    "npgpt.ops.attention:backward", "keepdims=True)) * D**-0.5", "keepdims=True))"
)
SCORES = "scores-not-scaled"


def by_head(name, w):
    return w.reshape(*w.shape[:-1], 3, H, -1).swapaxes(-2, -3).reshape(w.shape)


def other_order(name, w):
    q, k, v = np.split(w, 3, -1)
    return np.concatenate([k, q, v], -1)


def of_block_0(name, w):
    return PARAMS[f"h.0.{name.split('.', 2)[2]}"]


def of_other_block(name, w):
    return PARAMS[name.replace("h.0", "h.2").replace("h.1", "h.0").replace("h.2", "h.1")]


def of_other_norm(name, w):
    return PARAMS[name.replace("ln_1", "ln_x").replace("ln_2", "ln_1").replace("ln_x", "ln_2")]


def reshaped(name, w):
    return w.reshape(w.shape[::-1]).T


def drawn(name, w):
    return np.random.default_rng(1).normal(0, 0.02, w.shape)


# which parameters, their numbers in the port, the names and the words of the report
CASES = {
    "reshaped": (
        lambda n, w: n[:2] == "h." and w.ndim == 2,
        reshaped,
        8,
        "reshaped from (in, out) to (out, in) in place of transposed",
    ),
    "square": (lambda n, w: n.endswith("attn.c_proj.weight"), lambda n, w: w.T, 2, "transposed"),
    "order of q, k, v": (
        lambda n, w: n.endswith("c_attn.bias"), other_order, 2, "q, k, v are k, q, v of the probe",
    ),
    "by head": (
        lambda n, w: "c_attn" in n, by_head, 4,
        "columns in the order (H, 3, D) in place of (3, H, D)",
    ),
    "one block": (
        lambda n, w: n[:3] == "h.1", of_block_0, 12,
        "the numbers of the same parameter of h.0",
    ),
    "no bias": (lambda n, w: n == "ln_f.bias", lambda n, w: 0 * w, 1, "0 everywhere: not loaded"),
    "no gain": (
        lambda n, w: n == "ln_f.weight", lambda n, w: 0 * w + 1, 1, "1 everywhere: not loaded",
    ),
    "norms": (
        lambda n, w: n.endswith("ln_1.bias"), of_other_norm, 2,
        "the numbers of ln_2.bias of the same block",
    ),
    "shifted": (
        lambda n, w: n == "wpe.weight", lambda n, w: np.concatenate([w[1:], 0 * w[:1]]), 1,
        "shifted: row i is row i + 1 of the right ones",
    ),
    "float16": (
        lambda n, w: w.ndim == 2, lambda n, w: w.astype(np.float16), 10, "rounded to float16",
    ),
    "both": (
        lambda n, w: n == "h.0.attn.c_proj.weight", lambda n, w: w.T.astype(np.float16), 1,
        "transposed, rounded to float16",
    ),
    "keys alone": (
        lambda n, w: n == "h.0.attn.c_attn.bias",
        lambda n, w: np.concatenate([w[:C], 0 * w[:C], w[2 * C :]]), 1, "k is 0: not loaded",
    ),
    "queries": (
        lambda n, w: n == "h.1.attn.c_attn.weight",
        lambda n, w: np.concatenate([w[:, :C].T, w[:, C:]], 1), 1, "q is transposed",
    ),
    "a factor": (
        lambda n, w: n == "wte.weight", lambda n, w: w * 10**0.5, 1,
        "the right numbers times 3.162",
    ),
    "a few": (
        lambda n, w: n == "wte.weight", lambda n, w: w + (np.arange(len(w)) == 3)[:, None], 1,
        "10 of 290 numbers differ",
    ),
    "a step": (
        lambda n, w: n == "ln_f.weight", lambda n, w: w + 0.01 * np.sign(np.sin(w * 1e4)), 1,
        "close to the right numbers: dumped after a step of the optimizer?",
    ),
    "drawn": (
        lambda n, w: n == "h.0.mlp.c_fc.weight", drawn, 1, "no numbers of the probe: not loaded?",
    ),
}  # fmt: skip


def load(where, change):
    """Return the probe as a port has loaded it, and the names of what is wrong."""
    wrong = [name for name, w in PARAMS.items() if where(name, w)]
    made = map_named(
        PROBE.params, lambda n, w: change(n, w).astype(w.dtype) if n in wrong else w.copy()
    )
    return replace(PROBE, params=made), wrong


def diagnose(port, tensors):
    return diagnosis.diagnose(dump.make(tensors), port)


@pytest.mark.parametrize("case", CASES)
def test_what_was_loaded(case):
    where, change, count, says = CASES[case]
    made, wrong = load(where, change)
    own = {f"param/{name}": (w,) for name, w in named(made.params)}
    (found,) = loading.explain(wrong, own, PROBE)
    assert (len(found.names), found.says) == (count, says)


@pytest.mark.parametrize(
    ("case", "entry"),
    [
        ("reshaped", "weights-reshaped-not-transposed"),
        ("order of q, k, v", "qkv-order-kqv"),
        ("one block", "first-block-in-all-places"),
        ("drawn", None),
    ],
)
def test_the_rest_is_right_with_the_parameters_as_loaded(case, entry):
    where, change, _, says = CASES[case]
    made, wrong = load(where, change)
    found = diagnose(PROBE, compute(RIGHT, made, KINDS, dtype=np.float32))
    assert {one.name for one in found.findings if not one.is_right} == {f"param/{n}" for n in wrong}
    assert [[one.name for one in chain] for chain in found.causes] == ([[entry]] if entry else [])
    text = report.text(found)
    assert f": {says}\n" in text and "other tensors, given the port's own parameters" in text
    assert "no known mistake" not in text and "wrong, given" not in text


def test_blocks_in_reverse_order_are_not_taken_for_each_other():
    made, _ = load(lambda n, w: n[:2] == "h.", of_other_block)
    found = diagnose(PROBE, compute(RIGHT, made, KINDS, dtype=np.float32))
    assert [one.names[0] for one in found.loaded] == ["h.0.ln_1.weight", "h.1.ln_1.weight"]
    assert [chain[0].name for chain in found.causes] == ["blocks-in-reverse-order"]


def test_another_mistake_is_named_too():
    made, _ = load(*CASES["one block"][:2])
    found = diagnose(PROBE, compute(UNSCALED, made, KINDS, dtype=np.float32))
    names = [[one.name for one in chain] for chain in found.causes]
    assert names == [["first-block-in-all-places", SCORES]]
    made, _ = load(*CASES["drawn"][:2])
    found = diagnose(PROBE, compute(UNSCALED, made, KINDS, dtype=np.float32))
    assert [[one.name for one in chain] for chain in found.causes] == [[SCORES]]
    text = report.text(found)
    assert ": no numbers of the probe: not loaded?\ngiven the port's own parameters:\n" in text


def test_a_head_that_is_neither_tied_nor_loaded():
    made = reading.untie(PROBE)
    made.params.lm_head.weight[...] = drawn("", made.params.lm_head.weight)
    found = diagnose(PROBE, compute(RIGHT, made, KINDS, dtype=np.float32))
    assert [one.name for one in found.findings if not one.is_right] == ["param/lm_head.weight"]
    assert "loaded  lm_head.weight: no numbers of the probe: not loaded?" in report.text(found)


def with_exchanged_names(tensors):
    """Return the tensors of a port that calls its queries keys, and its keys queries."""
    split = {}
    for name, x in tensors.items():
        if "c_attn" in name:
            for part, piece in zip("kqv", np.split(x, 3, -1), strict=True):
                split[name.replace("c_attn", f"{part}_proj")] = piece
        else:
            split[name] = x
    return split


def test_names_that_are_exchanged_alone_are_no_mistake():
    """Values decide."""
    tensors = compute(RIGHT, PROBE, ("loss", "grad", "param"), dtype=np.float32)
    found = diagnose(PROBE, with_exchanged_names(tensors))
    (line,) = (one for one in report.text(found).splitlines() if "has the numbers of" in one)
    assert found.agrees and line.endswith(", and 7 more like it")


def test_names_that_are_exchanged_are_none_either_beside_another_mistake():
    """Fewer ops are wrong if values decide."""
    tensors = compute(UNSCALED, PROBE, KINDS, dtype=np.float32)
    found = diagnose(PROBE, with_exchanged_names(tensors))
    assert [[one.name for one in chain] for chain in found.causes] == [[SCORES]]
    assert found.loaded == () and {one.op for one in found.wrong_ops} == {"attention"}
