"""npgpt compare, on small models."""

from pathlib import Path

import numpy as np
import pytest

import npgpt
from npgpt.model import quantize
from npgpt.model.params import named
from npgpt.parity import compare
from npgpt.weights import safetensors
from npgpt.weights.safetensors import TensorStream
from parity_tests.support.port_names import CONVENTIONS
from parity_tests.support.saved_model import CONFIG, saved


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Every test in a folder of its own."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def model():
    """A small model, saved as a.h5."""
    return saved("a.h5")


def test_the_same_model_twice(npgpt_, model):
    npgpt_("export --model a.h5 --out b --to huggingface")
    said = npgpt_("compare a.h5 b").out
    assert "28 of 28 parameters are bit-identical" in said
    assert "the outputs of 25 of 25 layers are bit-identical" in said
    assert said.splitlines()[-2] == "The two models are equal."
    assert said.endswith("what a program computes: npgpt probe, then npgpt diagnose.\n")


def transpose(p):
    p.h[1].attn.c_proj.weight[...] = p.h[1].attn.c_proj.weight.T.copy()


def reorder(p):
    w = p.h[0].attn.c_attn.weight
    w[...] = np.concatenate([w[:, 6:12], w[:, :6], w[:, 12:]], 1)


def scale(p):
    p.h[1].mlp.c_proj.weight[...] *= 0.5


def blur(p):
    p.ln_f.weight[3] += 0.25


@pytest.mark.parametrize(
    "change, parameter, note, layer",
    [
        (transpose, "h.1.attn.c_proj.weight", " (transposed)", "h.1.attn.c_proj"),
        (reorder, "h.0.attn.c_attn.weight", " (query, key and value in another order)",
         "h.0.attn.c_attn"),
        (scale, "h.1.mlp.c_proj.weight", " (0.5 times the first)", "h.1.mlp.c_proj"),
        (blur, "ln_f.weight", "", "ln_f"),
    ],
    ids=["transposed", "reordered", "scaled", "changed"],
)  # fmt: skip
def test_the_first_difference(npgpt_, model, change, parameter, note, layer):
    saved("b.h5", change)
    said = npgpt_("compare a.h5 b.h5", code=1).out
    assert "27 of 28 parameters are bit-identical" in said
    first, second = said.splitlines()[-3:-1]
    assert first.startswith(f"First parameter that differs: {parameter}, by ")
    assert first.endswith(f" of its largest value{note}")
    assert second.startswith(f"First layer that differs: {layer}, by ")


def test_how_far_apart(model):
    other = saved("b.h5", blur)
    (found,) = [d for d in compare.compare_parameters(model, other) if d.largest]
    assert (found.name, found.largest, found.relative) == ("ln_f.weight", 0.25, 0.25)
    tokens = np.arange(9)[None]
    layers = {d.name: d for d in compare.compare_layers(model, other, tokens)}
    gap = np.abs(model.logits(tokens) - other.logits(tokens)).max()
    assert layers["logits"].largest == gap > 0
    traced = model.trace(tokens)
    outputs = dict(compare.trace(model, tokens))
    assert list(outputs) == list(traced)
    for name, array in outputs.items():
        np.testing.assert_array_equal(array, traced[name], err_msg=name)
    np.testing.assert_array_equal(outputs["logits"], model.logits(tokens))


def test_a_bias_that_one_of_them_does_without(npgpt_, model):
    def zero(p):
        for block in p.h:
            block.attn.c_attn.bias[...] = 0

    saved("zeros.h5", zero)
    plain = dict(named(npgpt.load("zeros.h5").params))
    plain = {n: a for n, a in plain.items() if not n.endswith("c_attn.bias")}
    bare = saved("bare.h5", qkv_bias=False)
    for name, array in named(bare.params):
        array[...] = plain[name]
    bare.save("bare.h5")
    said = npgpt_("compare zeros.h5 bare.h5").out
    assert said.splitlines()[-2] == "The two models are equal."


