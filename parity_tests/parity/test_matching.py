"""Tensors of ports matched with npgpt's: by value, by name, in every layout."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from npgpt.errors import InputError
from npgpt.gpt import GPT
from npgpt.model.params import named
from npgpt.parity import probe as probes
from npgpt.parity.dump import Dump
from npgpt.parity.matching import match
from npgpt.quantized_matrix import from_bfloat16, to_bfloat16
from npgpt.testing import capture
from parity_tests.support.port_names import CONVENTIONS
from reference.gpt2 import GPT2, Config

PROBE = probes.make()
H = PROBE.config.n_head
PARAMS = dict(named(PROBE.params))


@pytest.fixture(scope="module")
def grads():
    model = GPT.from_params(PROBE.config, PROBE.params, ops="numpy")
    _, found = model.loss_and_gradients(PROBE.tokens, PROBE.targets)
    return {name: array.copy() for name, array in named(found)}


def dump_of(convention, **kinds):
    """A dump of a port with this convention; a kind is a dict of npgpt's parameters."""
    tensors = {}
    for kind, arrays in kinds.items():
        for name, array in CONVENTIONS[convention](arrays, H):
            tensors[f"{kind}/{name}"] = array
    return Dump(tensors)


def check(found, kind, expected):
    """All tensors of a kind are found, and equal to the expected ones."""
    own = {name.partition("/")[2] for name in found.tensors if name.startswith(f"{kind}/")}
    assert own == set(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(found.tensors[f"{kind}/{name}"], array, err_msg=name)


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_lively_weights_and_their_gradients(convention, grads):
    found = match(dump_of(convention, param=PARAMS, grad=grads), PROBE)
    check(found, "param", PARAMS)
    check(found, "grad", grads)
    assert not found.alternatives


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_gradients_alone(convention, grads):
    found = match(dump_of(convention, grad=grads), PROBE)
    check(found, "grad", grads)


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
    assert found.unused == ["param/lm_head.weight", "act/wte", "act/wpe", "dact/wpe", "dact/wte"]
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
    assert ("trf_blocks.0.att.W_query.weight has the numbers of h.0.attn.c_attn.k.weight, not of "
            "h.0.attn.c_attn.q.weight") in found.notes  # fmt: skip


def test_names_that_say_nothing():
    """Values alone: in any order, under names without a meaning, rounded to bfloat16."""
    order = list(PARAMS)[::-1]
    rounded = {n: from_bfloat16(to_bfloat16(x)) for n, x in PARAMS.items()}
    found = match(Dump({f"param/x{i}": rounded[n] for i, n in enumerate(order)}), PROBE)
    check(found, "param", rounded)


def test_halves_of_a_tied_gradient_may_be_summed_later(grads):
    tensors = {"grad/wte": grads["wte.weight"], "grad/lm_head": 2 * grads["wte.weight"]}
    found = match(Dump(tensors), PROBE)
    (total,) = found.alternatives["grad/wte.weight"]
    np.testing.assert_array_equal(total, 3 * grads["wte.weight"])


# what cannot be decided


def renamed(changes):
    """The gradients of nanoGPT, of which some have another name."""
    found = dump_of("nanoGPT", grad=PARAMS).tensors
    for old, new in changes.items():
        found[f"grad/{new}"] = found.pop(f"grad/transformer.{old}")
    return found


AMBIGUOUS = [
    ({"h.0.ln_1.weight": "a", "h.1.ln_2.weight": "b"},
     "'a' (10,) could be h.0.ln_1.weight or h.1.ln_2.weight: add --map a=NAME, or --map a= to "
     "leave it out (1 more tensors are undecided)"),
    ({"h.0.ln_1.weight": "foo.g", "h.0.ln_1.bias": "foo.b"},
     "'foo.g' (10,) could be h.0.ln_1.weight or h.0.ln_1.bias: add --map foo.g=NAME"),
    ({"h.0.attn.c_proj.weight": "x", "h.1.attn.c_proj.weight": "y"},
     "'x' (10, 10) could be h.0.attn.c_proj.weight or h.1.attn.c_proj.weight"),
]  # fmt: skip


@pytest.mark.parametrize("changes, says", AMBIGUOUS)
def test_what_cannot_be_decided_is_refused(changes, says):
    with pytest.raises(InputError) as error:
        match(Dump(renamed(changes)), PROBE)
    assert str(error.value).startswith(says)


def test_one_tensor_that_is_left_is_decided():
    check(match(Dump(renamed({"h.1.ln_2.weight": "what"})), PROBE), "grad", PARAMS)


def test_two_tensors_that_could_be_either():
    tensors = dump_of("nanoGPT", grad=PARAMS).tensors
    tensors["grad/blocks.0.ln1.weight"] = np.zeros(10)
    with pytest.raises(InputError, match=r"could both be h\.0\.ln_1\.weight: add --map"):
        match(Dump(tensors), PROBE)


def test_another_model():
    tensors = dump_of("nanoGPT", grad=PARAMS).tensors
    tensors["grad/transformer.wpe.weight"] = np.zeros((11, 16))
    with pytest.raises(InputError) as error:
        match(Dump(tensors), PROBE)
    assert str(error.value) == (
        "'grad/transformer.wpe.weight' is (11, 16), but the probe's wpe.weight is (11, 10): is the "
        "dump of another model?"
    )


# --map


MAPS = [
    {"a": "h.0.ln_1.weight", "b": "h.1.ln_2.weight"},
    {"a": "h.0.ln_1"},
    {"grad/a": "h.0.ln_1.weight"},
    {"b": "grad/h.1.ln_2.weight"},
]


@pytest.mark.parametrize("renames", MAPS)
def test_map_decides(renames):
    tensors = renamed({"h.0.ln_1.weight": "a", "h.1.ln_2.weight": "b"})
    check(match(Dump(tensors), PROBE, renames), "grad", PARAMS)


def test_map_of_layers_parts_and_nothing(grads):
    """A number in braces stands for all layers; a module for weight and bias; q for a part."""
    tensors = dump_of("minGPT", grad=grads).tensors
    tensors = {
        n.replace("attn.query", "s1").replace("ln1", "s2").replace("ln2", "s3"): x
        for n, x in tensors.items()
    }
    tensors |= {"act/blocks.0.s2": np.zeros((3, 9, 10)), "grad/buffer": np.ones(10)}
    renames = {"blocks.{i}.s1": "h.{i}.attn.c_attn.q", "blocks.{i}.s2": "h.{i}.ln_1",
               "blocks.{i}.s3.weight": "h.{i}.ln_2.weight", "buffer": ""}  # fmt: skip
    found = match(Dump(tensors), PROBE, renames)
    check(found, "grad", grads)
    assert found.tensors["act/h.0.ln_1"].shape == (3, 9, 10)
    assert found.unused == ["grad/buffer", "grad/head.weight"]


WRONG_MAPS = [
    ({"nope": "ln_f.weight"}, "--map nope=ln_f.weight: the dump has no tensor 'nope'"),
    ({"h.0.ln_1.weight": "transformer.h.0.ln_1.weight"},
     "--map h.0.ln_1.weight=transformer.h.0.ln_1.weight: the dump has no tensor 'h.0.ln_1.weight': "
     "is it --map transformer.h.0.ln_1.weight=h.0.ln_1.weight?"),
    ({"transformer.ln_f.weight": "h.7.ln_1.weight"},
     "--map transformer.ln_f.weight=h.7.ln_1.weight: npgpt has no 'h.7.ln_1.weight' that "
     "'transformer.ln_f.weight' could be; names are as h.0.attn.c_proj, h.{i}.mlp.c_fc.weight or "
     "h.0.attn.c_attn.q"),
    ({"transformer.ln_f.weight": "wte"},
     "--map transformer.ln_f.weight=wte: 'transformer.ln_f.weight' is (10,), but wte.weight is "
     "(29, 10)"),
    ({"": "wte"}, "--map =wte must be mine=theirs: the port's name and npgpt's"),
    ({"act/x": "grad/wte"}, "--map act/x=grad/wte must be mine=theirs: the port's name and "
     "npgpt's"),
    ({"h.{i}.{i}": "wte"}, "--map h.{i}.{i}=wte has a number in braces twice"),
]  # fmt: skip


@pytest.mark.parametrize("renames, says", WRONG_MAPS)
def test_a_wrong_map_is_one_line(renames, says):
    with pytest.raises(InputError) as error:
        match(dump_of("nanoGPT", grad=PARAMS), PROBE, renames)
    assert str(error.value) == says


# untrusted dumps


def test_names_without_end_are_refused():
    tensors = {f"grad/x{i}": np.zeros(10) for i in range(3000)}
    with pytest.raises(InputError, match="the dump has 3,000 tensors; at most 1,520 are read"):
        match(Dump(tensors), PROBE)


@pytest.mark.parametrize("seed", range(3))
def test_any_names_and_shapes_match_or_are_refused(seed):
    rng = np.random.default_rng(seed)
    words = ["h", "blocks", "0", "1", "99999999999999999", "attn", "q", "c_attn", "weight", "bias",
             "ln", "in", "", "..", "{i}", "é", "heads", "wte", "x" * 90]  # fmt: skip
    kinds = ["param", "grad", "act", "dact", "mask", "after1", "after999999999", "y"]
    shapes = [(), (0,), (10,), (30,), (10, 10), (10, 30), (29, 10), (1,) * 9, (3, 9, 10), (7,),
              (3, 9, 0), (2, 10), (3, 2, 9, 9), (50, 10)]  # fmt: skip
    refused = 0
    for _ in range(100):
        tensors = {}
        for _ in range(rng.integers(1, 4)):
            name = ".".join(rng.choice(words, rng.integers(1, 6)))
            shape = shapes[rng.integers(len(shapes))]
            tensors[f"{rng.choice(kinds)}/{name}"] = rng.normal(size=shape)
        try:
            found = match(Dump(tensors), PROBE)
        except InputError as error:
            refused += 1
            assert "\n" not in str(error)
        else:
            assert len(found.tensors) + len(found.unused) >= len(tensors)
    assert 0 < refused < 100
