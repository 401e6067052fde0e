"""Matrices in fewer bits: rounded as PyTorch does, kept, written, refused; and who may use them."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import npgpt
from npgpt import fused, mixed, ops
from npgpt.cli.main import main
from npgpt.errors import InputError
from npgpt.inference.generate import generate
from npgpt.model import params, quantize
from npgpt.performance import system_info
from npgpt.quantized_matrix import CHUNK, KINDS, QuantizedMatrix, bfloat16, int8, to_bfloat16
from npgpt.weights import formats, huggingface
from npgpt.weights.safetensors import read_file
from parity_tests.support.weight_files import CONFIG, brain, llmc, numbers, parts, write_huggingface

each = pytest.mark.parametrize("kind", KINDS)
OWN_HEAD = dataclasses.replace(CONFIG, tied=False, qkv_bias=False)
TOKENS = np.arange(12)[None] * 7 % CONFIG.vocab_size


def model_of(config=CONFIG):
    """A model of numbers that are not few enough for bfloat16, in float32."""
    return npgpt.GPT(config, seed=7, tokenizer="byte")


def same(one, other):
    """Are these two parameters the same to the bit?"""
    if not isinstance(one, QuantizedMatrix):
        return not isinstance(other, QuantizedMatrix) and np.array_equal(one, other)
    return (
        (one.kind, one.axis, one.shape) == (other.kind, other.axis, other.shape)
        and one.values.dtype == other.values.dtype
        and np.array_equal(one.values, other.values)
        and np.array_equal(one.scale, other.scale)  # None too
    )


# Rounding


def test_bfloat16_is_pytorchs_to_the_bit():
    """Every upper half, with a lower half that is nothing, less than a half of the last place,
    exactly it (a tie), more, and all: subnormals, the largest numbers and inf are among them."""
    upper = np.arange(1 << 16, dtype=np.uint32) << 16
    lower = np.array([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF], np.uint32)
    x = (upper[:, None] | lower).view(np.float32)
    theirs = torch.tensor(x).to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16)
    ours = bfloat16(x).values
    nan = np.isnan(x)
    assert nan.sum() > 1000
    np.testing.assert_array_equal(ours[~nan], theirs[~nan])
    assert np.isnan(bfloat16(x).widen()[nan]).all()


def test_bfloat16_is_off_by_half_a_place_at_most(rng):
    x = (rng.normal(size=(200, 300)) * 10.0 ** rng.integers(-30, 30, (200, 300))).astype(np.float32)
    assert (np.abs(bfloat16(x).widen() - x) <= np.abs(x) * 2.0**-8).all()


@pytest.mark.parametrize("axis", [0, 1])
def test_int8_is_off_by_half_a_scale_at_most(rng, axis):
    x = rng.normal(size=(300, 70)).astype(np.float32)
    along = [slice(None)] * 2
    for channel in range(x.shape[axis]):  # of very different sizes
        along[axis] = channel
        x[tuple(along)] *= np.float32(10.0 ** (channel % 60 - 35))
    along[axis] = 5
    x[tuple(along)] = 0
    narrow = int8(x, axis)
    assert narrow.scale.shape == (x.shape[axis],)
    assert narrow.scale[5] == 1
    assert narrow.values.min() == -127 or narrow.values.max() == 127
    assert narrow.values.min() >= -127
    # x / scale is at most 127, so float32 is off by 127 x 2^-24 there, and so it is in the product
    allowed = narrow.scale.astype(np.float64) * (0.5 + 2 * 127 * 2.0**-24)
    apart = np.abs(narrow.widen().astype(np.float64) - x)
    assert (apart <= (allowed[:, None] if axis == 0 else allowed)).all()
    largest = np.abs(narrow.values.astype(int)).max(1 - axis)
    assert (np.delete(largest, 5) == 127).all()  # each channel uses all of its steps


def test_int8_of_the_smallest_numbers():
    """A 127th of a subnormal number would be 0, or far from a 127th."""
    tiny = np.float32([[1e-45, 0], [2e-43, 0], [-3e-39, 1e-36]])
    narrow = int8(tiny, 0)
    assert (narrow.scale > 0).all()
    assert (np.abs(narrow.widen() - tiny) <= narrow.scale[:, None] * 0.5001).all()


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_int8_has_no_place_for_what_is_not_finite(wrong, axis):
    x = np.ones((3, 4), np.float32)
    x[1, 2] = wrong
    with pytest.raises(InputError, match=r"a matrix \(3, 4\) has numbers that are nan or infinite"):
        int8(x, axis)


@pytest.mark.parametrize("axis", [0, 1])
def test_a_matrix_of_several_pieces_is_rounded_as_one(rng, axis):
    x = rng.normal(size=(CHUNK // 500, 1100)).astype(np.float32)
    x[-1] *= 5  # the largest numbers of a column come last
    scale = np.abs(x).max(1 - axis, keepdims=True) / np.float32(127)
    np.testing.assert_array_equal(int8(x, axis).values, np.rint(x / scale))
    np.testing.assert_array_equal(bfloat16(x).values, to_bfloat16(x))


@pytest.mark.parametrize("make", [bfloat16, lambda x: int8(x, 0), lambda x: int8(x, 1)])
def test_a_narrow_matrix_stands_for_a_float32_one(rng, make):
    narrow = make(rng.normal(size=(6, 4)).astype(np.float32))
    wide = narrow.widen()
    assert (narrow.shape, narrow.ndim, len(narrow), narrow.dtype) == ((6, 4), 2, 6, np.float32)
    assert wide.dtype == np.float32
    scale = 0 if narrow.scale is None else narrow.scale.nbytes
    assert narrow.nbytes == 24 * (2 if narrow.kind == "bfloat16" else 1) + scale
    transposed = narrow.T
    assert (transposed.shape, len(transposed), transposed.transposed) == ((4, 6), 4, True)
    assert transposed.values is narrow.values
    np.testing.assert_array_equal(transposed.widen(), wide.T)
    np.testing.assert_array_equal(transposed.T.widen(), wide)
    ids = np.array([[5, 0], [2, 2]])
    np.testing.assert_array_equal(narrow.rows(ids), wide[ids])


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
    judge = npgpt.GPT.from_params(config, wide, ops=ops)
    assert narrow.ops is mixed and narrow.dtype == np.float32
    logits, expected = narrow.logits(TOKENS), judge.logits(TOKENS)
    assert logits.dtype == np.float32
    assert np.abs(logits - expected).max() < 0.02 * np.abs(expected).max()
    value = judge.evaluate(TOKENS[:, :-1], TOKENS[:, 1:])
    assert narrow.evaluate(TOKENS[:, :-1], TOKENS[:, 1:]) == pytest.approx(value, rel=1e-3)


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


# Files


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A folder of its own, with the model in `model.h5`."""
    monkeypatch.chdir(tmp_path)
    model_of().save("model.h5")


