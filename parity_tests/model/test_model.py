"""The whole model against the judge: the loss, and every gradient by its checkpoint name."""

from dataclasses import asdict, dataclass, replace

import numpy as np
import pytest
import torch

import npgpt
import npgpt.fused
import npgpt.ops
from npgpt import Config
from npgpt.gpt import GPT
from npgpt.model import params
from parity_tests.support.harness import Masks, assert_parity, farthest, parameters
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


@dataclass
class Batch:
    """Parameters by name, and what the model is asked."""

    config: Config
    arrays: dict
    tokens: np.ndarray
    targets: np.ndarray
    masks: list


def draw(config, rng, dtype, shape=(3, 20)):
    arrays = parameters(config, rng, dtype)
    tokens, targets = rng.integers(config.vocab_size, size=(2, *shape))
    (B, T), masks = shape, []
    if config.dropout:
        after = (B, T, config.n_embd)
        shapes = [after, *[(B, config.n_head, T, T), after, after] * config.n_layer]
        masks = [rng.random(s) >= config.dropout for s in shapes]
    return Batch(config, arrays, tokens, targets, masks)


def ours(batch, backend, dloss=1.0):
    """Loss and gradients by name, every gradient begun as NaN: each entry must be written."""
    dtype = batch.arrays["wte.weight"].dtype
    tree = params.zeros(batch.config, dtype)
    for name, array in npgpt.named(tree):
        array[...] = batch.arrays[name]
    model = GPT.from_params(batch.config, tree, ops=backend)
    masks = Masks(batch.masks) if batch.masks else None
    value, cache = model.loss(batch.tokens, batch.targets, masks)
    if batch.masks:
        assert masks.asked == [1 - batch.config.dropout] * len(batch.masks)
    home = params.map_leaves(tree, lambda a: np.full_like(a, np.nan))
    gradients = model.backward(cache, out=home, dloss=dloss)
    assert gradients is home
    return {"loss": value} | dict(npgpt.named(gradients))


def judge(batch, dtype):
    arrays = {name: a.astype(dtype) for name, a in batch.arrays.items()}
    model = gpt2.from_arrays(gpt2.Config(**asdict(batch.config)), arrays)
    masks = iter([torch.tensor(m) for m in batch.masks]) if batch.masks else None
    value = model.loss(torch.tensor(batch.tokens), torch.tensor(batch.targets), masks)
    value.backward()
    assert masks is None or next(masks, None) is None, "more masks drawn than the judge needs"
    return {"loss": value.detach().numpy()} | {
        name: p.grad.numpy() for name, p in model.named_parameters()
    }


def assert_same_as_judge(batch, found):
    dtype = batch.arrays["wte.weight"].dtype
    truth = judge(batch, np.float64)
    rounded = replace_arrays(batch, np.float32)
    single, double = judge(rounded, np.float32), judge(rounded, np.float64)
    assert found.keys() == truth.keys()
    for name in truth:
        stray = farthest(single[name], double[name])
        assert_parity(name, found[name], truth[name], stray, dtype=dtype)


def replace_arrays(batch, dtype):
    return replace(batch, arrays={name: a.astype(dtype) for name, a in batch.arrays.items()})


@each_dtype
@each_config
def test_loss_and_every_gradient(config, dtype, backend, rng):
    batch = draw(config, rng, dtype)
    assert_same_as_judge(batch, ours(batch, backend))


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


@each_dtype
@each_config
def test_logits_and_evaluation(config, dtype, backend, rng):
    batch = replace(draw(config, rng, dtype), masks=[])  # both are without dropout
    tree = params.zeros(config, dtype)
    for name, array in npgpt.named(tree):
        array[...] = batch.arrays[name]
    model = GPT.from_params(config, tree, ops=backend)

    def judge_logits(arrays, as_dtype):
        arrays = {name: a.astype(as_dtype) for name, a in arrays.items()}
        theirs = gpt2.from_arrays(gpt2.Config(**asdict(config)), arrays)
        return theirs(torch.tensor(batch.tokens)).detach().numpy()

    rounded = replace_arrays(batch, np.float32).arrays
    stray = farthest(judge_logits(rounded, np.float32), judge_logits(rounded, np.float64))
    truth = judge_logits(batch.arrays, np.float64)
    assert_parity("logits", model.logits(batch.tokens), truth, stray, dtype=dtype)

    value, _ = model.loss(batch.tokens, batch.targets)
    evaluated = model.evaluate(batch.tokens, batch.targets)
    assert evaluated.dtype == dtype
    # one sum of 60 losses, each of which may have been rounded in another place
    assert abs(evaluated - value) <= 2 * np.spacing(value)


@each_config
def test_the_judge_reads_the_file_by_itself(config, backend, rng, tmp_path):
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
