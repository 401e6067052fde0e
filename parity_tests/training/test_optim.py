"""AdamW, clipping, the learning-rate curve and accumulation against PyTorch's and the book's."""

import math
from dataclasses import asdict, replace
from functools import cache

import numpy as np
import pytest
import torch

import npgpt
from npgpt import Config, Generator
from npgpt.config import TrainingConfig
from npgpt.gpt import GPT
from npgpt.model import params
from npgpt.training import optim, schedule
from npgpt.training.trainer import Trainer
from parity_tests.support.harness import assert_parity, farthest, parameters
from reference import gpt2

CONFIG = Config(vocab_size=61, context_length=16, n_layer=2, n_head=2, n_embd=24)
STEPS, WARMUP, BATCH, PARTS = 50, 10, 8, 4
PEAK, INITIAL, LOWEST = 1e-2, 1e-4, 1e-3
TRAINING = TrainingConfig(
    batch_size=BATCH // PARTS, grad_accumulation=PARTS, lr=PEAK, initial_lr=INITIAL, min_lr=LOWEST,
    warmup_steps=WARMUP, steps=STEPS, grad_clip=0.5, beta2=0.95, weight_decay=0.1,
)  # fmt: skip
each_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["f32", "f64"])


# The curve


def test_the_curve_prints_the_books_numbers():
    """Appendix D: 135 steps, 27 of them warmup."""
    curve = dict(total=135, warmup=27, peak=1e-3, initial=1e-5, lowest=1e-5)
    printed = {0: "1e-05", 1: "4.6667e-05", 26: "0.00096333", 27: "0.001", 81: "0.000505",
               134: "1.0209e-05"}  # fmt: skip
    assert {i: f"{schedule.learning_rate(i, **curve):.5g}" for i in printed} == printed


def book_curve(steps, warmup, peak, initial, lowest):
    """The learning rates of appendix D's training loop, as it makes them."""
    increment, global_step, rates = (peak - initial) / warmup if warmup else 0.0, -1, []
    for _ in range(steps):
        global_step += 1
        if global_step < warmup:
            lr = initial + global_step * increment
        else:
            progress = (global_step - warmup) / (steps - warmup)
            lr = lowest + (peak - lowest) * 0.5 * (1 + math.cos(math.pi * progress))
        rates.append(lr)
    return rates


@pytest.mark.parametrize("steps, warmup", [(135, 27), (50, 10), (7, 0), (5, 4), (1, 0)])
def test_the_curve_is_the_books_at_every_step(steps, warmup):
    curve = dict(warmup=warmup, peak=1e-3, initial=3e-5, lowest=1e-5)
    ours = [schedule.learning_rate(i, total=steps, **curve) for i in range(steps)]
    # (a + i * b) / c against a + i * (b / c): two roundings in another order
    np.testing.assert_allclose(ours, book_curve(steps, **curve), rtol=4e-16)


def test_a_warmup_as_long_as_the_run_does_not_divide_by_zero():
    curve = dict(total=4, warmup=4, peak=1.0, initial=0.0, lowest=0.1)
    assert [schedule.learning_rate(i, **curve) for i in range(4)] == [0, 0.25, 0.5, 0.75]
    assert schedule.learning_rate(4, **curve) == schedule.learning_rate(5, **curve) == 1.0


# Clipping


@each_dtype
def test_the_books_example_of_clipping(backend, dtype):
    config = Config(vocab_size=2, context_length=2, n_layer=1, n_head=1, n_embd=2)
    tree = params.zeros(config, dtype)  # of a model, all of whose other gradients are 0
    tree.wte.weight[...] = [[1, 2], [2, 4]]
    norm = schedule.global_norm(tree, ops=backend)
    assert norm == 5
    clipped = tree.wte.weight * dtype(schedule.clip_scale(norm, 1.0))
    # PyTorch's 1e-6 beside the norm of 5 takes 2e-7 off
    np.testing.assert_allclose(clipped, [[0.2, 0.4], [0.4, 0.8]], rtol=3e-7)


