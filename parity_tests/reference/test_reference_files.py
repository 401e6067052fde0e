"""The reference implementation reads OpenAI's, Hugging Face's and npgpt's files without npgpt.

Each file is written by npgpt, or by the format's own library from known numbers: parameters are
compared bit for bit with these numbers and with what npgpt.load finds, logits within the budget of
harness.py. TensorFlow and transformers run in processes of their own.
"""

import json
import sys
from dataclasses import asdict

import h5py
import numpy as np
import pytest
import safetensors.numpy
import torch
from safetensors.torch import load_file

import npgpt
from npgpt import ops
from npgpt.cli.main import main
from parity_tests.support import bundles, run_tensorflow, run_transformers
from parity_tests.support.harness import assert_parity, farthest
from parity_tests.support.weight_files import CONFIG, numbers, write_config, write_huggingface
from reference.gpt2 import GPT2, Config, from_arrays

TOKENS = np.random.default_rng(5).integers(CONFIG.vocab_size, size=(2, CONFIG.context_length))
BOOK = npgpt.Config(**vars(CONFIG) | {"tied": False, "qkv_bias": False, "dropout": 0.25})


def bits(array):
    """Return the dtype, shape and bytes of an array: -0.0 is not 0.0."""
    array = np.asarray(array)
    return array.dtype.name, array.shape, array.tobytes()


def assert_same_model(path, expected, theirs=None):
    """Assert that reference and npgpt find the arrays `expected`, {name: array}, at `path`.

    theirs: the model that the reference implementation has loaded; default: it loads `path`.
    """
    theirs = theirs or GPT2.load(path)
    ours = npgpt.load(path, ops=ops)
    assert asdict(theirs.config) == asdict(ours.config)
    state, params = theirs.state_dict(), dict(npgpt.named(ours.params))
    assert state.keys() == params.keys() == expected.keys()
    for name, array in expected.items():
        assert bits(state[name]) == bits(params[name]) == bits(array), name
    assert all(parameter.requires_grad for parameter in theirs.parameters())

    with torch.no_grad():
        logits = theirs(torch.tensor(TOKENS)).numpy()
        truth = theirs.double()(torch.tensor(TOKENS)).numpy()
    dtype = expected["wte.weight"].dtype
    single = from_arrays(theirs.config, {n: a.astype(np.float32) for n, a in expected.items()})
    stray = farthest(single(torch.tensor(TOKENS)).detach().numpy(), truth)
    assert_parity("reference", logits, truth, stray, dtype=dtype)
    assert_parity("npgpt", ours.logits(TOKENS), truth, stray, dtype=dtype)


# npgpt


def saved(path, config=CONFIG, dtype=np.float32):
    """Write npgpt's checkpoint of a model none of whose parameters is 0; return them by name."""
    rng = np.random.default_rng(7)
    model = npgpt.GPT(config, seed=3, ops=ops, dtype=dtype, tokenizer="byte")
    for _, array in npgpt.named(model.params):
        array += rng.normal(scale=0.2, size=array.shape).astype(dtype)
    model.save(path)
    return dict(npgpt.named(model.params))


