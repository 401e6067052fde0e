"""llm.c's file is read and written byte for byte; other contents are refused."""

from dataclasses import replace

import numpy as np
import pytest

import npgpt
from npgpt import ops
from npgpt.cli.main import main
from npgpt.model.params import named
from npgpt.weights import formats
from npgpt.weights.llmc import MAX_LAYERS, read_llmc
from parity_tests.support import fuzz
from parity_tests.support.weight_files import CONFIG, llmc, numbers

FULL = 384  # 257 filled up to a multiple of 128


@pytest.fixture
def path(tmp_path):
    """The path of the file, with a name that does not tell its format."""
    return tmp_path / "model"


# Read


@pytest.mark.parametrize("version, dtype", [(3, "float32"), (5, "bfloat16")])
@pytest.mark.parametrize("rows", [257, 258, FULL, 512])
def test_every_number_is_the_one_in_the_file(path, version, dtype, rows):
    path.write_bytes(llmc(CONFIG, numbers(), version=version, rows=rows))
    source = formats.open_weights(path)
    assert (source.format, source.config, source.tokenizer) == ("llm.c", CONFIG, None)
    assert source.tensors["wte.weight"].shape == (rows, 8)
    assert source.tensors["h.*.mlp.c_fc.weight"].shape == (2, 32, 8)
    assert {tensor.dtype for tensor in source.tensors.values()} == {dtype}
    assert_same(npgpt.load(path), numbers())


def assert_same(model, arrays):
    """Assert that the model has these parameters in float32, bit for bit."""
    found = dict(named(model.params))
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert found[name].dtype == np.float32
        np.testing.assert_array_equal(found[name], array, err_msg=name)


def test_the_padding_is_ignored(path):
    raw = bytearray(llmc(CONFIG, numbers()))
    begin = 4 * (256 + 257 * 8)
    assert not any(raw[begin : begin + 4 * 127 * 8])
    raw[begin : begin + 4 * 127 * 8] = b"\xff" * (4 * 127 * 8)  # nan
    path.write_bytes(raw)
    assert_same(npgpt.load(path), numbers())


# Written


@pytest.mark.parametrize("version, dtype", [(3, "float32"), (5, "bfloat16")])
def test_every_written_byte(path, tmp_path, version, dtype):
    """Exported by the command from another format."""
    model = npgpt.GPT.from_params(CONFIG, tree(CONFIG, numbers()), ops=ops)
    model.save(tmp_path / "model.h5")
    line = ["export", "--model", str(tmp_path / "model.h5"), "--to", "llm.c", "--dtype", dtype]
    assert main([*line, "--out", str(path)]) == 0
    assert path.read_bytes() == llmc(CONFIG, numbers(), version=version)


def tree(config, arrays):
    """Return the parameter tree of these arrays."""
    found = npgpt.GPT(config, ops=ops).params
    for name, array in named(found):
        array[...] = arrays[name]
    return found


@pytest.mark.parametrize("vocab_size, rows", [(1, 128), (128, 128), (129, 256), (50257, 50304)])
def test_the_embedding_is_padded(path, tmp_path, vocab_size, rows):
    config = replace(CONFIG, vocab_size=vocab_size, n_layer=1)
    npgpt.GPT(config, ops=ops).save(tmp_path / "model.h5")
    line = ["export", "--model", str(tmp_path / "model.h5"), "--to", "llm.c"]
    assert main([*line, "--out", str(path)]) == 0
    assert np.fromfile(path, "<i4", 8)[-1] == rows
    assert read_llmc(path).tensors["wte.weight"].shape == (rows, 8)
    assert npgpt.load(path).config == config


def test_missing_biases_are_written_as_zeros(path, tmp_path):
    config, arrays = replace(CONFIG, qkv_bias=False), numbers()
    for name in arrays:
        if name.endswith("c_attn.bias"):
            arrays[name][...] = 0
    npgpt.GPT.from_params(config, tree(config, arrays), ops=ops).save(tmp_path / "model.h5")
    line = ["export", "--model", str(tmp_path / "model.h5"), "--to", "llm.c"]
    assert main([*line, "--out", str(path)]) == 0
    assert path.read_bytes() == llmc(CONFIG, arrays)


