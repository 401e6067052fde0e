"""The whole model beside the reference implementation: the loss, and every gradient by name."""

from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

import npgpt
import npgpt.fused
import npgpt.ops
from npgpt import Config
from npgpt.gpt import GPT
from npgpt.model import params
from parity_tests.support.harness import assert_parity, farthest
from parity_tests.support.models import assert_same_as_reference, draw, ours, replace_arrays
from reference import gpt2

CONFIG = Config(vocab_size=97, context_length=32, n_layer=3, n_head=4, n_embd=48)
CONFIGS = {
    "tied": CONFIG,
    "untied": replace(CONFIG, tied=False),
    "no-qkv-bias": replace(CONFIG, qkv_bias=False),
    "book": replace(CONFIG, tied=False, qkv_bias=False),
    "dropout": replace(CONFIG, dropout=0.2),
    "book-dropout": replace(CONFIG, tied=False, qkv_bias=False, dropout=0.1),
}
each_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
each_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["f32", "f64"])


@each_dtype
@each_config
def test_loss_and_every_gradient(config, dtype, backend, rng):
    batch = draw(config, rng, dtype)
    assert_same_as_reference(batch, ours(batch, backend))


@each_dtype
def test_ignored_targets(dtype, backend, rng):
    """The mean is over the targets that count, as in PyTorch's cross_entropy."""
    batch = draw(CONFIG, rng, dtype)
    batch.targets[0, ::3], batch.targets[1] = -100, -100
    found = ours(batch, backend)
    assert_same_as_reference(batch, found)
    model = GPT(CONFIG, dtype=dtype, ops=backend)
    for name, array in npgpt.named(model.params):
        array[...] = batch.arrays[name]
    evaluated = model.evaluate(batch.tokens, batch.targets)
    assert abs(evaluated - found["loss"]) <= 2 * np.spacing(found["loss"])
    rest = [0, 2]  # rows: the second one has no part in it
    again = model.evaluate(batch.tokens[rest], batch.targets[rest])
    assert abs(again - evaluated) <= 2 * np.spacing(found["loss"])


@each_config
def test_the_backends_agree(config, rng):
    batch = draw(config, rng, np.float64)
    slow, fast = ours(batch, npgpt.ops), ours(batch, npgpt.fused)
    assert slow.keys() == fast.keys()
    for name in slow:
        # 3 layers deep many roundings of float64 meet; measured: at most 6e-15
        apart = farthest(slow[name], fast[name])
        assert apart <= 3e-14 * farthest(slow[name], 0), f"{name}: {apart:.1e} apart"


@each_config
def test_dloss_scales_every_gradient(config, backend, rng):
    """By a power of two, so that not a single bit of the digits may change."""
    batch = draw(config, rng, np.float32)
    whole, quarter = ours(batch, backend), ours(batch, backend, dloss=0.25)
    for name in whole.keys() - {"loss"}:
        np.testing.assert_array_equal(quarter[name], whole[name] / 4, err_msg=name)


@pytest.mark.filterwarnings("ignore::npgpt.DropoutWarning")  # both are without dropout
@each_dtype
@each_config
def test_logits_and_evaluation(config, dtype, backend, rng):
    config = replace(config, dropout=0.0)  # as both are
    batch = draw(config, rng, dtype)
    tree = params.zeros(config, dtype)
    for name, array in npgpt.named(tree):
        array[...] = batch.arrays[name]
    model = GPT.from_params(config, tree, ops=backend)

    def their_logits(arrays, as_dtype):
        arrays = {name: a.astype(as_dtype) for name, a in arrays.items()}
        theirs = gpt2.from_arrays(gpt2.Config(**asdict(config)), arrays)
        return theirs(torch.tensor(batch.tokens)).detach().numpy()

    rounded = replace_arrays(batch, np.float32).arrays
    stray = farthest(their_logits(rounded, np.float32), their_logits(rounded, np.float64))
    truth = their_logits(batch.arrays, np.float64)
    assert_parity("logits", model.logits(batch.tokens), truth, stray, dtype=dtype)

    value, _ = model.loss(batch.tokens, batch.targets)
    evaluated = model.evaluate(batch.tokens, batch.targets)
    assert type(evaluated) is float and evaluated == dtype(evaluated)
    # one sum of 60 losses, each of which may have been rounded in another place
    assert abs(evaluated - value) <= 2 * np.spacing(dtype(value))


@each_config
def test_the_reference_reads_the_file_by_itself(config, backend, rng, tmp_path):
    path = tmp_path / "model.h5"
    model = npgpt.GPT(config, seed=1, ops=backend)
    for _, array in npgpt.named(model.params):
        array += rng.normal(scale=0.1, size=array.shape).astype(np.float32)  # no bias stays 0
    model.save(path)
    theirs = gpt2.GPT2.load(path)

    assert asdict(theirs.config) == asdict(config)
    state, mine = theirs.state_dict(), dict(npgpt.named(model.params))
    assert state.keys() == mine.keys()
    for name in mine:
        np.testing.assert_array_equal(state[name].numpy(), mine[name], err_msg=name)

    prompt = rng.integers(config.vocab_size, size=(2, 5))
    new = np.stack(list(npgpt.generate(model, prompt, 12)), axis=1)
    said = theirs.generate(torch.tensor(prompt), 12)
    np.testing.assert_array_equal(np.concatenate([prompt, new], axis=1), said)