@pytest.mark.parametrize("kind", ["numpy", "fused", pytest.param("int8", marks=pytest.mark.slow)])
def test_layers_are_compared_on_every_backend(kind):
    """Outputs of two backends are equal within rounding; those of other weights are not."""
    tokens, first = np.arange(9)[None], npgpt.GPT(CONFIG, seed=7, ops="numpy")
    other = npgpt.GPT(CONFIG, seed=7, ops="mixed" if kind == "int8" else kind)
    if kind == "int8":
        tree = quantize.quantize(other.params, kind)
        other = npgpt.GPT.from_params(CONFIG, tree)
    found = list(compare.compare_layers(first, other, tokens))
    assert len(found) == 25
    budgeted = compare.with_budgets(found, first, tokens)
    assert all(one.is_rounding for one in budgeted) == (kind in ("numpy", "fused"))
    own = compare.with_budgets(list(compare.compare_layers(other, first, tokens)), other, tokens)
    assert own[0].is_rounding or kind == "int8"  # the embedding, which reads quantized rows


def last_bits(p):
    p.h[1].attn.c_proj.weight[...] *= np.float32(1 + 2.0**-23)


def half(p):
    p.h[0].mlp.c_fc.weight[...] = p.h[0].mlp.c_fc.weight.astype(np.float16)


def test_equal_within_rounding(npgpt_, model):
    saved("b.h5", last_bits)
    said = npgpt_("compare a.h5 b.h5 --ops numpy").out
    assert "27 of 28 parameters are bit-identical, 1 more is equal within rounding\n" in said
    assert said.splitlines()[-2] == "The two models are equal within rounding."
    saved("c.h5", half)
    said = npgpt_("compare a.h5 c.h5", code=1).out
    assert "(rounded to float16)\n" in said and "First layer that differs: h.0.mlp.c_fc, " in said


def test_weights_by_the_names_of_a_port(npgpt_, model):
    """In .npz and .safetensors; a layer of an unknown name is asked for."""
    tensors = dict(CONVENTIONS["minGPT"](dict(named(model.params)), CONFIG.n_head))
    np.savez("port.npz", **tensors)
    said = npgpt_("compare a.h5 port.npz").out
    assert said.startswith("a.h5 and port.npz\nweights are (out, in)\nq, k, v split\n28 of 28 ")
    assert "The two models are equal.\n" in said
    tensors["blocks.1.mlp.2.weight"] = tensors["blocks.1.mlp.2.weight"] * np.float32(2)
    streams = {name: TensorStream(x.shape, "float32", [x]) for name, x in tensors.items()}
    safetensors.write_safetensors("port.safetensors", streams)
    said = npgpt_("compare a.h5 port.safetensors", code=1).out
    assert "First parameter that differs: h.1.mlp.c_proj.weight, " in said
    tensors["what"] = 3 * tensors.pop("blocks.0.ln1.weight")
    tensors["which"] = 3 * tensors.pop("blocks.1.ln1.weight")
    np.savez("port.npz", **tensors)
    said = npgpt_("compare a.h5 port.npz", code=2).err
    assert "could be h.0.ln_1.weight or h.1.ln_1.weight: add --map what=NAME" in said
    maps = "--map what=h.0.ln_1.weight --map which=h.1.ln_1.weight"
    said = npgpt_(f"compare a.h5 port.npz {maps}", code=1).out
    assert "First parameter that differs: h.0.ln_1.weight, " in said
    del tensors["what"]
    np.savez("port.npz", **tensors)
    said = npgpt_("compare a.h5 port.npz --map which=h.1.ln_1.weight", code=2).err
    assert said == ("npgpt: port.npz has no tensor that could be h.0.ln_1.weight, unless --map "
                    "says which it is\n")  # fmt: skip


def test_a_file_that_is_no_model_is_refused(npgpt_, model):
    Path("x.bin").write_bytes(b"nothing")
    said = npgpt_("compare a.h5 x.bin", code=2).err
    assert said == npgpt_("generate --model x.bin --prompt x", code=2).err


def test_models_of_different_sizes(npgpt_, model):
    saved("b.h5", n_layer=3)
    said = npgpt_("compare a.h5 b.h5", code=2).err
    assert said == "npgpt: the models differ in size: n_layer is 2 and 3\n"