@pytest.fixture
def said(elsewhere, capsys):
    """`said("evaluate --model x", code=0)`: what it prints."""

    def command(line, code=0):
        capsys.readouterr()
        assert main(line.split()) == code, capsys.readouterr().err
        return capsys.readouterr()

    return command


@each
@pytest.mark.parametrize("config", [CONFIG, OWN_HEAD], ids=["tied", "own head"])
def test_what_is_quantised_is_what_would_be_rounded(said, kind, config):
    model = model_of(config)
    model.save("model.h5")
    expected = dict(params.named(quantize.quantize(model.params, kind)))
    said(f"quantize model.h5 --to small --weights {kind}")
    for path, weights in (("small", None), ("small", kind), ("model.h5", kind)):
        found = npgpt.load(path, weights=weights)
        assert (found.config, found.tokenizer, found.ops) == (config, "byte", mixed)
        leaves = dict(params.named(found.params))
        assert list(leaves) == list(expected)
        assert all(same(leaves[name], expected[name]) for name in expected)
    for leaf in dict(params.named(npgpt.load("small").params)).values():
        assert not (
            leaf.values if isinstance(leaf, QuantizedMatrix) else leaf
        ).flags.owndata  # mapped
    wide = npgpt.load("small", weights="float32")
    assert wide.ops is fused
    for name, leaf in params.named(wide.params):
        there = expected[name]
        there = there.widen() if isinstance(there, QuantizedMatrix) else there
        np.testing.assert_array_equal(leaf, there, err_msg=name)


def test_the_file_is_small_and_safetensors_reads_it(said):
    from safetensors.torch import load_file

    said("quantize model.h5 --to int8")
    said("quantize model.h5 --to half --weights bfloat16")
    sizes = {name: Path(name).stat().st_size for name in ("int8", "half")}
    matrices = sum(
        array.size
        for name, array in params.named(model_of().params)
        if quantize.is_quantizable(name)
    )
    rest = 4 * (model_of().size - matrices)
    scales = 4 * (257 + 2 * (24 + 8 + 32 + 8))
    assert 0 < sizes["int8"] - (matrices + scales + rest) < 6000  # the header
    assert 0 < sizes["half"] - (2 * matrices + rest) < 6000
    theirs = load_file("int8")
    name = "h.1.mlp.c_fc.weight"
    np.testing.assert_array_equal(
        theirs[name].float() * theirs[f"{name}.scale"],
        npgpt.load("int8").params.h[1].mlp.c_fc.weight.widen(),
    )
    assert load_file("half")[name].dtype == torch.bfloat16