@each_dtype
@pytest.mark.parametrize("most", [0.5, 1.0, 1e3])
def test_clipping_is_pytorchs(backend, dtype, most, rng):
    tree = params.zeros(CONFIG, dtype)
    theirs = []
    for _, array in npgpt.named(tree):
        array[...] = rng.normal(size=array.shape)
        theirs.append(torch.nn.Parameter(torch.zeros(array.shape, dtype=torch.float64)))
        theirs[-1].grad = torch.tensor(array, dtype=torch.float64)
    truth = torch.nn.utils.clip_grad_norm_(theirs, most)

    norm = schedule.global_norm(tree, ops=backend)
    assert type(norm) is float
    # 20,000 squares summed in float64 for every dtype: some roundings of a norm of 140
    assert norm == pytest.approx(float(truth), rel=1e-14)
    scale = schedule.clip_scale(norm, most)
    assert (scale == 1.0) == (most == 1e3)
    rounded = 1e-14 + np.finfo(dtype).eps  # the norm's, and that of the product
    for (name, array), clipped in zip(npgpt.named(tree), theirs, strict=True):
        np.testing.assert_allclose(array * scale, clipped.grad, rtol=rounded, err_msg=name)
    expected = [array * dtype(scale) for _, array in npgpt.named(tree)]
    assert npgpt.clip_gradients(tree, most, ops=backend) == norm
    for (name, array), clipped in zip(npgpt.named(tree), expected, strict=True):
        np.testing.assert_array_equal(array, clipped, name)


def test_a_gradient_of_zeros_is_not_divided_by_zero():
    assert schedule.clip_scale(0.0, 1.0) == 1.0


# AdamW by itself: the same gradients for both


def groups(model, decay, weight_decay):
    """Return parameter groups of PyTorch that decay matrices only."""
    decayed = [p for p in model.parameters() if decay == "all" or p.ndim >= 2]
    others = [p for p in model.parameters() if decay != "all" and p.ndim < 2]
    return [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]


def torch_steps(arrays, gradients, decay, lrs, dtype, **options):
    model = theirs(arrays, CONFIG, dtype)
    optimizer = torch.optim.AdamW(groups(model, decay, 0.1), **options)
    named = dict(model.named_parameters())
    for lr, grads in zip(lrs, gradients, strict=True):
        for group in optimizer.param_groups:
            group["lr"] = lr
        for name, grad in grads.items():
            named[name].grad = torch.tensor(grad.astype(dtype))
        optimizer.step()
    return {name: p.detach().numpy() for name, p in named.items()}


def theirs(arrays, config, dtype):
    arrays = {name: a.astype(dtype) for name, a in arrays.items()}
    return gpt2.from_arrays(gpt2.Config(**asdict(config)), arrays)


def some_arrays(config, rng, dtype, scale=1.0):
    shapes = params.named(params.shapes(config))
    return {name: rng.normal(scale=scale, size=s).astype(dtype) for name, s in shapes}


def tree_of(arrays, config):
    tree = params.zeros(config, arrays["wte.weight"].dtype)
    for name, array in npgpt.named(tree):
        array[...] = arrays[name]
    return tree


@each_dtype
@pytest.mark.parametrize(
    "decay, betas", [("all", (0.9, 0.999)), ("matrices", (0.9, 0.95))], ids=["book", "gpt2"]
)
def test_fifty_steps_on_the_same_gradients(decay, betas, dtype, backend, rng):
    """Gradients of very different sizes, zeros among them, and another learning rate each step."""
    arrays = some_arrays(CONFIG, rng, dtype)
    gradients = [some_arrays(CONFIG, rng, dtype, 10.0 ** (i % 7 - 4)) for i in range(STEPS)]
    for grads in gradients[::3]:
        grads["wpe.weight"][8:] = 0
    lrs = book_curve(STEPS, WARMUP, PEAK, INITIAL, LOWEST)
    options = dict(betas=betas, eps=1e-8)

    tree = tree_of(arrays, CONFIG)
    optimizer = npgpt.AdamW(
        tree, betas=betas, eps=1e-8, weight_decay=0.1, decays=optim.DECAYS[decay], ops=backend
    )
    for lr, grads in zip(lrs, gradients, strict=True):
        optimizer.step(tree_of(grads, CONFIG), lr=lr)
    assert optimizer.steps == STEPS

    truth = torch_steps(arrays, gradients, decay, lrs, np.float64, **options)
    narrow = {name: a.astype(np.float32) for name, a in arrays.items()}
    narrow_gradients = [{n: a.astype(np.float32) for n, a in g.items()} for g in gradients]
    single, double = (
        torch_steps(narrow, narrow_gradients, decay, lrs, t, **options)
        for t in (np.float32, np.float64)
    )
    for name, array in npgpt.named(tree):
        stray = farthest(single[name], double[name])
        assert_parity(name, array, truth[name], stray, dtype=dtype)


