"""A checkpoint restores a model and a run bit for bit."""

import json

import h5py
import numpy as np
import pytest

import npgpt
from npgpt import ops
from npgpt.weights import checkpoint
from parity_tests.support.checkpoints import SMALL, assert_same, model_of, training_of


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("qkv_bias", [True, False])
def test_a_model_is_restored_bit_for_bit(tmp_path, dtype, tied, qkv_bias):
    model = model_of(dtype, tied=tied, qkv_bias=qkv_bias, dropout=0.1)
    model.params.ln_f.bias[:] = [-0.0, np.finfo(dtype).smallest_subnormal, np.nan, np.inf]
    model.save(tmp_path / "model.h5")
    again = npgpt.load(tmp_path / "model.h5")
    assert_same(again.params, model.params)
    assert (again.config, again.tokenizer, again.dtype) == (model.config, "byte", dtype)
    assert [p.name for p in tmp_path.iterdir()] == ["model.h5"]


def test_a_model_without_a_tokenizer_has_none(tmp_path):
    model = npgpt.GPT(npgpt.Config(**SMALL), ops=ops)
    model.save(tmp_path / "model.h5")
    assert npgpt.load(tmp_path / "model.h5").tokenizer is None


@pytest.mark.parametrize("order", [range(7), range(0)], ids=["mid-epoch", "between epochs"])
def test_a_run_is_restored_bit_for_bit(tmp_path, order):
    model = model_of(np.float64, tied=False)
    state, path = training_of(model, order=order), tmp_path / "run.h5"
    checkpoint.write(path, model, state)
    again, read = checkpoint.read_training(path)
    assert_same(again.params, model.params)
    assert read.moments.keys() == state.moments.keys()
    for moment, tree in read.moments.items():
        assert_same(tree, state.moments[moment])
    assert read.state == state.state
    for name in ("random_state", "order"):
        a, b = getattr(read, name), getattr(state, name)
        assert (a.dtype, a.tolist()) == (b.dtype, b.tolist())
    generators = [npgpt.Generator.from_state(s.random_state, ops=ops) for s in (read, state)]
    assert len({g.uniform(()).item() for g in generators}) == 1
    assert checkpoint.read_state(path) == state.state
    source = checkpoint.read_checkpoint(path)
    assert (source.config, source.dtype, source.tokenizer) == (model.config, np.float64, "byte")
    assert_same(source.params(), model.params)


def test_h5py_reads_the_file(saved):
    """Other programs do not need npgpt: the names are those of the released checkpoint."""
    with h5py.File(saved) as file:
        assert file["parameters/h.1.mlp.c_fc.weight"].shape == (4, 16)
        assert json.loads(file.attrs["config"])["n_embd"] == 4
