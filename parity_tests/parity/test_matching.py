"""Tensors of ports matched with npgpt's: by value, by name, in every layout."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional

from npgpt.errors import InputError
from npgpt.gpt import GPT
from npgpt.model import params
from npgpt.model.params import named
from npgpt.parity import probe as probes
from npgpt.parity.dump import Dump
from npgpt.parity.matching import match
from npgpt.quantized_matrix import from_bfloat16, to_bfloat16
from npgpt.testing import capture
from parity_tests.support.matched import PARAMS, PROBE, H, check, dump_of
from parity_tests.support.port_names import CONVENTIONS
from reference.gpt2 import GPT2, Config


@pytest.fixture(scope="module")
def grads():
    model = GPT.from_params(PROBE.config, PROBE.params, ops="numpy")
    _, found = model.loss_and_gradients(PROBE.tokens, PROBE.targets)
    return {name: array.copy() for name, array in named(found)}


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_lively_weights_and_their_gradients(convention, grads):
    found = match(dump_of(convention, grad=grads, param=PARAMS), PROBE)
    check(found, "param", PARAMS)
    check(found, "grad", grads)
    assert not found.alternatives


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_gradients_alone(convention, grads):
    found = match(dump_of(convention, grad=grads), PROBE)
    check(found, "grad", grads)


@pytest.mark.parametrize("kinds", [("param", "grad"), ("grad",)], ids=" and ".join)
def test_blocks_that_are_counted_from_1(kinds, grads):
    """Activations too: the residual stream has no parameters that tell its block."""
    numbers = {"param": PARAMS, "grad": grads}
    tensors = {f"{kind}/{name}": x for kind in kinds for name, x in numbers[kind].items()}
    for block in range(2):
        for layer in ("ln_1", "resid_mid"):
            value = np.full((*PROBE.tokens.shape, PROBE.config.n_embd), block)
            tensors[f"act/h.{block}.{layer}"] = value
    counted = {re.sub(r"h\.(\d)", lambda m: f"block{int(m[1]) + 1}", name): x
               for name, x in tensors.items()}  # fmt: skip
    found = match(Dump(counted), PROBE)
    for kind in kinds:
        check(found, kind, numbers[kind])
    for block in range(2):
        assert (found.tensors[f"act/h.{block}.ln_1"] == block).all()
        assert (found.tensors[f"act/h.{block}.after_attn"] == block).all()
    assert not found.unused and "has the numbers" not in "".join(found.notes)


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_initial_weights(convention):
    model = GPT(PROBE.config, seed=3, ops="numpy")
    initial = dict(named(model.params))
    probe = probes.of_model(model)
    found = match(dump_of(convention, param=initial, grad=PARAMS), probe)
    check(found, "param", initial)
    check(found, "grad", PARAMS)


def test_a_pytorch_module_that_was_captured():
    """Every name of named_modules and their inputs, and tied matrices that are saved twice."""
    model = GPT2(Config(**{k: v for k, v in vars(PROBE.config).items()}))
    tied = torch.nn.Linear(10, 29, bias=False)
    model.load_state_dict({name: torch.from_numpy(x.copy()) for name, x in PARAMS.items()})
    tied.weight = model.wte.weight
    model.lm_head = tied
    tokens, targets = map(torch.from_numpy, (PROBE.tokens, PROBE.targets))
    with capture(model) as dump:
        logits = model(tokens)
        functional.cross_entropy(logits.flatten(0, 1), targets.flatten()).backward()
    dump.tensors.update({f"param/{name}": x.numpy() for name, x in model.state_dict().items()})
    found = match(dump, PROBE)
    expected = traced()
    for name, array in found.tensors.items():
        if name in expected:  # float32 of two programs
            np.testing.assert_allclose(array, expected[name], rtol=2e-3, atol=2e-5, err_msg=name)
    missing = {name.partition(".")[2] for name in expected.keys() - found.tensors.keys()}
    assert missing <= {"0.attn.probs", "1.attn.probs", ""}
    unused = {name.partition("/")[2] for name in found.unused}  # or the same tensors once more
    assert unused == {"lm_head.weight", "wte", "wpe"} | {
        f"h.{i}.{layer}" for i in range(2) for layer in ("attn", "mlp")
    }
    assert found.unknown == []
    assert found.notes == ["weights are (in, out)", "q, k, v fused"]


def traced():
    """Activations and gradients that npgpt computes with the probe, by the names of a match."""
    model = GPT.from_params(PROBE.config, PROBE.params, ops="numpy")
    found = model.trace(PROBE.tokens, PROBE.targets)
    del found["loss"]
    acts = {f"act/{name}": x for name, x in found.items() if not name.endswith(".grad")}
    dacts = {f"dact/{name[:-5]}": x for name, x in found.items() if name.endswith(".grad")}
    acts["logits"] = acts.pop("act/logits")
    return acts | dacts


def stacked(kind):
    """Activations as llm.c keeps them: stacked over the layers."""
    own_names = {"ln_1": "ln1", "attn.c_attn": "qkv", "attn.probs": "att", "attn.heads": "atty",
             "attn.c_proj": "attproj", "after_attn": "residual2", "ln_2": "ln2", "mlp.c_fc": "fch",
             "mlp.gelu": "fch_gelu", "mlp.c_proj": "fcproj", "after_mlp": "residual3"}  # fmt: skip
    all_of = traced()
    found = {f"{kind}/encoded": all_of[f"{kind}/embedding"], f"{kind}/lnf": all_of[f"{kind}/ln_f"]}
    for own, theirs in own_names.items():
        layers = [all_of[f"{kind}/h.{i}.{own}"] for i in range(2)]
        found[f"{kind}/{theirs}"] = np.stack(layers)
    return found, {name: x for name, x in all_of.items() if name.startswith(f"{kind}/h.")}


def by_head(kind):
    """Queries, keys, values and heads as (B, H, T, D); positions before rows; two axes in one."""
    all_of, found, expected = traced(), {}, {}
    B, T = PROBE.tokens.shape
    for name, x in all_of.items():
        if not name.startswith(f"{kind}/"):
            continue
        if name.endswith("c_attn"):
            for part, third in zip("qkv", np.split(x, 3, -1), strict=True):
                found[name.replace("c_attn", part)] = third.reshape(B, T, H, -1).swapaxes(1, 2)
        elif name.endswith("heads"):
            found[name] = x.reshape(B, T, H, -1).swapaxes(1, 2)
        elif name.endswith("probs"):
            found[name] = x.reshape(B * H, T, T)
        elif name.endswith("ln_1"):
            found[name] = x.swapaxes(0, 1)
        elif name.endswith(("gelu", "c_fc")):
            found[name] = x.reshape(B * T, -1)
        else:
            found[name] = x
        expected[name] = x
    return found, expected


@pytest.mark.parametrize("kind", ["act", "dact"])
@pytest.mark.parametrize("layout", [stacked, by_head])
def test_activations_in_other_layouts(layout, kind):
    tensors, expected = layout(kind)
    expected = {name: x for name, x in expected.items() if "logits" not in name}
    found = match(Dump({n: x for n, x in tensors.items() if "logits" not in n}), PROBE)
    for name, array in expected.items():
        np.testing.assert_array_equal(found.tensors[name], array, err_msg=name)
    assert not found.alternatives and not found.unused


def test_activations_follow_the_columns_of_their_parameter():
    """GPT-NeoX: the values of the parameters tell how queries, keys and values are kept."""
    tensors = dump_of("GPT-NeoX", param=PARAMS).tensors
    tensors = {name.replace("query_key_value", "qkv"): x for name, x in tensors.items()}
    x = traced()["act/h.1.attn.c_attn"]
    tensors["act/layers.1.attention.qkv"] = (
        x.reshape(3, 9, 3, H, -1).swapaxes(2, 3).reshape(x.shape)
    )
    found = match(Dump(tensors), PROBE)
    np.testing.assert_array_equal(found.tensors["act/h.1.attn.c_attn"], x)
    assert "q, k, v fused per head" in found.notes


def test_a_square_gradient_alone_may_be_either(grads):
    """Nothing tells its orientation: both remain, for the diagnosis to decide."""
    name = "h.1.attn.c_proj.weight"
    found = match(Dump({f"grad/{name}": grads[name]}), PROBE)
    both = found.tensors[f"grad/{name}"], *found.alternatives[f"grad/{name}"]
    assert len(both) == 2
    np.testing.assert_array_equal(both[0], grads[name])
    np.testing.assert_array_equal(both[1], grads[name].T)
    wide = {f"grad/{n}": grads[n].T for n in (name, "h.0.mlp.c_fc.weight")}  # its sibling tells
    found = match(Dump(wide), PROBE)
    np.testing.assert_array_equal(found.tensors[f"grad/{name}"], grads[name])
    assert not found.alternatives


def test_a_matrix_unlike_its_siblings_is_told():
    tensors = dump_of("nanoGPT", param=PARAMS).tensors
    name = "param/transformer.h.1.attn.c_proj.weight"
    tensors[name] = tensors[name].T
    found = match(Dump(tensors), PROBE)
    check(found, "param", PARAMS)
    assert "transformer.h.1.attn.c_proj.weight: (in, out), the others (out, in)" in found.notes


def test_values_decide_before_names():
    tensors = dump_of("the book", param=PARAMS).tensors
    one, other = (f"param/trf_blocks.0.att.W_{part}.weight" for part in ("query", "key"))
    tensors[one], tensors[other] = tensors[other], tensors[one]
    found = match(Dump(tensors), PROBE)
    check(found, "param", PARAMS)
    assert ("param: trf_blocks.0.att.W_query.weight has the numbers of h.0.attn.c_attn.k.weight, "
            "not of h.0.attn.c_attn.q.weight") in found.notes  # fmt: skip


def test_names_that_say_nothing():
    """Values alone: in any order, under names without a meaning, rounded to bfloat16."""
    order = list(PARAMS)[::-1]
    rounded = {n: from_bfloat16(to_bfloat16(x)) for n, x in PARAMS.items()}
    found = match(Dump({f"param/x{i}": rounded[n] for i, n in enumerate(order)}), PROBE)
    check(found, "param", rounded)


def near_one():
    """The probe's model after a few steps: LayerNorms within 0.4 % of 1 and of each other."""
    tree = params.copy(PROBE.params)
    for i, (name, x) in enumerate(named(tree)):
        if "ln_" in name:
            x[...] = name.endswith("weight") + 0.001 * np.sin(np.arange(x.size) + i)
    return replace(PROBE, params=tree), dict(named(tree))