@pytest.mark.parametrize(
    "changes, dtype, says",
    [
        ({"tied": False}, "float32", "no output head of its own, and this model's head is not"),
        ({}, "float16", "llm.c's file holds float32 or bfloat16, not float16"),
    ],
)
def test_models_that_the_format_cannot_represent(path, tmp_path, capsys, changes, dtype, says):
    npgpt.GPT(replace(CONFIG, **changes), ops=ops).save(tmp_path / "model.h5")
    line = ["export", "--model", str(tmp_path / "model.h5"), "--to", "llm.c", "--dtype", dtype]
    assert main([*line, "--out", str(path)]) == 2
    assert says in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["model.h5"]


# Invalid files


def forged(**header):
    """Return a file with other numbers in its header."""
    return llmc(CONFIG, numbers(), **header)


BIG = 2**31 - 1
FORGERIES = {
    "a header cut": (forged()[:1023], "is truncated: 1,023 bytes, the header alone has 1,024$"),
    "a header alone": (forged()[:1024], r"has 1,024 bytes, its header requires [\d,]+: truncated$"),
    "cut": (forged()[:-1], r"has [\d,]+ bytes, its header requires [\d,]+: truncated$"),
    "bfloat16 cut": (forged(version=5)[:-2], "its header requires .*: truncated$"),
    "longer": (forged() + b"\0", ": other bytes follow the weights$"),
    "an older version": (forged(version=1), "has version 1; supported are 3 .float32. and 5 .bf"),
    "a newer version": (forged(version=6), "has version 6; supported are 3"),
    "no version": (forged(version=-3), "has version -3; supported are 3"),
    "float32 called bfloat16": (
        forged()[:4] + b"\5\0\0\0" + forged()[8:],
        ": other bytes follow the weights$",
    ),
    "no vocabulary": (forged(vocab_size=0), "vocab_size is 0, but must be at least 1$"),
    "negative layers": (forged(n_layer=-2), "n_layer is -2, but must be at least 1$"),
    "no heads": (forged(n_head=0), "n_head is 0, but must be at least 1$"),
    "three heads": (forged(n_head=3), "n_embd is 8 and n_head is 3"),
    "no rows": (forged() [:28] + b"\0" * 4 + forged()[32:], ": 0 rows of wte for a vocabulary of"),
    "too few rows": (forged(vocab_size=385), ": 384 rows of wte for a vocabulary of 385$"),
    "fewer layers": (forged(n_layer=1), ": other bytes follow the weights$"),
    "more layers": (forged(n_layer=3), ": truncated$"),
    "another width": (forged(n_embd=10), ": truncated$"),
    "another context": (forged(block_size=13), ": truncated$"),
    "layers without end": (forged(n_layer=BIG), "2,147,483,647 layers; at most 1,000 are read$"),
    "a width without end": (forged(n_embd=BIG - 1), ": truncated$"),
    "all without end": (
        forged(block_size=BIG, vocab_size=BIG, n_layer=1000, n_head=BIG, n_embd=BIG)[:28]
        + BIG.to_bytes(4, "little") + bytes(2000),
        ": truncated$",
    ),
    "the other byte order": (
        np.frombuffer(forged(), "<i4")[:256].astype(">i4").tobytes() + bytes(9000),
        "is not a weight file of a supported format: .* begins with b'.*x014",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FORGERIES)
def test_a_file_that_contradicts_itself(path, unreadable, name):
    raw, says = FORGERIES[name]
    path.write_bytes(raw)
    unreadable(path, says)


@pytest.mark.slow
@pytest.mark.parametrize("version", [3, 5])
def test_the_maximal_number_of_layers_takes_a_few_megabytes(path, version):
    """12 parameters each, with name, offset and shape: 470 bytes per parameter were measured."""
    config = replace(CONFIG, n_layer=MAX_LAYERS, n_embd=1, n_head=1)
    raw = llmc(config, numbers(config), version=version)
    path.write_bytes(raw)
    assert fuzz.peak(lambda: read_llmc(path)) < 12 * MAX_LAYERS * 1000