def test_a_bfloat16_file_is_mapped_as_it_lies(tmp_path):
    write_huggingface(tmp_path, CONFIG, numbers(), dtype="bfloat16")
    model = npgpt.load(tmp_path, weights="bfloat16")
    for name, leaf in params.named(model.params):
        if quantize.is_quantizable(name):
            assert not leaf.values.flags.owndata
            np.testing.assert_array_equal(leaf.values, brain(numbers()[name]), err_msg=name)
            leaf = leaf.widen()
        np.testing.assert_array_equal(leaf, numbers()[name], err_msg=name)
    assert npgpt.load(tmp_path).ops is fused  # nobody asked for fewer bits: widened as ever


@each
@pytest.mark.parametrize("version", [3, 5])
def test_matrices_that_lie_transposed(tmp_path, kind, version):
    path = tmp_path / "llmc.bin"
    path.write_bytes(llmc(CONFIG, numbers(), version=version))
    each = iter(numbers().values())
    expected = quantize.quantize(
        params.map_leaves(params.shapes(CONFIG), lambda _: next(each)), kind
    )
    pairs = zip(
        params.named(npgpt.load(path, weights=kind).params), params.named(expected), strict=True
    )
    assert all(one == other and same(a, b) for (one, a), (other, b) in pairs)


@each
def test_the_commands_take_a_model_of_few_bits(said, kind):
    said(f"quantize model.h5 --to small --weights {kind}")
    Path("text.txt").write_text("The keeper writes the hour in the book. " * 20)
    quantised = said("evaluate --model small --data text.txt").out
    assert quantised == said(f"evaluate --model model.h5 --data text.txt --weights {kind}").out
    text = said("generate --model small --prompt Hi --max-new-tokens 9").out
    assert text.startswith("Hi")
    again = said(f"generate --model model.h5 --weights {kind} --prompt Hi --max-new-tokens 9").out
    assert text == again
    table = said(f"compare model.h5 model.h5 --weights {kind}", code=1).out
    assert "19 of 28 parameters are the same to the bit" in table
    assert "First parameter that differs: wte.weight" in table
    assert "The two models are the same." in said("compare small small").out
    seen = json.loads(said("inspect small --json").out)
    assert seen["format"] == "quantized"
    assert seen["tensors"]["wte.weight"]["dtype"] == kind
    said("export --model small --out exported")
    wide = npgpt.load("small", weights="float32")
    for (name, a), (_, b) in zip(
        params.named(wide.params), params.named(npgpt.load("exported").params), strict=True
    ):
        np.testing.assert_array_equal(a, b, err_msg=name)


# What is refused


