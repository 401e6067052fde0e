"""npgpt export --to gguf: the gguf library reads the numbers and the tokenizer of the model."""

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest

import npgpt
from npgpt import ops
from npgpt.export import gguf_file
from npgpt.model.params import named
from npgpt.model.quantize import is_quantizable
from parity_tests.support.tokenizers_of import bpe, metaspace, write

gguf = pytest.importorskip("gguf")

WORDS = "the lamp is lit at dusk, and the keeper writes the hour in the book " * 3
OWN = bpe(WORDS, 300)
# of the largest number in a row of 32: half a step, and a scale of 11 bits
ERRORS = {"float32": 0, "bfloat16": 2**-8, "float16": 2**-11, "int8": 0.5 / 127 + 2**-11}


@pytest.fixture
def save(tmp_path, monkeypatch):
    """`save("byte")`: a small model as ./model.h5."""
    monkeypatch.chdir(tmp_path)

    def make(tokenizer="byte", **changes):
        shape = dict(vocab_size=304, context_length=16, n_layer=2, n_head=2, n_embd=32)
        model = npgpt.GPT(
            npgpt.Config(**shape | changes), seed=3, ops=ops, scheme="book", tokenizer=tokenizer
        )
        model.save("model.h5")
        return model

    return make


def read():
    """Return the tensors of ./out.gguf as float32, and its values by key."""
    reader = gguf.GGUFReader("out.gguf")
    arrays = {t.name: gguf.quants.dequantize(t.data, t.tensor_type) for t in reader.tensors}
    return arrays, {key: field.contents() for key, field in reader.fields.items()}


@pytest.mark.parametrize("dtype, tied", [(d, d != "float16") for d in ERRORS])
def test_the_numbers_of_the_model(npgpt_, save, dtype, tied):
    model = save(tied=tied, qkv_bias=tied)
    npgpt_(f"export --model model.h5 --to gguf --out out.gguf --dtype {dtype}")
    arrays, values = read()
    assert values["gpt2.block_count"] == 2 and values["gpt2.attention.head_count"] == 2
    for name, array in named(model.params):
        own, expected = gguf_file.convert(name, array)
        found = arrays.pop(own)
        error = ERRORS[dtype] if is_quantizable(name) else 0
        groups = np.abs(expected).reshape(-1, 32).max(1, keepdims=True)
        # the smallest scale of float16 is 6e-8
        near = np.abs(found - expected).reshape(-1, 32) <= error * groups + (error > 0) * 1e-7
        assert near.all(), own
    assert not any(array.any() for array in arrays.values())  # biases that the model lacks
    assert len(arrays) == (0 if tied else 2)


def test_a_byte_tokenizer(npgpt_, save):
    save()
    npgpt_("export --model model.h5 --to gguf --out out.gguf")
    _, values = read()
    tokens, types = values["tokenizer.ggml.tokens"], values["tokenizer.ggml.token_type"]
    assert (tokens[65], tokens[0], tokens[256], tokens[257]) == (
        "A", "\u0100", "<|endoftext|>", "[PAD257]"
    )  # fmt: skip
    assert types == [1] * 256 + [3] + [5] * 47
    assert len(values["tokenizer.ggml.merges"]) == 1  # of no two characters
    assert values["tokenizer.ggml.eos_token_id"] == 256


def test_a_tokenizer_of_its_own(npgpt_, save):
    write("own", OWN)
    save(npgpt.tokenizer("own").origin)
    npgpt_("export --model model.h5 --to gguf --out out.gguf")
    _, values = read()
    ids = OWN.get_vocab()
    tokens = values["tokenizer.ggml.tokens"]
    assert {token: i for i, token in enumerate(tokens) if not token.startswith("[PAD")} == ids
    merges = json.loads(OWN.to_str())["model"]["merges"]
    assert values["tokenizer.ggml.merges"] == [" ".join(pair) for pair in merges]
    assert values["tokenizer.ggml.eos_token_id"] == 0


def test_what_a_gguf_file_cannot_hold(npgpt_, save, monkeypatch):
    write("own", metaspace(WORDS, 40))
    save(npgpt.tokenizer("own").origin)
    line = "export --model model.h5 --to gguf --out out.gguf"
    assert "is no byte-pair encoding that splits words as GPT-2's" in npgpt_(line, code=2).err
    save(n_embd=6)
    assert "must be a multiple of 32 for int8" in npgpt_(f"{line} --dtype int8", code=2).err
    said = npgpt_("export --model model.h5 --out out --dtype int8", code=2).err
    assert said.startswith("npgpt: huggingface has no int8: use --to gguf")
    save(None)
    assert "a GGUF file has a tokenizer: give --tokenizer" in npgpt_(line, code=2).err
    model = save()
    model.params.wte.weight[3, 2] = np.nan
    model.save("model.h5")
    assert (
        "token_embd.weight has numbers that are nan" in npgpt_(f"{line} --dtype int8", code=2).err
    )
    monkeypatch.setitem(sys.modules, "gguf", None)
    assert "pip install 'npgpt[gguf]'" in npgpt_(line, code=2).err
    assert not [name for name in os.listdir() if "out" in name]


def test_a_flipped_bit_is_not_written(npgpt_, save, monkeypatch):
    save()
    close = gguf.GGUFWriter.close

    def flip(writer):
        writer.flush()
        with open(writer.fout[0].name, "r+b") as file:
            file.seek(-40, os.SEEK_END)
            byte = file.read(1)[0]
            file.seek(-1, os.SEEK_CUR)
            file.write(bytes([byte ^ 1]))
        close(writer)

    monkeypatch.setattr(gguf.GGUFWriter, "close", flip)
    said = npgpt_("export --model model.h5 --to gguf --out out.gguf", code=1).err
    assert said == "npgpt: output_norm.bias was read back with other numbers than were written\n"
    assert not Path("out.gguf").exists()
