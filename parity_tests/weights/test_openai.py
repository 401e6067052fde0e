"""OpenAI's directory: hparams.json and the checkpoint must fit each other.

The checkpoint itself is compared with TensorFlow in test_tensor_bundle.py.
"""

import json

import numpy as np
import pytest

import npgpt
from npgpt.model.params import named
from npgpt.weights import formats
from npgpt.weights.openai import parameter_name
from parity_tests.support import bundles
from parity_tests.support.weight_files import CONFIG, numbers


@pytest.fixture
def folder(tmp_path):
    """The directory of a small model."""
    bundles.write_gpt2(tmp_path / "124M", CONFIG, numbers())
    return tmp_path / "124M"


def changed(folder, tensors=None, **hparams):
    """Write the directory again. `tensors`: by OpenAI's names; None to omit one."""
    values = json.loads((folder / "hparams.json").read_text()) | hparams
    values = {name: value for name, value in values.items() if value is not None}
    (folder / "hparams.json").write_text(json.dumps(values))
    arrays = bundles.openai(numbers()) | (tensors or {})
    arrays = {name: array for name, array in arrays.items() if array is not None}
    bundles.write(folder / "model.ckpt", arrays)


def test_a_directory_or_its_index_can_be_given(folder):
    for path in folder, folder / "model.ckpt.index":
        source = formats.open_weights(path)
        assert (source.format, source.config, source.tokenizer) == ("openai", CONFIG, None)
        assert source.path == folder / "model.ckpt.index"
        for name, array in named(source.params()):
            np.testing.assert_array_equal(array, numbers()[name], err_msg=name)


def test_names_are_converted_back():
    for name in numbers():
        assert parameter_name(bundles.openai_name(name)) == name


def test_other_variables_are_ignored(folder):
    extra = {"global_step": np.int64(7), "optimizer/wte": np.zeros(3, np.float32)}
    changed(folder, extra)
    with pytest.warns(npgpt.IgnoredTensorsWarning, match="2 tensors .*'global_step', 'optimizer/"):
        source = formats.open_weights(folder)
    assert extra.keys() <= source.tensors.keys()
    assert len(source.parameters) == len(numbers())
    with pytest.warns(npgpt.IgnoredTensorsWarning):
        model = npgpt.load(folder)
    assert model.size == sum(array.size for array in numbers().values())


ZEROS = np.zeros((1, 8, 32), np.float32)
FORGERIES = {  # hparams, tensors, and the error
    "no context": ({"n_ctx": None}, {}, "hparams.json has no n_ctx$"),
    "a word": ({"n_embd": "8"}, {}, "hparams.json: n_embd is '8', expected a number$"),
    "a list": ({"n_layer": [2]}, {}, r"hparams.json: n_layer is \[2\], expected a number$"),
    "a half head": ({"n_head": 0.5}, {}, "n_head is 0.5, but must be an integer$"),
    "three heads": ({"n_head": 3}, {}, "hparams.json: n_embd is 8 and n_head is 3"),
    "no layers": ({"n_layer": 0}, {}, "n_layer is 0, but must be at least 1$"),
    "more layers": (
        {"n_layer": 3}, {}, "ckpt.index has no h.2.ln_1.weight, which its config requires$",
    ),
    "layers without end": ({"n_layer": 10**15}, {}, "28 tensors, too few for 1000000000000000 "),
    "another vocabulary": (
        {"n_vocab": 258}, {}, r"model/wte has shape \(257, 8\), its config requires \(258, 8\)$",
    ),
    "another context": (
        {"n_ctx": 2**60}, {}, r"model/wpe has shape \(12, 8\), its config requires \(11529215046",
    ),
    "a missing tensor": (
        {}, {"model/h1/ln_2/b": None}, "index has no h.1.ln_2.bias, which its config requires$",
    ),
    "a misspelt tensor": (
        {}, {"model/h1/ln_2/b": None, "model/h1/ln_2/bias": ZEROS[0, 0]},
        "ckpt.index has 'model/h1/ln_2/bias', which its config does not have$",
    ),
    "a wrong shape": (
        {}, {"model/h0/ln_1/b": np.zeros(7, np.float32)},
        r"model/h0/ln_1/b has shape \(7,\), its config requires \(8,\)$",
    ),
    "a matrix upside down": (
        {}, {"model/h0/mlp/c_fc/w": ZEROS.transpose(0, 2, 1)},
        r"model/h0/mlp/c_fc/w has shape \(32, 8\), its config requires \(8, 32\): is it transposed",
    ),
    "a convolution that is wider": (
        {}, {"model/h0/mlp/c_fc/w": np.zeros((3, 8, 32), np.float32)},
        r"model/h0/mlp/c_fc/w has shape \(3, 8, 32\), its config requires \(8, 32\)$",
    ),
    "whole numbers": (
        {}, {"model/wpe": np.zeros((12, 8), np.int64)}, "model/wpe is int64; parameters must be",
    ),
    "the same twice": (
        {}, {"model/wpe/w": np.zeros((12, 8), np.float32)},
        "ckpt.index: 'model/wpe' and 'model/wpe/w' are the same parameter$",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FORGERIES)
def test_a_model_that_contradicts_its_config(folder, unreadable, name):
    hparams, tensors, says = FORGERIES[name]
    changed(folder, tensors, **hparams)
    unreadable(folder, says)


def test_a_directory_with_missing_files(folder, unreadable):
    (folder / "hparams.json").rename(folder / "config.json")
    unreadable(folder, "there is no file .*hparams.json$")
    (folder / "hparams.json").write_text("{'n_layer': 2}")
    unreadable(folder, r"hparams.json is not JSON \(")
    (folder / "hparams.json").write_text("[]")
    unreadable(folder, r"hparams.json is not a JSON object: \[\]$")
    (folder / "config.json").rename(folder / "hparams.json")
    (folder / "other.ckpt.index").write_bytes(b"")
    unreadable(folder, "has 2 checkpoints, expected one: pass an .index file$")
    (folder / "other.ckpt.index").unlink()
    (folder / "model.ckpt.data-00000-of-00001").unlink()
    unreadable(folder, "there is no file .*model.ckpt.data-00000-of-00001$")