def test_the_nearest_numbers_decide():
    probe, trained = near_one()
    found = match(Dump({f"param/x{i}": x for i, x in enumerate(trained.values())}), probe)
    check(found, "param", trained)


def test_names_decide_between_numbers_that_rounding_made_alike():
    probe, trained = near_one()
    rounded = {n: from_bfloat16(to_bfloat16(x)) for n, x in trained.items()}
    found = match(dump_of("the book", param=rounded), probe)
    check(found, "param", rounded)
    assert found.notes == ["weights are (out, in)", "q, k, v split"]


def test_a_padded_vocabulary_and_masks():
    x = np.arange(3 * 9 * 64.0).reshape(3, 9, 64)
    mask = np.arange(270.0).reshape(3, 9, 10)
    tensors = {"logits": x, "dact/lm_head": x, "cached_logits": x.reshape(27, 64),
               "mask/h.0.attn.resid_dropout": mask, "mask/h.1.mlp.dropout": -mask}  # fmt: skip
    found = match(Dump(tensors), PROBE)
    for name in ("logits", "dact/logits", "cached_logits"):
        np.testing.assert_array_equal(found.tensors[name], x[..., :29])
    np.testing.assert_array_equal(found.tensors["mask/h.0.after_attn"], mask)
    np.testing.assert_array_equal(found.tensors["mask/h.1.after_mlp"], -mask)


