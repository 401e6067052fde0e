"""Hugging Face's format: npgpt and transformers read each other's files and compute the same.

transformers saves and computes once, in a process of its own (run_transformers.py).
"""

import dataclasses
import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

import npgpt
from npgpt import ops
from npgpt.cli.main import main
from npgpt.model.params import named
from npgpt.weights import huggingface
from parity_tests.support.harness import assert_parity, farthest
from parity_tests.support.run_transformers import ask, available
from parity_tests.support.weight_files import CONFIG, numbers, write_huggingface

THEIRS = {  # what transformers saves: dtype, without a head, the maximal size of a file
    "float32": ("float32", False, "5GB"),
    "float16": ("float16", False, "5GB"),
    "bfloat16": ("bfloat16", False, "5GB"),
    "without the prefix": ("float32", True, "5GB"),
    "in several files": ("float32", False, "4KB"),
    "without the prefix, in several files": ("bfloat16", True, "2KB"),
    "an output head of its own": ("float32", False, "5GB"),
}
OURS = {  # what npgpt exports: changes of the config, dtype
    "exported": ({}, "float32"),
    "exported as float16": ({}, "float16"),
    "exported as bfloat16": ({}, "bfloat16"),
    "the book's model, exported": ({"tied": False, "qkv_bias": False}, "float32"),
}
DIFFERENT = "an output head that the config ties, and that differs"
OLDER = {  # what older versions and other programs saved besides the parameters
    "masks": lambda arrays: {
        f"transformer.h.{i}.attn.{name}": mask
        for i in range(CONFIG.n_layer)
        for name, mask in {
            "bias": np.tri(12, dtype=bool)[None, None],
            "masked_bias": np.float32(-1e4),
        }.items()
    },
    "its output head again": lambda arrays: {"lm_head.weight": arrays["wte.weight"]},
    DIFFERENT: lambda arrays: {"lm_head.weight": arrays["wte.weight"][::-1].copy()},
}
FOLDERS = [*THEIRS, *OURS, *OLDER]
TOKENS = np.random.default_rng(5).integers(CONFIG.vocab_size, size=(2, 3, 12))  # and targets


@pytest.fixture(scope="module")
def answers():
    """A directory of models, each beside what transformers computes with it."""
    if not available():
        pytest.skip("no transformers here")
    with tempfile.TemporaryDirectory() as folder:
        folder, jobs = Path(folder), []
        np.save(folder / "tokens.npy", TOKENS)
        sizes = {"vocab_size": 257, "n_positions": 12, "n_layer": 2, "n_head": 2, "n_embd": 8}
        for name, options in THEIRS.items():
            tied = {"tie_word_embeddings": "head" not in name}
            jobs.append(["save", folder / name, sizes | tied, *options])
        for name, (changes, dtype) in OURS.items():
            export(folder / name, model_of(**changes), dtype)
        for name, more in OLDER.items():
            arrays = numbers()
            write_huggingface(
                folder / name, CONFIG, arrays, prefix="transformer.", extra=more(arrays)
            )
        jobs += [["run", folder / n, folder / "tokens.npy", folder / f"{n}.npz"] for n in FOLDERS]
        ask([*jobs, ["defaults", folder / "defaults.json"]])
        yield folder


def model_of(**changes):
    """Return a model without a 0 or 1 among its numbers."""
    config = npgpt.Config(**vars(CONFIG) | changes)
    model, rng = npgpt.GPT(config, seed=3, ops=ops, tokenizer="byte"), np.random.default_rng(3)
    for _, array in named(model.params):
        array += rng.normal(scale=0.2, size=array.shape).astype(np.float32)
    return model


def export(folder, model, dtype):
    """Export a model with the command."""
    saved = folder.with_suffix(".h5")
    model.save(saved)
    line = ["export", "--to", "huggingface", "--dtype", dtype]
    assert main([*line, "--model", str(saved), "--out", str(folder)]) == 0


as_in_transformers = pytest.mark.filterwarnings("ignore:.*both are read:npgpt.WeightFileWarning")


@pytest.mark.slow
@as_in_transformers
@pytest.mark.parametrize("name", FOLDERS)
def test_logits_loss_and_every_gradient(answers, backend, name):
    assert_same_as_transformers(npgpt.load(answers / name, ops=backend), answers / f"{name}.npz")


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n, (_, dtype) in OURS.items() if dtype == "float32"])
def test_an_exported_model_computes_the_same(answers, backend, name):
    assert_same_as_transformers(
        npgpt.load(answers / f"{name}.h5", ops=backend), answers / f"{name}.npz"
    )