def forged(path, change):
    """The int8 file of `model.h5` with its metadata and tensors changed by `change`."""
    tensors, about = read_file("int8")
    arrays = {name: tensor.raw().copy() for name, tensor in tensors.items()}
    change(arrays, about)
    header, data = parts(arrays)
    text = json.dumps({"__metadata__": about, **header}).encode()
    text = text.ljust(-(-len(text) // 8) * 8)
    Path(path).write_bytes(len(text).to_bytes(8, "little") + text + data)


def scaled(value):
    def change(arrays, about):
        arrays["h.0.mlp.c_fc.weight.scale"][3] = value

    return change


def put(name, array):
    return lambda arrays, about: arrays.update({name: array})


BAD_FILES = {
    "another version": (lambda a, m: m.update(version="2"),
                        "is quantised in format version '2'; this npgpt reads 1"),
    "no version": (lambda a, m: m.pop("version"), "format version None"),
    "unknown weights": (lambda a, m: m.update(weights="int4"), "weights is 'int4', expected int8"),
    "a list of weights": (lambda a, m: m.update(weights=["int8"]), r"weights is \['int8'\]"),
    "a tokenizer nobody knows": (lambda a, m: m.update(tokenizer="x"), "its tokenizer is 'x'"),
    "no config": (lambda a, m: m.pop("config"), "its config is not JSON"),
    "a config of too few": (lambda a, m: m.update(config="{}"), "the config has not the fields"),
    "a scale of zero": (scaled(0), r"c_fc.weight.scale\[3\] is 0.0, but a scale is a finite"),
    "a scale below zero": (scaled(-1), r"c_fc.weight.scale\[3\] is -1.0"),
    "a scale of nan": (scaled(np.nan), r"c_fc.weight.scale\[3\] is nan"),
    "a scale of inf": (scaled(np.inf), r"c_fc.weight.scale\[3\] is inf"),
    "a scale for every input": (put("h.0.mlp.c_fc.weight.scale", np.ones(8, np.float32)),
                                r"is float32 \(8,\), expected float32 \(32,\)"),
    "a scale in float64": (put("wte.weight.scale", np.ones(257)), r"is float64 \(257,\)"),
    "no scale": (lambda a, m: a.pop("wte.weight.scale"), "has no wte.weight.scale: without it"),
    "a scale of nothing": (put("ln_f.weight.scale", np.ones(8, np.float32)),
                           "has 'ln_f.weight.scale', which belongs to no int8 matrix"),
    "a matrix that is missing": (lambda a, m: a.pop("wte.weight"), "has no wte.weight, which"),
    "a matrix in float32": (put("wte.weight", np.ones((257, 8), np.float32)),
                            "wte.weight is float32, expected int8 in int8"),
    "positions in int8": (put("wpe.weight", np.ones((12, 8), np.int8)),
                          "wpe.weight is int8, expected float32"),
    "a matrix of another shape": (put("wte.weight", np.ones((8, 257), np.int8)),
                                  r"wte.weight is \(8, 257\), its config asks for \(257, 8\)"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_damaged_file_of_few_bits(said, unreadable, name):
    said("quantize model.h5 --to int8")
    change, says = BAD_FILES[name]
    forged("bad", change)
    unreadable(Path("bad"), says)


def test_what_is_not_forged_is_read(said):
    said("quantize model.h5 --to int8")
    forged("good", lambda arrays, about: None)
    pairs = zip(*(params.named(npgpt.load(p).params) for p in ("int8", "good")), strict=True)
    assert all(same(a, b) for (_, a), (_, b) in pairs)


BAD_LINES = {
    "train --init-from int8": "int8 holds int8 weights: the steps of training are finer than",
    "train --resume int8": "int8 is a model that npgpt quantize wrote, for generating: there is",
    "quantize model.h5 --to int8": "int8 is there already: choose another --to",
    "quantize none.h5 --to new": "there is no checkpoint none.h5",
    "quantize int8 --to new --weights bfloat16": "rounded a second time: start from",
    "evaluate --model int8 --data text.txt --weights bfloat16": "rounded a second time",
    "quantize nan.h5 --to new": "nan.h5: wte.weight is a matrix (257, 8) has numbers that are nan",
    "train --dtype bfloat16 --ops numpy": "dtype is 'bfloat16', which NumPy does not multiply",
}


@pytest.mark.parametrize("line", BAD_LINES)
def test_what_is_refused_in_one_line(said, line):
    Path("text.txt").write_text("The keeper writes the hour in the book. " * 20)
    said("quantize model.h5 --to int8")
    spoilt = model_of()
    spoilt.params.wte.weight[5, 5] = np.nan
    spoilt.save("nan.h5")
    before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    printed = said(line, code=2)
    assert printed.out == ""
    assert printed.err.startswith("npgpt: ") and printed.err.count("\n") == 1
    assert BAD_LINES[line] in printed.err
    assert {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()} == before


def test_a_disk_without_room_leaves_nothing(said, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("npgpt.system.files.sync", full)
    assert (
        "small could not be written: No space left" in said("quantize model.h5 --to small", 1).err
    )
    assert [path.name for path in Path().iterdir()] == ["model.h5"]


@each
def test_fewer_bits_are_not_trained(kind, tmp_path):
    model = npgpt.GPT.from_params(CONFIG, quantize.quantize(model_of().params, kind))
    _, cache = model_of().loss(TOKENS[:, :-1], TOKENS[:, 1:])
    for use in (
        lambda: npgpt.AdamW(model.params),
        lambda: model.loss(TOKENS[:, :-1], TOKENS[:, 1:]),
        lambda: model.backward(cache),
        lambda: model.save(tmp_path / "x.h5"),
    ):
        with pytest.raises(InputError, match=f"wte.weight is kept as {kind}, which is for"):
            use()
    assert not list(tmp_path.iterdir())


def test_who_computes_with_what():
    tree = quantize.quantize(model_of().params, "int8")
    for backend in (ops, fused):
        with pytest.raises(InputError, match=f"only npgpt.mixed .* ops is {backend.__name__}"):
            npgpt.GPT.from_params(CONFIG, tree, ops=backend)
        with pytest.raises(InputError, match=r'dtype "bfloat16": only npgpt\.mixed'):
            npgpt.GPT(CONFIG, dtype="bfloat16", ops=backend)
    with pytest.raises(InputError, match="weights is 'int4', but has to be float32 or bfloat16"):
        npgpt.load("anything", weights="int4")
    for wrong in ("float16", "bfloat", np.int8):
        with pytest.raises(InputError, match="must be float32, float64 or bfloat16"):
            npgpt.GPT(CONFIG, dtype=wrong)


# Training


# its learning rate stays where it is, and so does not depend on --steps
TINY = (
    "--data text.txt --n-layer 1 --n-embd 16 --n-head 2 --context-length 16 --batch-size 4 "
    "--stride 16 --eval-every 2 --sample-tokens 3 --warmup-steps 1 --min-lr 5e-3"
)


def test_a_bfloat16_model_has_float32_parameters():
    model, wide = npgpt.GPT(CONFIG, seed=3, dtype="bfloat16"), npgpt.GPT(CONFIG, seed=3)
    assert (model.ops, model.dtype) == (mixed, np.float32)
    optimizer = npgpt.AdamW(model.params, lr=1e-2)
    for (name, a), (_, b) in zip(
        params.named(model.params), params.named(wide.params), strict=True
    ):
        np.testing.assert_array_equal(a, b, err_msg=name)
    losses = []
    for _ in range(4):
        loss, cache = model.loss(TOKENS[:, :-1], TOKENS[:, 1:])
        gradients = model.backward(cache)
        optimizer.step(gradients)
        losses.append(float(loss))
    assert all(array.dtype == np.float32 for _, array in params.named(gradients))
    assert losses == sorted(losses, reverse=True) and losses[-1] < losses[0] - 0.1


def test_a_run_in_bfloat16_is_resumed_to_the_same_bits(said):
    Path("text.txt").write_text("The lamp is lit at dusk, and the keeper writes it down. " * 15)
    said(f"train {TINY} --dtype bfloat16 --steps 6 --out whole")
    said(f"train {TINY} --dtype bfloat16 --steps 3 --out half")
    said("train --resume half --steps 6")
    assert json.loads(Path("half/config.json").read_text())["dtype"] == "bfloat16"
    trees = [params.named(npgpt.load(path).params) for path in ("whole", "half")]
    for (name, a), (_, b) in zip(*trees, strict=True):
        assert a.dtype == np.float32
        np.testing.assert_array_equal(a, b, err_msg=name)
    error = said("train --resume half --dtype float32", code=2).err
    assert "--dtype float32 does not fit: half was made with bfloat16" in error
    said(f"train {TINY} --init-from whole --dtype bfloat16 --steps 1 --out more")
    error = said("train --init-from whole --dtype float64", code=2).err
    assert "--dtype float64 does not fit" in error


def test_training_says_where_bfloat16_will_be_slow(said, monkeypatch):
    Path("text.txt").write_text("The lamp is lit at dusk, and the keeper writes it down. " * 15)
    for able, lines in ((True, 0), (False, 1)):
        monkeypatch.setattr(system_info, "multiplies_bfloat16", lambda able=able: able)
        error = said(f"train {TINY} --dtype bfloat16 --steps 1 --out {able}").err
        assert error.count("training in bfloat16 will be slow\n") == lines
    assert "slow" not in said(f"train {TINY} --steps 1 --out float32").err


@pytest.mark.parametrize("features", ["+avx2,+fma", "+avx2,+fma,+avx512f,+avx512bf16"])
def test_info_says_which_path_it_is(features):
    """NUMBA_CPU_FEATURES is what the kernels believe the CPU to have. Nothing is compiled here."""
    program = (
        "from npgpt.performance import system_info as info; "
        "print(info.bfloat16(info.multiplies_bfloat16()))"
    )
    environment = os.environ | {"NUMBA_CPU_FEATURES": features}
    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment
    )
    assert found.stderr == ""
    expected = "by AVX512_BF16" if "bf16" in features else "no AVX512_BF16 in this CPU"
    assert expected in found.stdout
    assert "bfloat16" in system_info.gather().facts


def test_a_quantised_file_leads_nowhere_else(said):
    """It is told by its metadata: in a folder beside a config.json it would be Hugging Face's."""
    said("quantize model.h5 --to int8")
    assert formats.open_weights("int8").format == "quantized"
    with pytest.raises(InputError, match=r"there is no .*config\.json"):
        huggingface.read_huggingface("int8")