def test_an_array_that_counts_twice_is_refused_if_another_is_missing():
    """Untrained norms, both by the name of one."""
    model = GPT(PROBE.config, seed=3, ops="numpy")
    tensors = dump_of("nanoGPT", param=dict(named(model.params))).tensors
    for i in range(2):
        for leaf in ("weight", "bias"):
            old = f"param/transformer.h.{i}.ln_2.{leaf}"
            tensors[f"param/blocks.{i}.ln1.{leaf}"] = tensors.pop(old)
    with pytest.raises(InputError, match=r"could both be h\.0\.ln_1"):
        match(Dump(tensors), probes.of_model(model))


@pytest.mark.parametrize("is_stepped", [True, False])
def test_halves_of_a_tied_gradient_may_be_summed_later_if_a_step_shows_it(grads, is_stepped):
    tensors = {"grad/wte": grads["wte.weight"], "grad/lm_head": 2 * grads["wte.weight"]}
    tensors |= {"after1/wte": tensors["grad/wte"]} if is_stepped else {}
    found = match(Dump(tensors), PROBE)
    sums = found.alternatives.get("grad/wte.weight", ())
    assert (len(sums), found.is_split) == (is_stepped, not is_stepped)
    np.testing.assert_array_equal(sum(sums), 3 * is_stepped * grads["wte.weight"])
