"""DiLoCo's outer optimizer: data-parallel SGD as a special case, and torch.optim.SGD."""

from dataclasses import replace

import numpy as np
import torch

import npgpt.ops
from npgpt.config import Config
from npgpt.distributed.diloco import OuterOpt, outer_gradient
from npgpt.distributed.partition import flat_of
from npgpt.gpt import GPT
from npgpt.model import params
from npgpt.training import optim

CONFIG = Config(vocab_size=31, context_length=8, n_layer=2, n_head=2, n_embd=8)


def test_diloco_with_one_plain_step_is_data_parallel_sgd(rng):
    """H = 1, inner SGD, eta = 1, mu = 0."""
    config = replace(CONFIG, n_layer=1)
    theta = GPT(config, ops=npgpt.ops, dtype=np.float64)
    parallel = GPT.from_params(config, params.copy(theta.params), ops=npgpt.ops)
    outer, lr, k = OuterOpt(flat_of(theta.params), eta=1.0, mu=0.0), 0.1, 3
    for _ in range(4):
        batches = rng.integers(0, 31, (k, 2, 2, 8))
        thetas = []
        for tokens, targets in batches:
            worker = GPT.from_params(config, params.copy(theta.params), ops=npgpt.ops)
            _, g = worker.loss_and_gradients(tokens, targets)
            optim.SGD(worker.params, lr=lr, ops=npgpt.ops).step(g)
            thetas.append(flat_of(worker.params))
        flat = flat_of(theta.params)
        outer.step(flat, outer_gradient(flat, thetas))
        mean = sum(flat_of(parallel.loss_and_gradients(*batch)[1]) / k for batch in batches)
        flat_of(parallel.params)[:] -= lr * mean
        np.testing.assert_allclose(flat, flat_of(parallel.params), rtol=1e-12, atol=1e-15)


def test_the_outer_optimizer_is_torch_sgd_with_nesterov(rng):
    start = rng.standard_normal(20)
    ours, outer = start.copy(), OuterOpt(start)
    theirs = torch.tensor(start, requires_grad=True)
    sgd = torch.optim.SGD([theirs], lr=0.7, momentum=0.9, nesterov=True)
    for _ in range(5):
        Delta = rng.standard_normal(20)
        theirs.grad = torch.tensor(Delta)
        sgd.step()
        outer.step(ours, Delta)
    np.testing.assert_allclose(ours, theirs.detach().numpy(), rtol=1e-13)