@each_dtype
def test_the_first_step_is_the_learning_rate(backend, dtype):
    """m and v begin at zero, and what corrects their bias at step 1 undoes that exactly."""
    p, m, v = np.ones(4, dtype), np.zeros(4, dtype), np.zeros(4, dtype)
    grad = np.array([3.0, -2e-3, 70.0, 1e-15], dtype)
    options = dict(betas=(0.9, 0.999), eps=0.0, weight_decay=0.0)
    backend.adamw.update(p, grad, m, v, step=1, lr=0.25, **options)
    assert p.dtype == m.dtype == v.dtype == dtype
    # grad / sqrt(grad^2) and both corrections: some roundings of 0.25
    np.testing.assert_allclose(p, [0.75, 1.25, 0.75, 0.75], rtol=0, atol=4 * np.finfo(dtype).eps)


def test_scale_is_the_scaled_gradient(backend, rng):
    """By a power of two: the same bits as if the gradient had been a quarter."""
    arrays, grads = (some_arrays(CONFIG, rng, np.float32) for _ in range(2))
    quarter = {name: a / 4 for name, a in grads.items()}
    scaled, small = tree_of(arrays, CONFIG), tree_of(arrays, CONFIG)
    npgpt.AdamW(scaled, ops=backend).step(tree_of(grads, CONFIG), scale=0.25)
    npgpt.AdamW(small, ops=backend).step(tree_of(quarter, CONFIG))
    for (name, a), (_, b) in zip(npgpt.named(scaled), npgpt.named(small), strict=True):
        np.testing.assert_array_equal(a, b, err_msg=name)


def test_gradients_are_only_read(backend, rng):
    grads = tree_of(some_arrays(CONFIG, rng, np.float32), CONFIG)
    before = [a.copy() for _, a in npgpt.named(grads)]
    optimizer = npgpt.AdamW(tree_of(some_arrays(CONFIG, rng, np.float32), CONFIG), ops=backend)
    optimizer.step(grads, scale=0.5)
    for (name, a), b in zip(npgpt.named(grads), before, strict=True):
        np.testing.assert_array_equal(a, b, err_msg=name)


# Training: each side makes its own gradients


def trainer(arrays, config, training, backend):
    model = GPT.from_params(config, tree_of(arrays, config), ops=backend)
    tokens = np.zeros(1 + config.context_length * BATCH, np.int64)  # it wants some; none is used
    return Trainer(model, tokens, tokens, training, Generator(0, ops=backend), prompt=[0])


def torch_training(arrays, config, batches, decay, dtype):
    """Appendix D's loop, with accumulation: what Trainer promises, in PyTorch's words."""
    model = theirs(arrays, config, dtype)
    betas = TRAINING.beta1, TRAINING.beta2
    optimizer = torch.optim.AdamW(groups(model, decay, TRAINING.weight_decay), betas=betas)
    rates = book_curve(STEPS, WARMUP, PEAK, INITIAL, LOWEST)
    losses = []
    for global_step, (tokens, targets) in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = rates[global_step]
        optimizer.zero_grad()
        losses.append(0.0)
        for part in np.split(np.arange(BATCH), PARTS):
            loss = model.loss(torch.tensor(tokens[part]), torch.tensor(targets[part])) / PARTS
            loss.backward()
            losses[-1] += loss.item()
        if global_step >= WARMUP:
            torch.nn.utils.clip_grad_norm_(model.parameters(), TRAINING.grad_clip)
        optimizer.step()
    found = {name: p.detach().numpy() for name, p in model.named_parameters()}
    return found | {"losses": np.array(losses)}