@pytest.mark.parametrize("config", [CONFIG, BOOK], ids=["gpt2", "book"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_npgpts_checkpoint(tmp_path, config, dtype):
    assert_same_model(tmp_path / "model.h5", saved(tmp_path / "model.h5", config, dtype))


def test_the_folder_of_a_run(tmp_path):
    assert_same_model(tmp_path, saved(tmp_path / "checkpoint.h5"))


@pytest.mark.parametrize("config", [CONFIG, BOOK], ids=["gpt2", "book"])
def test_what_npgpt_exports(tmp_path, config):
    expected = saved(tmp_path / "model.h5", config)
    folder = tmp_path / "exported"
    line = ["export", "--to", "huggingface", "--model", str(tmp_path / "model.h5")]
    assert main([*line, "--out", str(folder)]) == 0
    zeros = np.zeros(3 * config.n_embd, np.float32)  # the format always has this bias
    biases = {f"h.{i}.attn.c_attn.bias": zeros for i in range(config.n_layer)}
    assert_same_model(folder, biases | expected)


# Hugging Face


@pytest.mark.parametrize("prefix", ["", "transformer."])
@pytest.mark.parametrize("name", ["folder", "model.safetensors"])
def test_what_the_library_of_safetensors_saves(tmp_path, prefix, name):
    arrays = numbers()
    safetensors.numpy.save_file(
        {prefix + n: array for n, array in arrays.items()}, tmp_path / "model.safetensors"
    )
    write_config(tmp_path, CONFIG)
    assert_same_model(tmp_path if name == "folder" else tmp_path / name, arrays)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_widened(tmp_path, dtype):
    write_huggingface(tmp_path, CONFIG, numbers(), dtype=dtype)
    assert_same_model(tmp_path, numbers())


@pytest.mark.parametrize("name", ["folder", "model.safetensors.index.json"])
def test_an_index_of_several_files(tmp_path, name):
    write_huggingface(tmp_path, CONFIG, numbers(), prefix="transformer.", shards=3)
    assert_same_model(tmp_path if name == "folder" else tmp_path / name, numbers())


def test_masks_and_a_second_copy_of_the_head_are_left_out(tmp_path):
    extra = {"transformer.h.1.attn.bias": np.tri(12, dtype=bool)[None, None]}
    extra["transformer.h.0.attn.masked_bias"] = np.float32(-1e4)
    extra["lm_head.weight"] = numbers()["wte.weight"]
    write_huggingface(tmp_path, CONFIG, numbers(), prefix="transformer.", extra=extra)
    assert_same_model(tmp_path, numbers())


TRANSFORMERS = {  # options of save_pretrained's model: dtype, without its head, bytes per file
    "float32": ("float32", False, "5GB"),
    "bfloat16, several files": ("bfloat16", False, "2KB"),
    "without the prefix": ("float32", True, "5GB"),
    "head of its own": ("float32", False, "5GB"),
}


@pytest.fixture(scope="module")
def transformers(tmp_path_factory):
    """Return a folder of what transformers has saved and, as .npz, computes with it."""
    if not run_transformers.available():
        pytest.skip("transformers is not installed")
    root = tmp_path_factory.mktemp("transformers")
    np.save(root / "tokens.npy", np.stack([TOKENS, TOKENS]))
    sizes = {"vocab_size": 257, "n_positions": 12, "n_layer": 2, "n_head": 2, "n_embd": 8}
    jobs = []
    for name, options in TRANSFORMERS.items():
        tied = {"tie_word_embeddings": "head" not in name}
        jobs.append(["save", root / name, sizes | tied, *options])
        jobs.append(["run", root / name, root / "tokens.npy", root / f"{name}.npz"])
    run_transformers.ask(jobs)
    return root


@pytest.mark.slow
@pytest.mark.parametrize("name", TRANSFORMERS)
def test_what_transformers_saves(transformers, name):
    stored = {}
    for path in (transformers / name).glob("*.safetensors"):
        stored |= load_file(path)
    expected = {n.removeprefix("transformer."): t.float().numpy() for n, t in stored.items()}
    assert_same_model(transformers / name, expected)

    model = GPT2.load(transformers / name)
    with np.load(transformers / f"{name}.npz") as found:
        single, double = found["float32 logits"], found["float64 logits"]
    logits = model(torch.tensor(TOKENS)).detach().numpy()
    assert_parity("logits", logits, double, farthest(single, double), dtype=np.float32)


# OpenAI


WRONG = {  # what is changed in OpenAI's folder, and the error
    "a missing tensor": ({"model/h1/ln_2/b": None}, "h.1.ln_2.bias is missing"),
    "a wrong shape": (
        {"model/h0/mlp/c_fc/w": np.zeros((3, 8, 32), np.float32)},
        r"h.0.mlp.c_fc.weight must be of shape (8, 32), not (3, 8, 32)",
    ),
    "a name twice": ({"model/wpe/w": np.zeros((12, 8), np.float32)}, "wpe.weight must be stored"),
    "another parameter": ({"model/bias": np.zeros(3, np.float32)}, "bias.weight must not be there"),
    "integers": ({"model/wpe": np.zeros((12, 8), np.int64)}, "wpe.weight must be floating point"),
}


@pytest.fixture(scope="module")
def openai(tmp_path_factory):
    """Return a folder of OpenAI's folders, each as .npz with what the reference read or said."""
    if not run_tensorflow.available():
        pytest.skip("TensorFlow is not installed")
    root, jobs = tmp_path_factory.mktemp("openai"), []
    for name in ("by TensorFlow", "by hand", *WRONG):
        folder = root / name
        folder.mkdir()
        bundles.write_hparams(folder, CONFIG)
        arrays = bundles.openai(numbers()) | {"global_step": np.int64(7)}
        arrays |= WRONG.get(name, ({}, ""))[0]
        arrays = {n: array for n, array in arrays.items() if array is not None}
        if name == "by TensorFlow":
            np.savez(root / "arrays.npz", **arrays)
            jobs.append(["save", root / "arrays.npz", folder / "model.ckpt", 1, [], True])
        else:
            bundles.write(folder / "model.ckpt", arrays)
        jobs.append(["reference", folder, root / f"{name}.npz"])
    index = root / "by TensorFlow" / "model.ckpt.index"
    run_tensorflow.ask([*jobs, ["reference", index, root / "index.npz"]])
    return root


@pytest.mark.slow
@pytest.mark.parametrize("name", ["by TensorFlow", "by hand", "index"])
@pytest.mark.filterwarnings("ignore::npgpt.IgnoredTensorsWarning")  # of global_step
def test_openais_folder(openai, name):
    with np.load(openai / f"{name}.npz") as found:
        found = dict(found)
    sizes = json.loads(str(found.pop("config")))
    path = openai / "by TensorFlow" / "model.ckpt.index" if name == "index" else openai / name
    assert_same_model(path, numbers(), from_arrays(Config(**sizes), found))


@pytest.mark.slow
@pytest.mark.parametrize("name", WRONG)
def test_a_mistake_in_openais_folder_is_one_error(openai, name):
    with np.load(openai / f"{name}.npz") as found:
        said = str(found["error"])
    assert WRONG[name][1] in said
    assert said.endswith(f"while loading {openai / name}")


def test_without_tensorflow(tmp_path, monkeypatch):
    bundles.write_gpt2(tmp_path, CONFIG, numbers())
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(ImportError, match="OpenAI's checkpoint needs TensorFlow: pip install"):
        GPT2.load(tmp_path)


# Mistakes


def forged(folder, tensors=None, **changes):
    """Write a Hugging Face folder; `tensors`: other ones, None leaves one out."""
    arrays = numbers() | (tensors or {})
    arrays = {name: array for name, array in arrays.items() if array is not None}
    (folder / "model.safetensors").write_bytes(safetensors.numpy.save(arrays))
    write_config(folder, CONFIG, **changes)


@pytest.mark.parametrize(
    "tensors, changes, says",
    [
        ({"h.1.ln_2.bias": None}, {}, r"h\.1\.ln_2\.bias is missing; its shape must be \(8,\)"),
        ({"h.0.ln_1.bias": np.zeros(7, "f")}, {}, r"h\.0\.ln_1\.bias must be of shape \(8,\), not"),
        ({"h.2.ln_1.bias": np.zeros(8, "f")}, {}, r"h\.2\.ln_1\.bias must not be there"),
        ({"ln_f.bias": np.zeros(8)}, {}, r"must be of one dtype, not \['torch.float32', 'torch.f"),
        ({"ln_f.bias": np.zeros(8, int)}, {}, r"ln_f\.bias must be floating point, not torch.int"),
        ({"transformer.ln_f.bias": np.zeros(8, "f")}, {}, r"ln_f\.bias must be stored once"),
        ({"lm_head.weight": np.zeros((257, 8), "f")}, {}, "must equal wte.weight: config.json ti"),
        ({}, {"tie_word_embeddings": False}, r"lm_head\.weight is missing; its shape must be"),
        ({}, {"n_layer": 10**15}, "28 tensors are too few for n_layer = 1000000000000000"),
        ({}, {"n_head": 3}, "n_embd must be a multiple of n_head: 8, 3"),
        ({}, {"n_embd": "8"}, "n_embd must be an integer of at least 1, not '8'"),
        ({}, {"n_layer": 0}, "n_layer must be an integer of at least 1, not 0"),
        ({}, {"vocab_size": 2**60}, "overflow"),
        ({}, {"activation_function": "relu"}, "activation_function must be 'gelu_new' or 'gelu_py"),
        ({}, {"n_inner": 31}, r"n_inner must be 4 \* n_embd, not 31"),
    ],
)
def test_a_mistake_in_a_folder_is_one_error(tmp_path, tensors, changes, says):
    forged(tmp_path, tensors, **{"n_inner": None} | changes)
    with pytest.raises((ValueError, RuntimeError), match=says) as caught:
        GPT2.load(tmp_path)
    assert caught.value.__notes__ == [f"while loading {tmp_path}"]


def test_an_index_names_files_of_its_own_folder(tmp_path):
    write_config(tmp_path, CONFIG)
    index = {"weight_map": {"wte.weight": "../model.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"files of its own folder, not '\.\./model.safetensors'"):
        GPT2.load(tmp_path)


def test_an_hdf5_file_that_is_not_npgpts(tmp_path):
    with h5py.File(tmp_path / "model.h5", "w") as file:
        file.attrs["format"] = "another"
    with pytest.raises(ValueError, match=r"must be 'npgpt' and 1, not \('another', None\)"):
        GPT2.load(tmp_path / "model.h5")


def test_parameters_larger_than_their_file(tmp_path):
    """A dataset that was never written takes no room in the file, and would in memory."""
    saved(tmp_path / "model.h5")
    with h5py.File(tmp_path / "model.h5", "r+") as file:
        file["parameters"].create_dataset("large", (1 << 40,), np.float32)
    with pytest.raises(ValueError, match="must fit into the file, but have 4,398,0"):
        GPT2.load(tmp_path / "model.h5")


def test_a_pickle_is_refused(tmp_path):
    class Trap:
        def __reduce__(self):
            return pytest.fail, ("the pickle was executed",)

    for zipped in (True, False):
        torch.save(Trap(), tmp_path / "model.pt", _use_new_zipfile_serialization=zipped)
        with pytest.raises(ValueError, match="Pickles are not read"):
            GPT2.load(tmp_path / "model.pt")


def test_no_file(tmp_path):
    for path in (tmp_path, tmp_path / "none.h5"):
        with pytest.raises(FileNotFoundError, match="expected a weight file, or a folder with"):
            GPT2.load(path)
    for name in ("a.index", "b.index"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(ValueError, match=r"must hold one \*\.index, not 2: name one"):
        GPT2.load(tmp_path)
    with pytest.raises(ValueError, match="this one begins with b''"):
        GPT2.load(tmp_path / "a.index")