def assert_same_as_transformers(model, path):
    """Compare logits, loss and gradients within the accuracy of float32."""
    tokens, targets = TOKENS
    config = dataclasses.replace(model.config, dropout=0.0)  # transformers evaluates
    model = npgpt.GPT.from_params(config, model.params, ops=model.ops)
    loss, cache = model.loss(tokens, targets)
    found = {"logits": model.logits(tokens), "loss": np.float32(loss)}
    found |= named(model.backward(cache))
    with np.load(path) as transformers:
        single, double = (
            {name.removeprefix(f"{dtype} "): a for name, a in transformers.items() if dtype in name}
            for dtype in ("float32", "float64")
        )
    if not model.config.qkv_bias:  # transformers has a bias of zeros, with a gradient
        double = {name: a for name, a in double.items() if not name.endswith("c_attn.bias")}
    assert found.keys() == double.keys()
    for name, truth in double.items():
        stray = farthest(single[name], truth)
        assert_parity(name, found[name], truth, stray, dtype=np.float32)


@pytest.mark.slow
@as_in_transformers
@pytest.mark.parametrize("name", FOLDERS)
def test_every_number_is_the_one_in_the_file(answers, name):
    """Compare with safetensors' own library. The names of the cases describe the files."""
    theirs = {}
    for path in (answers / name).glob("*.safetensors"):
        theirs |= load_file(path)
    files = sorted(path.name for path in (answers / name).glob("model*"))
    assert (len(files) > 2) == ("several" in name), files
    assert any(key.startswith("transformer.") for key in theirs) == ("without" not in name)
    dtype = next((d for d in ("bfloat16", "float16") if d in name), "float32")
    dtype = "bfloat16" if "without the prefix, in" in name else dtype
    assert {str(t.dtype) for key, t in theirs.items() if ".attn.bias" not in key} == {
        f"torch.{dtype}"
    }
    model = npgpt.load(answers / name)
    for key, array in named(model.params):
        stored = theirs.get(f"transformer.{key}", theirs.get(key))
        np.testing.assert_array_equal(array, stored.float().numpy(), err_msg=key)


# Optional parts of the config


@pytest.mark.slow
def test_defaults_of_a_config_are_those_of_transformers(answers):
    theirs = json.loads((answers / "defaults.json").read_text())
    for name, (default, _) in huggingface.FIXED.items():
        assert theirs[name] == default, name
    assert theirs["n_inner"] is None
    found = huggingface.parse_config({}, {}, Path())
    assert found == huggingface.parse_config(theirs, {}, Path())
    assert found == npgpt.Config(dropout=0.1, qkv_bias=False)


def test_three_dropout_rates_become_one_or_zero(tmp_path):
    config = npgpt.Config(**vars(CONFIG) | {"dropout": 0.25})
    write_huggingface(tmp_path, config, numbers())
    assert npgpt.load(tmp_path).config == config
    write_huggingface(tmp_path, config, numbers(), attn_pdrop=0.5)
    assert npgpt.load(tmp_path).config == CONFIG


@pytest.mark.parametrize(
    "says, tokenizer",
    [({}, None), ({"npgpt_tokenizer": "byte"}, "byte"), ({"npgpt_tokenizer": "gpt2"}, "gpt2"),
     ({"npgpt_tokenizer": ["gpt2"]}, None),
     ({"npgpt_tokenizer": "klingon"}, None)],
)  # fmt: skip
def test_the_tokenizer(tmp_path, says, tokenizer):
    write_huggingface(tmp_path, CONFIG, numbers(), **says)
    assert npgpt.load(tmp_path).tokenizer == tokenizer


def untied(**changes):
    """Return the arrays of a model with its own output head, and changes of its config."""
    head = numbers()["wte.weight"] + np.float32(0.25)
    return {"extra": {"lm_head.weight": head}} | changes


