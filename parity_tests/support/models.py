"""The whole model, ours and the reference implementation's, on the same numbers."""

from dataclasses import asdict, dataclass, replace

import numpy as np
import torch

import npgpt
import npgpt.fused
import npgpt.ops
from npgpt import Config
from npgpt.gpt import GPT
from npgpt.model import params
from parity_tests.support.harness import Masks, assert_parity, farthest, parameters
from reference import gpt2


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
    """Loss and gradients by name, every gradient starting as NaN: each entry must be written."""
    dtype = batch.arrays["wte.weight"].dtype
    tree = params.zeros(batch.config, dtype)
    for name, array in npgpt.named(tree):
        array[...] = batch.arrays[name]
    model = GPT.from_params(batch.config, tree, ops=backend)
    masks = Masks(batch.masks) if batch.masks else None
    value, cache = model.loss(batch.tokens, batch.targets, masks)
    assert type(value) is float and value == dtype.type(value), "computed in another dtype"
    if batch.masks:
        assert masks.asked == [1 - batch.config.dropout] * len(batch.masks)
    home = params.map_leaves(tree, lambda a: np.full_like(a, np.nan))
    gradients = model.backward(cache, out=home, dloss=dloss)
    assert gradients is home
    return {"loss": dtype.type(value)} | dict(npgpt.named(gradients))


def theirs(batch, dtype):
    arrays = {name: a.astype(dtype) for name, a in batch.arrays.items()}
    model = gpt2.from_arrays(gpt2.Config(**asdict(batch.config)), arrays)
    masks = iter([torch.tensor(m) for m in batch.masks]) if batch.masks else None
    value = model.loss(torch.tensor(batch.tokens), torch.tensor(batch.targets), masks)
    value.backward()
    assert masks is None or next(masks, None) is None, "more masks drawn than the reference takes"
    return {"loss": value.detach().numpy()} | {
        name: p.grad.numpy() for name, p in model.named_parameters()
    }


def assert_same_as_reference(batch, found):
    dtype = batch.arrays["wte.weight"].dtype
    truth = theirs(batch, np.float64)
    rounded = replace_arrays(batch, np.float32)
    single, double = theirs(rounded, np.float32), theirs(rounded, np.float64)
    assert found.keys() == truth.keys()
    for name in truth:
        stray = farthest(single[name], double[name])
        assert_parity(name, found[name], truth[name], stray, dtype=dtype)


def replace_arrays(batch, dtype):
    return replace(batch, arrays={name: a.astype(dtype) for name, a in batch.arrays.items()})
