"""npgpt quantize, and quantized models in the other commands."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import npgpt
from npgpt import fused, mixed
from npgpt.model import params, quantize
from npgpt.quantized_matrix import QuantizedMatrix
from parity_tests.support.quantized import OWN_HEAD, each, model_of, same
from parity_tests.support.weight_files import CONFIG


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


@pytest.mark.slow
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
    assert "19 of 28 parameters are bit-identical" in table
    assert "First parameter that differs: wte.weight" in table
    assert "The two models are equal." in said("compare small small").out
    seen = json.loads(said("inspect small --json").out)
    assert seen["format"] == "quantized"
    assert seen["tensors"]["wte.weight"]["dtype"] == kind
    said("export --model small --out exported")
    wide = npgpt.load("small", weights="float32")
    for (name, a), (_, b) in zip(
        params.named(wide.params), params.named(npgpt.load("exported").params), strict=True
    ):
        np.testing.assert_array_equal(a, b, err_msg=name)


BAD_LINES = {
    "train --init-from int8": "int8 holds int8 weights, which are too coarse to train. Start from",
    "train --resume int8": "int8 was written by npgpt quantize and holds no training run: ",
    "quantize model.h5 --to int8": "int8 already exists: choose another --to",
    "quantize none.h5 --to new": "there is no file or directory none.h5",
    "quantize int8 --to new --weights bfloat16": "round a second time: use the model",
    "evaluate --model int8 --data text.txt --weights bfloat16": "round a second time",
    "quantize nan.h5 --to new": "nan.h5: wte.weight: a matrix (257, 8) has numbers that are nan",
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

    monkeypatch.setattr("npgpt.system.atomic.sync_file", full)
    assert (
        "small could not be written: No space left"
        in said("quantize model.h5 --to small", code=1).err
    )
    assert {path.name for path in Path().iterdir()} == {"model.h5", "text.txt"}
