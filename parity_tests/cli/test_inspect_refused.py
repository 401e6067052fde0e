"""npgpt inspect shows the tensors of a file that no other command loads, and why not."""

import json

import numpy as np
import pytest

import npgpt
from parity_tests.support import bundles
from parity_tests.support.weight_files import CONFIG, numbers, pack, write_huggingface

OTHERS = {"model.embed.weight": np.ones((3, 2), np.float32), "steps": np.float32(7)}


def alone(folder):
    """Write a safetensors file without a config."""
    path = folder / "other.safetensors"
    path.write_bytes(pack(OTHERS))
    return path


def another(folder):
    """Write a model of another kind."""
    write_huggingface(folder, CONFIG, OTHERS, model_type="llama")
    return folder


def shards(folder):
    """Write a model of another kind in several files."""
    write_huggingface(folder, CONFIG, OTHERS, model_type="llama", shards=2)
    return folder / "model.safetensors.index.json"


def tensorflow(folder):
    """Write a TensorFlow checkpoint without hparams.json."""
    bundles.write(folder / "model.ckpt", OTHERS)
    return folder


REFUSED = {  # the writer, and the reason
    alone: "there is no .*config.json, which describes the shape of the model",
    another: "model_type is 'llama'; npgpt supports gpt2",
    shards: "model_type is 'llama'; npgpt supports gpt2",
    tensorflow: "there is no file .*hparams.json",
}


@pytest.mark.parametrize("write", REFUSED, ids=lambda write: write.__name__)
def test_the_tensors_of_a_file_that_is_refused(tmp_path, npgpt_, write):
    path = write(tmp_path)
    with pytest.raises(npgpt.WeightFileError, match=REFUSED[write]):
        npgpt.load(path)
    said = npgpt_("inspect", str(path), code=2)
    assert said.err.count("\n") == 1
    lines = {line.split()[0]: line.split() for line in said.out.splitlines()[3:] if line}
    assert lines["model.embed.weight"][1:] == ["3", "x", "2", "float32", "1", "0", "1", "1"]
    assert lines["steps"][1:3] == ["float32", "7"]
    found = json.loads(npgpt_("inspect --json", str(path), code=2).out)
    assert found["tensors"].keys() == OTHERS.keys()
    assert found["tensors"]["steps"]["mean"] == 7
    assert found["error"] in said.err


def test_a_file_that_cannot_be_read_at_all(tmp_path, npgpt_):
    path = tmp_path / "text"
    path.write_bytes(b"hello, world")
    said = npgpt_("inspect", str(path), code=2)
    assert said.out == ""
    assert "is not a weight file of a supported format" in said.err
    alone(tmp_path).write_bytes(pack(OTHERS)[:-1])
    said = npgpt_("inspect", str(tmp_path / "other.safetensors"), code=2)
    assert said.out == ""


def test_two_names_that_look_alike_have_a_row_each(tmp_path, npgpt_):
    extra = {"a\x1b": np.ones(1, np.float32), r"a\x1b": np.zeros(1, np.float32)}
    write_huggingface(tmp_path, CONFIG, numbers(), extra=extra)
    said = npgpt_("inspect", str(tmp_path))
    assert said.out.count(r"a\x1b ") == 2
