"""Files that other programs write: the model that transformers reads in them is read."""

import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch

import npgpt
from npgpt.errors import IgnoredTensorsWarning
from npgpt.model.params import named
from npgpt.weights import formats
from parity_tests.support import bundles
from parity_tests.support.run_transformers import ask, available
from parity_tests.support.weight_files import (
    CONFIG,
    brain,
    numbers,
    pack,
    write_config,
    write_huggingface,
)

HEAD = np.ones((2, 8), np.float32)
FURTHER = {f"transformer.h.2.ln_1.{part}": np.ones(8, np.float32) for part in ("weight", "bias")}
LONG_NAMES = {f"unlisted.{i:0200}": np.zeros(1, np.float32) for i in range(5000)}  # 1.4 MB of JSON
SIZES = {
    "hidden_size": 8, "max_position_embeddings": 12, "num_attention_heads": 2,
    "num_hidden_layers": 2,
}  # fmt: skip
NO_SIZES = dict.fromkeys(("n_embd", "n_positions", "n_head", "n_layer"))
FOLDERS = {  # the tensors besides the model's, and the changes of its config.json
    "a second head": ({"score.weight": HEAD, "multiple_choice_head.summary.bias": HEAD[0]}, {}),
    "an unlisted tensor": ({"position_ids": np.arange(12)}, {}),
    "further layers": (FURTHER, {}),
    "a header above 1 MB": (LONG_NAMES, {}),
    "other names of sizes": ({}, NO_SIZES | SIZES),
    "both names of sizes": ({}, dict.fromkeys(NO_SIZES, 4) | SIZES),
    "tied, written once": ({}, {}),
    "tied, written once, without the prefix": ({}, {}),
}


def write(folder, name):
    """Write the model of a case."""
    extra, changes = FOLDERS[name]
    arrays, prefix = numbers(), "" if "without the prefix" in name else "transformer."
    if "written once" in name:
        arrays = {"lm_head.weight" if n == "wte.weight" else n: a for n, a in arrays.items()}
    write_huggingface(folder, CONFIG, arrays, prefix=prefix, extra=extra, **changes)


@pytest.fixture(scope="module")
def read():
    """A directory of models, each beside what transformers reads in it."""
    if not available():
        pytest.skip("no transformers here")
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        for name in FOLDERS:
            write(folder / name, name)
        ask([
            ["save_tied", folder / "save_model", vars_of(CONFIG)],
            *(["read", folder / name, folder / f"{name}.npz"] for name in [*FOLDERS, "save_model"]),
        ])  # fmt: skip
        yield folder


def vars_of(config):
    """Return the sizes of a config by transformers' names."""
    return {
        "vocab_size": config.vocab_size, "n_positions": config.context_length,
        "n_layer": config.n_layer, "n_head": config.n_head, "n_embd": config.n_embd,
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::npgpt.IgnoredTensorsWarning")
@pytest.mark.parametrize("name", [*FOLDERS, "save_model"])
def test_every_number_is_the_one_that_transformers_reads(read, name):
    source = formats.open_weights(read / name)
    with np.load(read / f"{name}.npz") as theirs:
        assert set(source.ignored) == set(theirs["unexpected"].tolist())
        for key, array in named(source.params()):
            np.testing.assert_array_equal(array, theirs[key], err_msg=key)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, (extra, _) in FOLDERS.items() if extra])
def test_what_is_left_out_is_said(tmp_path, npgpt_, name):
    write(tmp_path, name)
    names = [*FOLDERS[name][0]]
    says = (
        rf"model.safetensors: ignored {len(names)} tensors? that (is|are) no part of the model: '"
    )
    with pytest.warns(IgnoredTensorsWarning, match=says + names[0][:70]):
        model = npgpt.load(tmp_path)
    for key, array in named(model.params):
        np.testing.assert_array_equal(array, numbers()[key], err_msg=key)
    said = npgpt_("export --to llm.c", "--model", str(tmp_path), "--out", str(tmp_path / "it.bin"))
    assert said.err.count("\n") == 1
    assert f": ignored {len(names)} tensor" in said.err or len(names) > 100
    found = json.loads(npgpt_("inspect --json", str(tmp_path)).out)
    assert found["ignored"] == names


@pytest.mark.parametrize(
    "prefix",
    ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.transformer.",
     "module._orig_mod.transformer.", "transformer.module.", "module.transformer._orig_mod."],
)  # fmt: skip
def test_the_prefixes_of_wrappers_are_removed(tmp_path, prefix):
    write_config(tmp_path, CONFIG)
    arrays = {prefix + name: array for name, array in numbers().items()}
    head = prefix.replace("transformer.", "")
    arrays |= {head + "lm_head.weight": numbers()["wte.weight"]}
    (tmp_path / "model.safetensors").write_bytes(pack(arrays))
    for key, array in named(npgpt.load(tmp_path).params):
        np.testing.assert_array_equal(array, numbers()[key], err_msg=key)


