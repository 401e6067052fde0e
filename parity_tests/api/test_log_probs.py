"""Log-probabilities of given tokens: PyTorch's, in batches, after a cached context, forked."""

from dataclasses import asdict
from functools import partial

import numpy as np
import pytest
import torch

import npgpt
from npgpt.model import params, transformer
from parity_tests.support.harness import assert_parity, farthest
from parity_tests.support.models import draw
from reference import gpt2

CONFIG = npgpt.Config(vocab_size=97, context_length=32, n_layer=3, n_head=4, n_embd=48)


@pytest.fixture
def batch(rng):
    return draw(CONFIG, rng, np.float32)


@pytest.fixture
def model(batch, backend):
    tree = params.zeros(CONFIG, np.float32)
    for name, array in npgpt.named(tree):
        array[...] = batch.arrays[name]
    return npgpt.GPT.from_params(CONFIG, tree, ops=backend)


def theirs(batch, tokens, dtype):
    arrays = {name: a.astype(dtype) for name, a in batch.arrays.items()}
    logits = gpt2.from_arrays(gpt2.Config(**asdict(CONFIG)), arrays)(torch.tensor(tokens))
    return logits.log_softmax(-1).detach()


def test_they_are_those_of_pytorch(model, batch):
    tokens, targets = batch.tokens, batch.targets.copy()
    every, narrow = (theirs(batch, tokens, dtype) for dtype in (np.float64, np.float32))
    likely = every.argmax(-1).numpy()
    targets[:, ::2], targets[0, 3:] = likely[:, ::2], -100
    index = torch.tensor(np.maximum(targets, 0))[..., None]
    truth, narrow = (a.gather(-1, index)[..., 0].numpy() for a in (every, narrow))
    counts = targets != -100
    found, is_greedy = model.log_probs(tokens, targets)
    for n in (tokens.shape[1], 2):  # of the last positions
        found, is_greedy = model.log_probs(tokens, targets[:, -n:])
        kept = counts[:, -n:]
        expected = np.where(kept, truth[:, -n:], 0)
        assert_parity("log_probs", found, expected, farthest(narrow, truth), dtype=np.float32)
        np.testing.assert_array_equal(is_greedy, ~kept | (targets == likely)[:, -n:])
    loss = model.evaluate(tokens, targets)
    assert loss == pytest.approx(
        -model.log_probs(tokens, targets)[0].sum() / counts.sum(), rel=1e-6
    )


def test_only_the_scored_positions_leave_the_last_block(model, batch, monkeypatch):
    shapes, forward = [], model.ops.gelu.forward
    monkeypatch.setattr(
        model.ops.gelu, "forward", lambda x, **k: shapes.append(x.shape[:-1]) or forward(x, **k)
    )
    B, T = batch.tokens.shape
    logits = model.next_logits(batch.tokens, past=model.kv_cache(B))
    assert shapes == [(B, T)] * 2 + [(B,)]
    for n, last in (2, (2 * B,)), (T, (B, T)):
        shapes.clear()
        model.evaluate(batch.tokens, batch.targets[:, -n:])
        assert shapes == [(B, T)] * 2 + [last]
    whole = model.logits(batch.tokens)[:, -1]
    np.testing.assert_allclose(logits, whole, atol=1e-4)


def test_a_context_is_read_once_and_forked(model, batch):
    """Every continuation of every context, in one batch, as in a pass over both from the start."""
    T = batch.tokens.shape[1]
    contexts, endings = batch.tokens[:2, : T - 4], np.arange(24).reshape(2, 3, 4) * 3
    past = model.kv_cache(2)
    model.next_logits(contexts[:, :-1], past=past)
    forks = model.fork(past, 3)
    firsts = np.repeat(contexts[:, -1:], 3, axis=0)
    rows = endings.reshape(6, 4)
    found, _ = model.log_probs(np.hstack([firsts, rows[:, :-1]]), rows, past=forks)
    assert forks[0].length == T - 1 and past[0].length == T - 5  # the context is left as it was
    for i in range(6):
        whole = np.hstack([contexts[i // 3], rows[i, :-1]])[None]
        expected, _ = model.log_probs(whole, rows[i : i + 1])
        np.testing.assert_allclose(found[i], expected[0], rtol=1e-4, atol=1e-5)
    single, _ = model.log_probs(firsts, rows[:, :1], past=model.fork(past, 3))  # decode
    np.testing.assert_allclose(single, found[:, :1], rtol=1e-4, atol=1e-5)


def test_a_fork_grows_by_itself(model, batch):
    past = model.kv_cache()
    model.next_logits(batch.tokens[:1, :4], past=past)
    before = past[0].k[:, :, :4].copy()
    fork = model.fork(past, 2)
    model.next_logits(batch.tokens[:2, :3], past=fork)
    np.testing.assert_array_equal(past[0].k[:, :, :4], before)
    assert [len(layer.k) for layer in fork] == [2, 2, 2] and fork[0].length == 7
    np.testing.assert_array_equal(fork[0].k[1, :, :4], before[0])


@pytest.mark.parametrize("T", [1, 3], ids=["decode", "prompt"])
def test_a_call_that_fails_leaves_the_cache_as_it_was(T, model, batch, monkeypatch):
    """In a block, when some layers are longer than others, and after the last one."""
    context, tokens = batch.tokens[:2, :5], batch.tokens[:2, 5 : 5 + T]
    past, fresh, lengths = model.kv_cache(2), model.kv_cache(2), set()
    for one in past, fresh:
        model.next_logits(context, past=one)

    def interrupted(*args, **options):
        lengths.add(tuple(layer.length for layer in past))
        raise KeyboardInterrupt

    score = partial(model.log_probs, tokens, tokens, past=past)
    read = partial(model.next_logits, tokens, past=past)
    places = [(transformer, "scores", read), (model.ops.linear_cross_entropy, "log_probs", score)]
    if T > 1:  # one token has an op of its own for all blocks
        places.append((model.ops.gelu, "forward", read))
    for owner, name, call in places:
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(owner, name, interrupted)
            call()
        assert [layer.length for layer in past] == [5, 5, 5]
    assert lengths >= {(5 + T, 5 + T, 5 + T)} | ({(5 + T, 5, 5)} if T > 1 else set())
    np.testing.assert_array_equal(read(), model.next_logits(tokens, past=fresh))
