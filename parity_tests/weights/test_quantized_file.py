"""Quantized files: read, mapped, and refused when they are invalid."""

import json
from pathlib import Path

import numpy as np
import pytest

import npgpt
from npgpt import fused
from npgpt.errors import InputError
from npgpt.model import params, quantize
from npgpt.weights import formats, huggingface
from npgpt.weights.safetensors import read_file
from parity_tests.support.quantized import each, same
from parity_tests.support.weight_files import CONFIG, brain, llmc, numbers, parts, write_huggingface


def test_a_bfloat16_file_is_mapped(tmp_path):
    write_huggingface(tmp_path, CONFIG, numbers(), dtype="bfloat16")
    model = npgpt.load(tmp_path, weights="bfloat16")
    for name, leaf in params.named(model.params):
        if quantize.is_quantizable(name):
            assert not leaf.values.flags.owndata
            np.testing.assert_array_equal(leaf.values, brain(numbers()[name]), err_msg=name)
            leaf = leaf.widen()
        np.testing.assert_array_equal(leaf, numbers()[name], err_msg=name)
    assert npgpt.load(tmp_path).ops is fused  # float32 by default: widened


@each
@pytest.mark.parametrize("version", [3, 5])
def test_transposed_matrices(tmp_path, kind, version):
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


# Invalid files


def forged(path, change):
    """Write the int8 file of `model.h5` with metadata and tensors changed by `change`."""
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
                        "has quantized format version '2'; this npgpt reads 1"),
    "no version": (lambda a, m: m.pop("version"), "format version None"),
    "unknown weights": (lambda a, m: m.update(weights="int4"), "weights is 'int4', expected int8"),
    "a list of weights": (lambda a, m: m.update(weights=["int8"]), "__metadata__ is .* strings"),
    "an unknown tokenizer": (lambda a, m: m.update(tokenizer="x"), "its tokenizer is 'x'"),
    "no config": (lambda a, m: m.pop("config"), "its config is None, expected JSON"),
    "a config of too few": (lambda a, m: m.update(config="{}"), "its config must have the fields"),
    "a scale of zero": (scaled(0), r"c_fc.weight.scale\[3\] is 0.0, but a scale must be"),
    "a scale below zero": (scaled(-1), r"c_fc.weight.scale\[3\] is -1.0"),
    "a scale of nan": (scaled(np.nan), r"c_fc.weight.scale\[3\] is nan"),
    "a scale of inf": (scaled(np.inf), r"c_fc.weight.scale\[3\] is inf"),
    "a scale for every input": (put("h.0.mlp.c_fc.weight.scale", np.ones(8, np.float32)),
                                r"is float32 \(8,\), expected float32 \(32,\)"),
    "a scale in float64": (put("wte.weight.scale", np.ones(257)), r"is float64 \(257,\)"),
    "no scale": (lambda a, m: a.pop("wte.weight.scale"), "has no wte.weight.scale, the scale"),
    "a scale of nothing": (put("ln_f.weight.scale", np.ones(8, np.float32)),
                           "has 'ln_f.weight.scale', which belongs to none of its"),
    "a matrix that is missing": (lambda a, m: a.pop("wte.weight"), "has no wte.weight, which"),
    "a matrix in float32": (put("wte.weight", np.ones((257, 8), np.float32)),
                            "wte.weight is float32, expected int8 in int8"),
    "positions in int8": (put("wpe.weight", np.ones((12, 8), np.int8)),
                          "wpe.weight is int8, expected float32"),
    "a matrix of another shape": (put("wte.weight", np.ones((8, 257), np.int8)),
                                  r"has shape \(8, 257\), its config requires \(257, 8\)"),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", BAD_FILES)
def test_a_damaged_quantized_file(said, unreadable, name):
    said("quantize model.h5 --to int8")
    change, says = BAD_FILES[name]
    forged("bad", change)
    unreadable(Path("bad"), says)


def test_an_unchanged_file_is_read(said):
    said("quantize model.h5 --to int8")
    forged("good", lambda arrays, about: None)
    pairs = zip(*(params.named(npgpt.load(p).params) for p in ("int8", "good")), strict=True)
    assert all(same(a, b) for (_, a), (_, b) in pairs)


def test_a_quantized_file_is_not_hugging_faces(said):
    """It is recognized by its metadata, also beside a config.json."""
    said("quantize model.h5 --to int8")
    assert formats.open_weights("int8").format == "quantized"
    with pytest.raises(InputError, match=r"there is no .*config\.json"):
        huggingface.read_huggingface("int8")