C = CONFIG.n_embd
FORGERIES = {  # the arguments of write_huggingface, and the error
    "another model": ({"model_type": "llama"}, "model_type is 'llama'; npgpt supports gpt2$"),
    "another activation": (
        {"activation_function": "gelu"},
        "activation_function is 'gelu'; npgpt supports gelu_new or gelu_pytorch_tanh$",
    ),
    "another epsilon": ({"layer_norm_epsilon": 1e-6}, "layer_norm_epsilon is 1e-06; npgpt suppo"),
    "no number for epsilon": (
        {"layer_norm_epsilon": float("nan")},
        "config.json is not JSON .it contains NaN",
    ),
    "a list for epsilon": ({"layer_norm_epsilon": [1e-5]}, r"layer_norm_epsilon is \[1e-05\]; np"),
    "another scale": ({"scale_attn_weights": False}, "scale_attn_weights is False; npgpt supp"),
    "another width inside": ({"n_inner": 24}, r"n_inner is 24; npgpt supports 4 x n_embd = 32$"),
    "a word for a number": ({"n_embd": "8"}, "config.json: n_embd is '8', expected a number$"),
    "a half layer": (
        {"n_layer": 1.5},
        "config.json: n_layer is 1.5, but must be an integer$",
    ),
    "no layers": ({"n_layer": 0}, "n_layer is 0, but must be at least 1$"),
    "three heads": ({"n_head": 3}, "n_embd is 8 and n_head is 3"),
    "a word for a rate": (dict.fromkeys(huggingface.RATES, "1"), "dropout is '1', expected a num"),
    "tied perhaps": (
        {"tie_word_embeddings": 1},
        "tie_word_embeddings is 1, expected true or false",
    ),
    "more layers": ({"n_layer": 3}, r"has no h.2.ln_1.weight, which its config requires"),
    "layers without end": ({"n_layer": 10**12}, "28 tensors, too few for 1000000000000 layers$"),
    "another vocabulary": (
        {"vocab_size": 258},
        r"wte.weight has shape \(257, 8\), its config requires \(258, 8\)$",
    ),
    "another context": (
        {"n_positions": 13},
        r"wpe.weight has shape \(12, 8\), its config requires \(13, 8\)$",
    ),
    "a width without end": (
        {"n_embd": 2**62, "n_inner": None},
        r"wte.weight has shape \(257, 8\), its config requires \(257, 4611686018427387904\)$",
    ),
    "a missing tensor": (
        {"leave": "h.1.ln_2.bias", "prefix": "transformer."},
        "safetensors has no h.1.ln_2.bias, which its config requires$",
    ),
    "a misspelt tensor": (
        {"leave": "h.1.ln_2.bias", "extra": {"h.1.ln_2.bais": np.zeros(8, np.float32)}},
        "safetensors has 'h.1.ln_2.bais', which its config does not have$",
    ),
    "with and without the prefix": (
        {"extra": {"transformer.wte.weight": np.zeros((257, C), np.float32)}},
        "has 'wte.weight' twice, as 'wte.weight' and as 'transformer.wte.weight'$",
    ),
    "a wrong shape": (
        {"extra": {"h.0.ln_1.bias": np.zeros(7, np.float32)}},
        r"h.0.ln_1.bias has shape \(7,\), its config requires \(8,\)$",
    ),
    "a matrix upside down": (
        {"extra": {"h.0.mlp.c_fc.weight": np.zeros((4 * C, C), np.float32)}},
        r"h.0.mlp.c_fc.weight has shape \(32, 8\), its config requires \(8, 32\): is it transposed",
    ),
    "whole numbers": (
        {"extra": {"wpe.weight": np.zeros((12, C), np.int32)}},
        "wpe.weight is int32; parameters must be float32, float16, bfloat16, or all of them fl",
    ),
    "one of float64": (
        {"extra": {"wpe.weight": np.zeros((12, C))}},
        "wpe.weight is float64; parameters must be float32, float16, bfloat16, or all of them",
    ),
    "no output head": ({"tie_word_embeddings": False}, "has no lm_head.weight, which its config"),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_a_model_that_contradicts_its_config(tmp_path, unreadable, name):
    options, says = FORGERIES[name]
    options = dict(options)
    arrays = numbers()
    arrays.pop(options.pop("leave", None), None)
    write_huggingface(tmp_path, CONFIG, arrays, **options)
    unreadable(tmp_path, says)


def test_an_untied_output_head_is_read(tmp_path):
    more = untied(tie_word_embeddings=False)
    write_huggingface(tmp_path, CONFIG, numbers(), **more)
    model = npgpt.load(tmp_path)
    np.testing.assert_array_equal(model.params.lm_head.weight, more["extra"]["lm_head.weight"])


@pytest.mark.parametrize(
    "text, says",
    [
        (None, "there is no .*config.json, which describes the shape of the model$"),
        (b"", r"config.json is not JSON \("),
        (b"{'n_layer': 2}", r"config.json is not JSON \("),
        (b'{"n_layer": 2', r"config.json is not JSON \("),
        (b'\xff\xfe{"n_layer": 2}', r"config.json is not JSON \("),
        (b"[" * 100_000, r"config.json is not JSON \("),
        (b"[2]", r"config.json is not a JSON object: \[2\]$"),
        (b'{"n_layer": 2, "n_layer": 2}', "is not JSON .a name occurs twice.$"),
        (b'{"n_layer": %s}' % (b"9" * 5000), "is not JSON .the number 9{40}, which is too large.$"),
        (b" " * (1 << 20) + b"{}", r"has 1,048,578 bytes; at most 1,048,576 of JSON are read$"),
    ],
    ids=["none", "empty", "python", "cut", "utf-16", "deep", "list", "twice", "long", "large"],
)
def test_an_invalid_config(tmp_path, unreadable, text, says):
    write_huggingface(tmp_path, CONFIG, numbers())
    (tmp_path / "config.json").unlink()
    if text is not None:
        (tmp_path / "config.json").write_bytes(text)
    unreadable(tmp_path, says)


# Several files


@pytest.mark.parametrize("shards", [2, 5])
def test_an_index_or_its_directory_can_be_given(tmp_path, shards):
    write_huggingface(tmp_path, CONFIG, numbers(), shards=shards)
    for path in (tmp_path, tmp_path / "model.safetensors.index.json"):
        for name, array in named(npgpt.load(path).params):
            np.testing.assert_array_equal(array, numbers()[name], err_msg=name)
    (tmp_path / "model.safetensors.index.json").rename(tmp_path / "elsewhere.json")
    npgpt.load(tmp_path / "elsewhere.json")


def first(index):
    """Return the first tensor, which is in the first of two files."""
    return next(iter(index["weight_map"]))


def placed(where):
    def change(index):
        index["weight_map"][first(index)] = where

    return change


FILE = "model-00001-of-00002.safetensors"
INDICES = {
    "no map": (lambda index: index.pop("weight_map"), "has no weight_map with the file of each"),
    "an empty map": (lambda index: index["weight_map"].clear(), "has no weight_map with"),
    "a list": (lambda index: index.update(weight_map=[FILE]), "has no weight_map with"),
    "a number": (placed(1), "'wte.weight' is in 1, expected a file beside it$"),
    "nothing": (placed(""), "'wte.weight' is in '', expected a file beside it$"),
    "the folder": (placed("."), "'wte.weight' is in '.', expected a file beside it$"),
    "the folder above": (placed(".."), r"'wte.weight' is in '..', expected a file beside it$"),
    "outside": (placed("../" + FILE), "is in '../model-.*', expected a file beside it$"),
    "from the root": (placed("/etc/passwd"), "is in '/etc/passwd', expected a file beside it$"),
    "a line break": (placed("a\nb"), r"is in 'a\\nb', expected a file beside it$"),
    "a zero": (placed("a\0"), r"is in 'a\\x00', expected a file beside it$"),
    "a long name": (placed("a" * 300), "is in 'a+..., expected a file beside it$"),
    "a missing file": (placed("no.safetensors"), "there is no file .*no.safetensors$"),
    "another file": (
        placed("model-00002-of-00002.safetensors"),
        "00002-of-00002.safetensors has no 'wte.weight', which model.safetensors.index.json as",
    ),
    "a tensor left out": (
        lambda index: index["weight_map"].pop(first(index)),
        "00001-of-00002.safetensors has 'wte.weight', which .*index.json does not assign to it$",
    ),
    "the index itself": (placed("model.safetensors.index.json"), "is truncated, or not a saf"),
}  # fmt: skip


@pytest.mark.parametrize("name", INDICES)
def test_an_index_that_contradicts_its_files(tmp_path, unreadable, name):
    change, says = INDICES[name]
    write_huggingface(tmp_path, CONFIG, numbers(), shards=2)
    path = tmp_path / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    change(index)
    path.write_text(json.dumps(index))
    unreadable(tmp_path, says)


def test_a_file_missing_from_several(tmp_path, unreadable):
    write_huggingface(tmp_path, CONFIG, numbers(), shards=3)
    (tmp_path / "model-00002-of-00003.safetensors").unlink()
    unreadable(tmp_path, "there is no file .*model-00002-of-00003.safetensors$")
