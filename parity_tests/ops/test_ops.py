"""Each op against PyTorch: its output, and the gradient of every argument."""

import numpy as np
import pytest
import torch

from npgpt import Config
from npgpt.model import kv_cache
from parity_tests.support.cases import CASES, attention_case, embedding_case
from parity_tests.support.harness import (
    assert_parity,
    backward,
    draw,
    farthest,
    forward,
    leaves,
    run_torch,
    strays,
)

each_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["f32", "f64"])


@each_dtype
@pytest.mark.parametrize("case", CASES, ids=str)
def test_matches_torch(case, backend, dtype, rng):
    drawn = draw(case, rng, dtype)
    truth, stray = run_torch(case, drawn, torch.float64), strays(case, drawn)
    out, cache = forward(case, backend, drawn)
    ours = {"out": out} | backward(case, backend, drawn, cache)

    assert ours.keys() == truth.keys()
    for name in truth:
        assert_parity(name, ours[name], truth[name], stray[name], dtype=dtype, unit=case.unit)
    for leaf in leaves(cache):  # nothing is kept wider or narrower than it came
        assert isinstance(leaf, (np.ndarray, np.generic)), f"{leaf!r} in {cache}"
        assert leaf.dtype.kind in "ib" or leaf.dtype == dtype, f"{leaf.dtype} in a {dtype} cache"


LOSSES = [case for case in CASES if case.op == "linear_cross_entropy"]


@each_dtype
@pytest.mark.parametrize("case", LOSSES, ids=str)
def test_evaluate_is_the_loss(case, backend, dtype, rng):
    x, p, ids, _ = drawn = draw(case, rng, dtype)
    truth, stray = run_torch(case, drawn, torch.float64), strays(case, drawn)
    value = backend.linear_cross_entropy.evaluate(**x, **p, **ids, **case.options)
    assert_parity("loss", value, truth["out"], stray["out"], dtype=dtype, unit=case.unit)


@each_dtype
@pytest.mark.parametrize("case", LOSSES, ids=str)
def test_log_probs(case, backend, dtype, rng):
    x, p, ids, _ = draw(case, rng, dtype)

    def theirs(torch_dtype):
        logits = (
            torch.tensor(x["x"], dtype=torch_dtype) @ torch.tensor(p["weight"]).to(torch_dtype).T
        )
        return logits.log_softmax(-1)

    every, targets = theirs(torch.float64), torch.tensor(ids["targets"])
    likely, counts = every.argmax(-1), targets != -100
    odd = counts & (torch.arange(targets.numel()).reshape(targets.shape) % 2 == 1)
    targets[odd] = likely[odd]
    index = targets.clamp(min=0)[..., None]
    truth, narrow = (
        torch.where(counts, a.gather(-1, index)[..., 0], 0).numpy()
        for a in (every, theirs(torch.float32))
    )
    ours, is_greedy = backend.linear_cross_entropy.log_probs(
        **x, **p, targets=targets.numpy(), **case.options
    )
    assert_parity("log_probs", ours, truth, farthest(narrow, truth), dtype=dtype, unit=case.unit)
    assert is_greedy.dtype == bool
    np.testing.assert_array_equal(is_greedy, ((targets == likely) | ~counts).numpy())


@each_dtype
def test_of_equal_tokens_the_first_is_greedy(backend, dtype):
    x, weight = np.ones((4, 8), dtype), np.zeros((5, 8), dtype)
    weight[[1, 3]] = 1
    _, is_greedy = backend.linear_cross_entropy.log_probs(x, weight, np.array([0, 1, 3, -100]))
    assert is_greedy.tolist() == [False, True, False, True]


# What generation asks for. There is no backward: it is given no whole sequence.


@each_dtype
@pytest.mark.parametrize("parts", [(7,), (1,) * 7, (4, 1, 2), (6, 1)], ids=str)
@pytest.mark.parametrize("n_head", [1, 4])
def test_attention_with_a_past(n_head, parts, backend, dtype, rng):
    """A sequence in parts, each after the past of those before it, is the whole sequence."""
    B, T, C = 2, 7, 48
    case = attention_case(B, T, C, n_head)
    drawn = draw(case, rng, dtype)
    truth, stray = run_torch(case, drawn, torch.float64), strays(case, drawn)
    config = Config(vocab_size=2, context_length=9, n_layer=1, n_head=n_head, n_embd=C)
    (past,) = kv_cache.empty_cache(B, config, dtype)
    outs, start = [], 0
    for t in parts:
        part = np.ascontiguousarray(drawn[0]["qkv"][:, start : start + t])
        home = np.full((B, t, C), np.nan, dtype)
        out, _ = backend.attention.forward(part, n_head=n_head, past=past, out=home)
        assert out is home
        outs.append(out)
        start += t
    assert past.length == T
    out = np.concatenate(outs, axis=1)
    assert_parity("out", out, truth["out"], stray["out"], dtype=dtype)


@each_dtype
def test_embedding_after_a_start(backend, dtype, rng):
    _, p, ids, _ = draw(embedding_case(2, 7, T_max=11), rng, dtype)
    whole, _ = backend.embedding.forward(ids["tokens"], backend.embedding.Params(**p))
    for start in (1, 4):
        tokens = ids["tokens"][:, start:]
        part, _ = backend.embedding.forward(tokens, backend.embedding.Params(**p), start=start)
        assert part.dtype == dtype
        np.testing.assert_array_equal(part, whole[:, start:])
    with pytest.raises((IndexError, ValueError)):  # the context ends at 11
        backend.embedding.forward(ids["tokens"], backend.embedding.Params(**p), start=5)