@pytest.mark.parametrize("part", ["h.0.", "h.1.mlp.", "h.0.attn.c_attn."])
def test_parts_that_are_compiled_by_themselves(tmp_path, part):
    write_config(tmp_path, CONFIG)
    arrays = {name.replace(part, f"{part}_orig_mod."): a for name, a in numbers().items()}
    (tmp_path / "model.safetensors").write_bytes(pack(arrays))
    assert npgpt.load(tmp_path).size == sum(array.size for array in numbers().values())


@pytest.mark.slow
def test_the_prefixes_are_those_of_torch():
    linear = torch.nn.Linear(1, 1)
    assert [*torch.nn.DataParallel(linear).state_dict()] == ["module.weight", "module.bias"]
    assert [*torch.compile(linear, backend="eager").state_dict()] == [
        "_orig_mod.weight",
        "_orig_mod.bias",
    ]


def test_a_name_with_many_prefixes(tmp_path):
    """In time that is linear in its length."""
    arrays = {"module." * 100_000 + "x": HEAD, "_orig_mod." * 50_000 + "y": HEAD}
    write_huggingface(tmp_path, CONFIG, numbers(), extra=arrays)
    with pytest.warns(IgnoredTensorsWarning, match="2 tensors"):
        npgpt.load(tmp_path)


def test_a_bias_of_some_layers_is_not_ignored(tmp_path, unreadable):
    """Without that of layer 0, the file is not taken for a model without these biases."""
    arrays = numbers()
    del arrays["h.0.attn.c_attn.bias"]
    write_huggingface(tmp_path, CONFIG, arrays)
    unreadable(tmp_path, r"has no h\.0\.attn\.c_attn\.bias, which its config requires$")


def test_a_tied_matrix_is_read_once_only_if_the_config_ties(tmp_path, unreadable):
    arrays = numbers()
    arrays["lm_head.weight"] = arrays.pop("wte.weight")
    write_huggingface(tmp_path, CONFIG, arrays, tie_word_embeddings=False)
    unreadable(tmp_path, r"has no wte\.weight, which its config requires$")


def test_an_output_head_that_differs_is_said(tmp_path, npgpt_):
    head = numbers()["wte.weight"] + np.float32(0.25)
    write_huggingface(
        tmp_path, CONFIG, numbers(), extra={"lm_head.weight": head}, tie_word_embeddings=None
    )
    says = (
        r"ties lm_head.weight to wte.weight, but they differ: both are read\. To silence this, set"
    )
    with pytest.warns(npgpt.WeightFileWarning, match=says):
        model = npgpt.load(tmp_path)
    assert not model.config.tied
    np.testing.assert_array_equal(model.params.lm_head.weight, head)
    command = "export --to huggingface --tokenizer byte"
    said = npgpt_(command, "--model", str(tmp_path), "--out", str(tmp_path / "o"))
    assert said.err.count("\n") == 1
    np.testing.assert_array_equal(
        npgpt.load(tmp_path / "o").params.lm_head.weight, model.params.lm_head.weight
    )


def test_an_output_head_of_another_dtype_may_be_tied(tmp_path):
    write_huggingface(
        tmp_path, CONFIG, numbers(), extra={"lm_head.weight": brain(numbers()["wte.weight"])}
    )
    assert npgpt.load(tmp_path).config.tied


def test_a_tied_output_head_of_another_shape(tmp_path, unreadable):
    write_huggingface(
        tmp_path, CONFIG, numbers(), extra={"lm_head.weight": np.zeros((5, 8), np.float32)}
    )
    unreadable(tmp_path, r"lm_head.weight has shape \(5, 8\), its config requires \(257, 8\)$")


def test_the_slots_of_an_optimizer_in_tensorflow(tmp_path):
    """Adam's moments, its powers and the step count, as tf.train.Saver saves them."""
    bundles.write_gpt2(tmp_path, CONFIG, arrays := numbers())
    ours = bundles.openai(arrays)
    slots = {f"{n}/{slot}": 0 * array for n, array in ours.items() for slot in ("Adam", "Adam_1")}
    others = {"beta1_power": np.float32(0.9), "beta2_power": np.float32(1), "step": np.int64(7)}
    bundles.write(tmp_path / "model.ckpt", ours | slots | others)
    with pytest.warns(IgnoredTensorsWarning, match=r"model.ckpt.index: ignored \d+ tensors .*Adam"):
        source = formats.open_weights(tmp_path)
    assert len(source.ignored) == 2 * len(arrays) + 3
    for key, array in named(source.params()):
        np.testing.assert_array_equal(array, arrays[key], err_msg=key)
