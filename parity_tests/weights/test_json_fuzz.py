"""Changed JSON in every file that has some: read, or one WeightFileError, and nothing else."""

import json
import random
import warnings

import numpy as np
import pytest

from npgpt.errors import InputError
from npgpt.weights import formats
from npgpt.weights.huggingface import read_huggingface
from npgpt.weights.quantized_file import write_quantized
from parity_tests.support import bundles, fuzz
from parity_tests.support.weight_files import CONFIG, assemble, numbers, write_huggingface

ROUNDS = 500
RAW = [  # that json.dumps does not write
    b"1" * 400, b"1" * 5000, b"-" + b"9" * 30, b"1e999", b"-1e999", b"-0", b"NaN", b"Infinity",
    b"-Infinity", b"[" * 100_000, b"[" * 500 + b"]" * 500, b'{"a":' * 100_000, b'"\xff"',
    b'"\xed\xa0\x80"', rb'"\ud800"', b'"\x00"', b"'a'", b"", b'"' + b"x" * 5000 + b'"',
    b"\xef\xbb\xbf1",
]  # fmt: skip
HERE = "<here>"


def paths(value, before=()):
    """Yield the path of every value in a JSON value."""
    yield before

    if isinstance(value, (dict, list)):
        for key, child in value.items() if isinstance(value, dict) else enumerate(value):
            yield from paths(child, (*before, key))


def changed(value, rng):
    """Return the text of a JSON value with one or two changes."""
    value, raw = json.loads(json.dumps(value)), None
    for _ in range(rng.choice([1, 1, 2])):
        *outer, last = rng.choice([path for path in paths(value) if path])
        parent = value
        for key in outer:
            parent = parent[key]
        kind = rng.randrange(5)
        if kind == 0:
            del parent[last]
        elif kind == 1 and isinstance(parent, dict):
            parent[rng.choice(["", "n_embd", "x\x1b", "__metadata__"])] = parent.pop(last)
        elif kind == 2:
            parent[last], raw = HERE, rng.choice(RAW)
        else:
            parent[last] = rng.choice(fuzz.VALUES)
    text = json.dumps(value).encode()
    return text.replace(json.dumps(HERE).encode(), raw, 1) if raw is not None else text


def config(folder):
    """config.json of Hugging Face's."""
    write_huggingface(folder, CONFIG, numbers(), hidden_size=8)
    return file_with(folder / "config.json")


def index(folder):
    """The index of several files."""
    write_huggingface(folder, CONFIG, numbers(), shards=3)
    return file_with(folder / "model.safetensors.index.json")


def hparams(folder):
    """hparams.json of OpenAI's."""
    bundles.write_gpt2(folder, CONFIG, numbers())
    return file_with(folder / "hparams.json")


def file_with(path):
    """Return the JSON in a file, and a function that writes another text."""
    return json.loads(path.read_text()), path.write_bytes


def safetensors_header(folder):
    """The header of Hugging Face's weights."""
    write_huggingface(folder, CONFIG, numbers())
    return header_of(folder / "model.safetensors")


def quantized(folder):
    """The header of a quantized model."""
    write_huggingface(folder / "whole", CONFIG, numbers())
    write_quantized(folder / "int8", read_huggingface(folder / "whole"), "int8")
    return header_of(folder / "int8")


def quantized_config(folder):
    """The config in the header of a quantized model."""
    header, write = quantized(folder)

    def write_config(text):
        metadata = header["__metadata__"] | {"config": text.decode("latin-1")}
        write(json.dumps(header | {"__metadata__": metadata}).encode())

    return json.loads(header["__metadata__"]["config"]), write_config


def header_of(path):
    """Return the header of a safetensors file, and a function that writes another text."""
    raw = path.read_bytes()
    end = 8 + int.from_bytes(raw[:8], "little")
    return json.loads(raw[8:end]), lambda text: path.write_bytes(assemble(text, raw[end:]))


WRITERS = config, index, hparams, safetensors_header, quantized, quantized_config


@pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__)
def test_changed_json_is_read_or_refused_in_one_line(tmp_path, write):
    good, put = write(tmp_path)
    path = tmp_path / "int8" if (tmp_path / "int8").exists() else tmp_path
    rng, outcomes = random.Random(1), {"read": 0, "refused": 0}
    for _ in range(ROUNDS):
        put(changed(good, rng))
        try:
            with warnings.catch_warnings(action="ignore"):
                tree = formats.open_weights(path).params()
            assert tree.wte.weight.shape[0] > 0
            outcomes["read"] += 1
        except InputError as error:
            outcomes["refused"] += 1
            said = str(error).replace(str(tmp_path), "")
            assert said.isprintable()
            assert len(said) < 400
    assert min(outcomes.values()) >= 1, outcomes
    put(json.dumps(good).encode())
    found = formats.open_weights(path).array("ln_f.bias")
    np.testing.assert_array_equal(found, numbers()["ln_f.bias"])