def some_batches(config, rng, n=STEPS):
    """Next tokens that can be learnt: twice the token before, plus one."""
    tokens = rng.integers(config.vocab_size, size=(n, BATCH, config.context_length))
    return [(t, (2 * t + 1) % config.vocab_size) for t in tokens]


def without_key_bias(name, array):
    """Return the array without the key's part of `c_attn.bias`, whose gradient is rounding errors.

    The key's bias adds the same number to all scores of a row, and softmax subtracts it again. The
    exact gradient is 0. AdamW divides the rounding errors by their own size, and makes full steps.
    These change no output, but PyTorch's own float32 and float64 differ by 1e-2 there.
    """
    if not name.endswith("c_attn.bias"):
        return array
    C = CONFIG.n_embd
    return np.concatenate([array[:C], array[2 * C :]])


def drawn(dtype):
    """Return parameters and batches: the same ones in both dtypes, but for rounding."""
    rng = np.random.default_rng(1337)
    return parameters(CONFIG, rng, dtype), some_batches(CONFIG, rng)


@cache
def trained_by_torch(decay, drawn_as, dtype):
    """Return PyTorch's training in `dtype` of parameters drawn in `drawn_as`, for several tests."""
    arrays, batches = drawn(drawn_as)
    return torch_training(arrays, CONFIG, batches, decay, dtype)


@pytest.mark.slow
@pytest.mark.parametrize(
    "decay, dtype", [("all", np.float32), ("matrices", np.float64)], ids=["all-f32", "matrices-f64"]
)
def test_fifty_steps_of_training(decay, dtype, backend):
    arrays, batches = drawn(dtype)
    run = trainer(arrays, CONFIG, replace(TRAINING, decay=decay), backend)
    losses, norms = [], []
    for i, (tokens, targets) in enumerate(batches):
        run.progress.step = i
        loss, norm = run.update(tokens, targets, run.learning_rate(i))
        losses.append(loss)
        norms.append(norm)
    assert max(norms[:WARMUP]) > 2 * TRAINING.grad_clip, (
        "nothing would have been clipped in the warmup"
    )
    assert max(norms[WARMUP:]) > 2 * TRAINING.grad_clip, "nothing was clipped after it"
    assert losses[-1] < 0.6 * losses[0], "nothing was learnt"

    truth = trained_by_torch(decay, dtype, np.float64)
    single, double = (trained_by_torch(decay, np.float32, t) for t in (np.float32, np.float64))
    for name, array in npgpt.named(run.model.params):
        ours, expected, *rounded = (
            without_key_bias(name, a) for a in (array, truth[name], single[name], double[name])
        )
        assert_parity(name, ours, expected, farthest(*rounded), dtype=dtype)
    walked = farthest(single["losses"], double["losses"])
    assert_parity("losses", np.array(losses, dtype), truth["losses"], walked, dtype=dtype)


@each_dtype
def test_accumulated_equals_the_large_batch(backend, dtype, rng):
    arrays = parameters(CONFIG, rng, dtype)
    (batch,) = some_batches(CONFIG, rng, 1)
    parts, results = (1, 2, 4, 8), []
    for n in parts:
        training = replace(TRAINING, batch_size=BATCH // n, grad_accumulation=n)
        run = trainer(arrays, CONFIG, training, backend)
        run.progress.step = WARMUP  # so that it is clipped
        loss, norm = run.update(*batch, 0.01)
        results.append((loss, norm, run))
    eps = float(np.finfo(dtype).eps)
    loss, norm, whole = results[0]
    for n, (other_loss, other_norm, run) in zip(parts[1:], results[1:], strict=True):
        # 128 losses and 128 rows of gradients, summed in another order
        assert other_loss == pytest.approx(loss, rel=8 * eps), f"{n} parts"
        assert other_norm == pytest.approx(norm, rel=8 * eps), f"{n} parts"
        for (name, a), (_, b) in zip(
            npgpt.named(run.gradients), npgpt.named(whole.gradients), strict=True
        ):
            assert farthest(a, b) <= 32 * eps * norm, f"{name} in {n} parts"
