"""TensorFlow's checkpoints are read as TensorFlow reads them."""

import json
import tempfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

import npgpt
from npgpt.model import params
from npgpt.weights import leveldb
from npgpt.weights.tensor_bundle import read_bundle
from parity_tests.support import bundles
from parity_tests.support.bundle_bytes import BFLOAT16, odd, refused
from parity_tests.support.models import draw
from parity_tests.support.run_tensorflow import ask, available

pytestmark = pytest.mark.slow

TINY = npgpt.Config(vocab_size=61, context_length=16, n_layer=2, n_head=2, n_embd=8)


def many(rng):
    """Return arrays with names that need several blocks of TensorFlow's size."""
    letters = list("abcdefghijklmnopqrstuvwxyz/_0123456789")
    names = {"n" + "".join(rng.choice(letters, size=900)) for _ in range(600)}
    return {name: rng.normal(size=rng.integers(4)).astype(np.float32) for name in sorted(names)}


def small(rng):
    """Return the parameters of the 124M model: random bits."""
    shapes = dict(params.named(params.shapes(npgpt.Config())))
    arrays = {
        name: rng.integers(1 << 32, size=shape, dtype=np.uint32).view(np.float32)
        for name, shape in shapes.items()
    }
    return bundles.openai(arrays)


def unreadable(rng):
    """Return variables that npgpt does not support, for one checkpoint each."""
    return {
        "strings": np.array([b"a", b"bc"]),
        "booleans": np.array([True]),
        "complex numbers": np.ones(2, np.complex64),
    }


@pytest.fixture(scope="module")
def tensorflow_files():
    """A directory of what TensorFlow wrote and read, and the arrays by file name."""
    if not available():
        pytest.skip("no TensorFlow here, and NPGPT_TENSORFLOW_PYTHON names no Python that has it")
    rng, jobs = np.random.default_rng(1337), []
    written = {"odd": odd(rng), "two": odd(rng), "many": many(rng), "124M": small(rng)}
    written["folder"] = bundles.openai(draw(TINY, rng, np.float32).arrays)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        for name, arrays in written.items():
            np.savez(folder / f"{name}.npz", **arrays)
            mark = BFLOAT16 if name in ("odd", "two") else []
            where = folder / "folder" / "model.ckpt" if name == "folder" else folder / name
            where.parent.mkdir(exist_ok=True)
            shards = 2 if name == "two" else 1
            jobs.append(["save", folder / f"{name}.npz", where, shards, mark, name == "folder"])
            if name != "124M":
                bundles.write(folder / f"our-{name}", arrays, bfloat16=mark, shards=shards)
                jobs.append(["load", folder / f"our-{name}", folder / f"our-{name}.npz"])
        bundles.write_hparams(folder / "folder", TINY)
        for name, array in unreadable(rng).items():
            np.savez(folder / f"{name}.npz", **{name: array})
            jobs.append(["save", folder / f"{name}.npz", folder / name])
        bundles.write(folder / "our-blocks", written["odd"], bfloat16=BFLOAT16, block_size=64)
        jobs.append(["load", folder / "our-blocks", folder / "our-blocks.npz"])
        jobs.append(["save_pieces", folder / "pieces"])
        ask(jobs)
        yield folder, written


def same(found, expected):
    """Return True if they are equal bit for bit, NaN and zeros included."""
    assert (found.shape, found.dtype) == (np.shape(expected), expected.dtype)
    assert np.array_equal(
        np.ascontiguousarray(found).reshape(-1).view(np.uint8),
        np.ascontiguousarray(expected).reshape(-1).view(np.uint8),
    )


# TensorFlow writes, npgpt reads


@pytest.mark.parametrize("name", ["odd", "two", "many", "124M"])
def test_tensorflows_files_are_read_bit_for_bit(tensorflow_files, name):
    folder, written = tensorflow_files
    found, expected = read_bundle(folder / name, verify=True), written[name]
    assert list(found) == sorted(expected)
    for key, tensor in found.items():
        same(tensor.raw(), expected[key])
        assert (tensor.dtype == "bfloat16") == (key in BFLOAT16)
    assert len({tensor.file.path for tensor in found.values()}) == (2 if name == "two" else 1)


