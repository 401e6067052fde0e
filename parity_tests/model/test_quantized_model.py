"""Quantized matrices in a model."""

import dataclasses

import numpy as np
import pytest

import npgpt
from npgpt import fused, mixed, ops
from npgpt.errors import InputError
from npgpt.inference.generate import generate
from npgpt.model import params, quantize
from npgpt.quantized_matrix import QuantizedMatrix, bfloat16, int8
from parity_tests.support.quantized import OWN_HEAD, TOKENS, each, model_of
from parity_tests.support.weight_files import CONFIG

# In a model


@each
@pytest.mark.parametrize("config", [CONFIG, OWN_HEAD], ids=["tied", "own head"])
def test_the_matrices_are_narrow_and_nothing_else(kind, config):
    model = model_of(config)
    tree = quantize.quantize(model.params, kind)
    found = {n: leaf for n, leaf in params.named(tree) if isinstance(leaf, QuantizedMatrix)}
    layers = ["attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"]
    heads = ["wte.weight"] + ["lm_head.weight"] * (not config.tied)
    expected = {f"h.{i}.{layer}.weight" for i in range(2) for layer in layers} | {*heads}
    assert found.keys() == expected
    for name, leaf in found.items():
        axis = 0 if name in heads else 1
        assert leaf.scale is None if kind == "bfloat16" else len(leaf.scale) == leaf.shape[axis]
    for name, leaf in params.named(model.params):
        assert name in found or dict(params.named(tree))[name] is leaf


@each
@pytest.mark.parametrize("config", [CONFIG, OWN_HEAD], ids=["tied", "own head"])
def test_a_narrow_model_computes_what_its_numbers_stand_for(kind, config):
    """Beside the same numbers widened, in plain NumPy. A kernel may round what it multiplies them
    with, to 8 places at the worst: 2^-8 of a number each time, and a few such roundings follow
    each other here. A scale along the wrong axis is off by all of it."""
    tree = quantize.quantize(model_of(config).params, kind)
    wide = params.map_leaves(
        tree, lambda leaf: leaf.widen() if isinstance(leaf, QuantizedMatrix) else leaf
    )
    narrow = npgpt.GPT.from_params(config, tree)
    expected_model = npgpt.GPT.from_params(config, wide, ops=ops)
    assert narrow.ops is mixed and narrow.dtype == np.float32
    logits, expected = narrow.logits(TOKENS), expected_model.logits(TOKENS)
    assert logits.dtype == np.float32
    assert np.abs(logits - expected).max() < 0.02 * np.abs(expected).max()
    value = expected_model.evaluate(TOKENS[:, :-1], TOKENS[:, 1:])
    assert narrow.evaluate(TOKENS[:, :-1], TOKENS[:, 1:]) == pytest.approx(value, rel=1e-3)


@pytest.mark.slow
@each
def test_generating_reads_one_token_as_it_reads_many(kind):
    """The ops of a single position, and those of a prompt, in a model of few bits: the same
    likeliest tokens, of logits that are far from each other."""
    model = model_of(dataclasses.replace(CONFIG, context_length=40))
    for name, array in params.named(model.params):
        if name == "wte.weight":
            array *= 100  # so far apart that rounding decides nothing
    narrow = npgpt.GPT.from_params(model.config, quantize.quantize(model.params, kind))
    new = [int(ids[0]) for ids in generate(narrow, TOKENS, 20)]
    seen = TOKENS[0].tolist()
    for token in new:
        assert token == narrow.logits([seen])[0, -1].argmax()
        seen.append(token)
    assert len(new) == 20


def test_the_embedding_looks_up_rows(rng):
    x = rng.normal(size=(9, 4)).astype(np.float32)
    wpe = rng.normal(size=(5, 4)).astype(np.float32)
    tokens = np.array([[8, 0, 3]])
    for narrow in (bfloat16(x), int8(x, 0)):
        expected, _ = ops.embedding.forward(
            tokens, ops.embedding.Params(narrow.widen(), wpe), start=2
        )
        out = np.full((1, 3, 4), np.nan, np.float32)
        p = ops.embedding.Params(narrow, wpe)
        found, _ = mixed.embedding.forward(tokens, p, start=2, out=out)
        assert found is out
        np.testing.assert_array_equal(out, expected)
        for wrong, start in (([[9]], 0), ([[-1]], 0), ([[1, 1]], 4)):
            with pytest.raises(IndexError):
                mixed.embedding.forward(np.array(wrong), p, start=start)


@each
def test_a_quantized_model_is_not_trained(kind, tmp_path):
    model = npgpt.GPT.from_params(CONFIG, quantize.quantize(model_of().params, kind))
    _, cache = model_of().loss(TOKENS[:, :-1], TOKENS[:, 1:])
    for use in (
        lambda: npgpt.AdamW(model.params),
        lambda: model.loss(TOKENS[:, :-1], TOKENS[:, 1:]),
        lambda: model.backward(cache),
        lambda: model.save(tmp_path / "x.h5"),
    ):
        with pytest.raises(InputError, match=f"wte.weight is stored as {kind}, which is for"):
            use()
    assert not list(tmp_path.iterdir())


def test_who_computes_with_what():
    tree = quantize.quantize(model_of().params, "int8")
    for backend in (ops, fused):
        with pytest.raises(InputError, match=f"only npgpt.mixed .* ops is {backend.__name__}"):
            npgpt.GPT.from_params(CONFIG, tree, ops=backend)
        with pytest.raises(InputError, match=r'dtype "bfloat16": only npgpt\.mixed'):
            npgpt.GPT(CONFIG, dtype="bfloat16", ops=backend)
    with pytest.raises(InputError, match="weights is 'int4', but must be float32 or bfloat16"):
        npgpt.load("anything", weights="int4")
    for wrong in ("float16", "bfloat", np.int8):
        with pytest.raises(InputError, match="must be float32, float64 or bfloat16"):
            npgpt.GPT(CONFIG, dtype=wrong)