def test_many_variables_take_several_blocks(tensorflow_files):
    """The test above depends on it."""
    folder, _ = tensorflow_files
    data = (folder / "many.index").read_bytes()
    index, _ = leveldb.read_block(data, data[-48 + leveldb.parse_handle(data[-48:])[1] :])
    assert len(list(leveldb.parse_pairs(index))) >= 3


def test_opening_takes_no_memory_for_the_numbers(tensorflow_files):
    folder, _ = tensorflow_files
    tracemalloc.start()
    found = read_bundle(folder / "124M")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sum(tensor.nbytes for tensor in found.values()) == 497_759_232
    assert peak < 1 << 20


@pytest.mark.parametrize("name", ["odd", "two", "many", "blocks", "folder"])
def test_tensorflow_reads_what_the_tests_write(tensorflow_files, name):
    folder, written = tensorflow_files
    expected = written["odd" if name == "blocks" else name]
    with np.load(folder / f"our-{name}.npz") as found:
        assert set(found) == set(expected)
        for key in expected:
            same(found[key], expected[key])


@pytest.mark.parametrize(
    "name, says",
    [
        ("strings", r"'strings': .* dtype 7 \(strings\), which is not supported"),
        ("booleans", r"'booleans': .* dtype 10 \(booleans\), which is not supported"),
        ("complex numbers", r"dtype 8 \(complex numbers\), which is not supported"),
        ("pieces", r"wide.*: this is part of a partitioned variable, .* save it in one part"),
    ],
)
def test_unsupported_variables_are_named(tensorflow_files, name, says):
    refused(tensorflow_files[0] / name, says)


def by_name(tensors):
    """Return OpenAI's arrays by checkpoint name, sorted by hand."""
    found = {
        "wte.weight": tensors["model/wte"],
        "wpe.weight": tensors["model/wpe"],
        "ln_f.weight": tensors["model/ln_f/g"],
        "ln_f.bias": tensors["model/ln_f/b"],
    }
    for i in range(TINY.n_layer):
        for ln in ("ln_1", "ln_2"):
            found[f"h.{i}.{ln}.weight"] = tensors[f"model/h{i}/{ln}/g"]
            found[f"h.{i}.{ln}.bias"] = tensors[f"model/h{i}/{ln}/b"]
        for layer in ("attn/c_attn", "attn/c_proj", "mlp/c_fc", "mlp/c_proj"):
            name = f"h.{i}.{layer.replace('/', '.')}"
            found[f"{name}.weight"] = tensors[f"model/h{i}/{layer}/w"][0]
            found[f"{name}.bias"] = tensors[f"model/h{i}/{layer}/b"]
    return found


def test_a_directory_of_the_tests_is_like_openais(tensorflow_files, tmp_path, rng):
    """Equal files, names and shapes, with npgpt's parameters."""
    folder, written = tensorflow_files
    arrays = draw(TINY, rng, np.float32).arrays
    bundles.write_gpt2(tmp_path / "124M", TINY, arrays)
    theirs = {path.name for path in (folder / "folder").iterdir()} - {"model.ckpt.meta"}
    assert {path.name for path in (tmp_path / "124M").iterdir()} == theirs
    text = (tmp_path / "124M/checkpoint").read_text()
    assert text == (folder / "folder/checkpoint").read_text()
    assert len(text) == 77
    hparams = {"n_vocab": 61, "n_ctx": 16, "n_embd": 8, "n_head": 2, "n_layer": 2}
    assert json.loads((tmp_path / "124M/hparams.json").read_text()) == hparams
    found = read_bundle(tmp_path / "124M/model.ckpt", verify=True)
    assert {n: t.shape for n, t in found.items()} == {
        n: a.shape for n, a in sorted(written["folder"].items())
    }
    for name, array in by_name({n: t.raw() for n, t in found.items()}).items():
        same(array, arrays[name])
