"""Generation: the key/value cache changes no result, the window slides, rows are independent.

Generation without a key/value cache reads the cropped window for every token. That is the truth
here, on PyTorch's side and on npgpt's own. With a cache, token ids must be equal in float64, and
logits within the measured budget in float32.
"""

import codecs
import inspect

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import npgpt
from npgpt.data.text_stream import TextStream
from npgpt.errors import InputError
from npgpt.inference import sampling
from npgpt.inference.generate import generate
from npgpt.model import kv_cache, params, transformer
from parity_tests.support.harness import assert_parity, farthest
from reference.gpt2 import GPT2

SHAPE = dict(vocab_size=17, context_length=8, n_layer=2, n_head=2, n_embd=16)


def model_of(ops, dtype=np.float64, **changes):
    """Wide enough awake that greedy does not repeat itself."""
    model = npgpt.GPT(npgpt.Config(**SHAPE | changes), dtype=dtype, ops=ops)
    rng = npgpt.Generator(2, ops=ops)
    for name, array in npgpt.named(model.params):
        if not name.split(".")[-2].startswith("ln_"):
            std = 1.0 if name.startswith("w") else 0.1 if name.endswith("bias") else 0.7
            array[...] = rng.normal(array.shape, 0.0, std)
    return model


def uncached(model, tokens, count, **how):
    """Every token from the whole window, cropped. -> ids (B, count), logits (count, B, V)"""
    tokens, logits = np.atleast_2d(tokens), []
    for _ in range(count):
        logits.append(model.logits(tokens[:, -model.config.context_length :])[:, -1])
        new = sampling.next_token(logits[-1], **how)
        tokens = np.concatenate([tokens, new[:, None]], axis=1)
    return tokens[:, -count:], np.array(logits)


def cached(model, tokens, count, monkeypatch, **how):
    """Return the tokens that `generate` yields, and the logits that it draws them from."""
    logits, choose = [], sampling.next_token
    with monkeypatch.context() as patched:
        patched.setattr(
            sampling, "next_token", lambda x, **k: logits.append(x.copy()) or choose(x, **k)
        )
        ids = np.array(list(generate(model, tokens, count, **how)))
    return ids.reshape(count, -1).T, np.array(logits).reshape(count, -1, logits[0].shape[-1])


@pytest.mark.parametrize(
    ("length", "kind"),
    [(1, "tied"), (5, "book"), (7, "tied"), (8, "tied"), (9, "book"), (20, "tied")],
)
def test_remembering_changes_nothing(backend, length, kind, monkeypatch):
    """20 tokens in a context of 8: up to it, at it, past it, and from a prompt longer than it."""
    changes = {"tied": {}, "book": {"tied": False, "qkv_bias": False}}[kind]
    prompt = np.arange(2 * length).reshape(2, length) * 5 % 17
    models = {d: model_of(backend, d, **changes) for d in (np.float32, np.float64)}
    ids, truth = uncached(models[np.float64], prompt, 20)
    assert len(set(ids.ravel())) > 4
    found, logits = cached(models[np.float64], prompt, 20, monkeypatch)
    np.testing.assert_array_equal(found, ids)
    # the yardstick: how far float32 strays without a memory, on the same windows
    whole = np.concatenate([prompt, ids], axis=1)
    stray = max(
        farthest(models[np.float32].logits(whole[:, max(0, end - 8) : end])[:, -1], truth[i])
        for i, end in enumerate(range(length, length + 20))
    )
    assert_parity("float64", logits, truth, stray, dtype=np.float64)
    narrow, choices = [], iter(ids.T.reshape(-1, 1))
    with monkeypatch.context() as patched:  # float32 is led along the same path
        patched.setattr(
            sampling, "next_token", lambda x, **k: narrow.append(x.copy()) or next(choices)
        )
        list(generate(models[np.float32], prompt, 20))
    assert_parity("float32", np.reshape(narrow, truth.shape), truth, stray, dtype=np.float32)


def test_greedy_is_what_the_reference_says(backend, tmp_path):
    model = model_of(backend)
    model.save(tmp_path / "model.h5")
    reference = GPT2.load(tmp_path / "model.h5").double()
    prompt = np.array([[3, 1, 4], [1, 5, 9]])
    expected = reference.generate(torch.tensor(prompt), 15)[:, 3:].numpy()
    found = np.array(list(npgpt.generate(model, prompt, 15))).T
    np.testing.assert_array_equal(found, expected)


def test_sampling_past_the_window_draws_the_same(backend):
    model = model_of(backend)
    how = dict(temperature=1.3, top_k=9, top_p=0.9)
    rngs = [npgpt.Generator(4, ops=backend) for _ in range(2)]
    ids, _ = uncached(model, [[1, 2]], 20, **how, rng=rngs[0])
    found = list(generate(model, [1, 2], 20, **how, rng=rngs[1]))
    np.testing.assert_array_equal(found, ids[0])
    np.testing.assert_array_equal(rngs[0].state, rngs[1].state)


def test_a_batch_is_its_rows(backend):
    model = model_of(backend)
    prompts = np.array([[1, 2, 3], [9, 9, 9], [0, 16, 8]])
    together = np.array(list(generate(model, prompts, 12))).T
    alone = [list(generate(model, row, 12)) for row in prompts]
    assert together.tolist() == alone


def test_each_row_stops_by_itself(backend):
    """Compare each row with itself alone up to end-of-text; only end-of-text may follow."""
    model, prompts = model_of(backend), np.array([[1, 2, 3], [9, 9, 9], [0, 16, 8]])
    free = np.array(list(generate(model, prompts, 12))).T
    eos = int(free[0, 4])
    ends = [row.tolist().index(eos) if eos in row else None for row in free]
    assert ends[0] is not None
    assert len(set(ends)) > 1  # not all at once
    bound = np.array(list(generate(model, prompts, 12, eos_id=eos))).T
    for row, alone, end in zip(bound, free, ends, strict=True):
        stop = len(row) if end is None else end + 1
        assert row[:stop].tolist() == alone[:stop].tolist()
        assert set(row[stop:]) <= {eos}
    finished = [end for end in ends if end is not None]
    assert bound.shape[1] == (12 if None in ends else max(finished) + 1)
    single = list(generate(model, prompts[0], 12, eos_id=eos))
    assert single == free[0, : ends[0] + 1].tolist()


def passes(monkeypatch):
    """Return a list, to which every forward pass appends the shape of its tokens."""
    calls, hidden = [], transformer.hidden
    monkeypatch.setattr(
        transformer, "hidden", lambda p, x, *a, **k: calls.append(x.shape) or hidden(p, x, *a, **k)
    )
    return calls


def test_ids_come_one_step_at_a_time_as_int64(backend, monkeypatch):
    model, calls = model_of(backend), passes(monkeypatch)
    steps = generate(model, [[1, 2, 3]] * 5, 7)
    assert inspect.isgenerator(steps)
    assert calls == []
    first = next(steps)
    assert (first.shape, first.dtype) == ((5,), np.int64)
    assert calls == [(5, 3)]
    list(steps)
    # one by one, until the window slides; with 40 positions at once, other bits would be computed
    assert calls == [(5, 3)] + [(5, 1)] * 5 + [(4, 8), (1, 8)]
    assert list(generate(model, [1], 0)) == []


@pytest.mark.parametrize(
    ("arguments", "changes", "says"),
    [
        (([], 3), {}, "the prompt is empty"),
        ((np.zeros((2, 0), int), 3), {}, "the prompt is empty"),
        (([1, 17], 3), {}, r"token id 17 is outside the vocabulary of 17 \(0 to 16\)"),
        (([-1], 3), {}, "token id -1 is outside"),
        (([0.5], 3), {}, "tokens must be integers"),
        (([[[1]]], 3), {}, r"of shape \(1, 1, 1\)"),
        (([1], -1), {}, "max_new_tokens is -1, but must be at least 0"),
        (([1], 3), {"temperature": 1.0}, r"temperature 1.0 draws at random: give it rng="),
        (([1], 3), {"temperature": -1.0}, "temperature is -1.0"),
        (([1], 3), {"top_k": 0}, "top_k is 0"),
        (([1], 3), {"top_p": 0.0}, "top_p is 0.0"),
    ],
)
def test_what_makes_no_sense_is_refused_at_once(arguments, changes, says):
    """When it is called, not when the first token is asked for."""
    from npgpt import ops

    with pytest.raises(InputError, match=says):
        generate(model_of(ops), *arguments, **changes)


def test_more_than_the_context_is_refused(backend):
    model = model_of(backend)
    with pytest.raises(InputError, match="9 tokens are longer than the context of 8; crop them"):
        model.logits(np.zeros((1, 9), int))
    past = kv_cache.empty_cache(1, model.config, model.dtype)
    model.next_logits(np.zeros((1, 6), int), past=past)
    with pytest.raises(InputError, match="9 tokens are longer than the context of 8"):
        model.next_logits(np.zeros((1, 3), int), past=past)
    assert past[0].length == 6  # nothing was remembered of it


@pytest.mark.parametrize("sizes", [[1] * 700, [255, 1, 1, 300], [700], [5, 300, 0, 395]])
def test_the_memory_grows_and_forgets_nothing(rng, sizes):
    layer = kv_cache.LayerCache(2, npgpt.Config(**SHAPE | {"context_length": 700}))
    whole = rng.normal(size=(2, 2, 2, 700, 8)).astype(np.float32)  # keys and values
    end = 0
    for size in sizes:
        start, end = end, end + size
        found = layer.append(*whole[..., start:end, :])
        np.testing.assert_array_equal(found, whole[..., :end, :])
        # twice of what is needed, in multiples of the first capacity
        assert layer.k.shape[-2] <= min(2 * end + kv_cache.INITIAL_CAPACITY - 1, 700)
    assert layer.k.shape[-2] == 700


def test_the_memory_refuses_more_than_it_has_room_for():
    layer = kv_cache.LayerCache(1, npgpt.Config(**SHAPE))
    part = np.zeros((1, 2, 5, 8), np.float32)
    layer.append(part, part)
    with pytest.raises(ValueError, match="cannot append 5 positions to 5 cached ones"):
        layer.append(part, part)
    assert layer.length == 5


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_memory_is_of_the_models_dtype(backend, dtype):
    model = model_of(backend, dtype)
    past = kv_cache.empty_cache(3, model.config, model.dtype)
    assert model.next_logits(np.ones((3, 4), int), past=past).dtype == dtype
    assert {layer.k.dtype for layer in past} == {np.dtype(dtype)}
    assert params.size(model.config) == model.size


# Text as it comes


def fed(encoding, tokens):
    stream = TextStream(encoding)
    return [stream.feed(token) for token in tokens] + [stream.end()]


def test_a_character_waits_for_its_last_byte():
    byte = npgpt.tokenizer("byte")
    pieces = fed(byte, "a\u00e9\u20ac\U0001f600z".encode())
    assert pieces == ["a", "", "\u00e9", "", "", "\u20ac", "", "", "", "\U0001f600", "z", ""]


def test_a_character_that_is_cut_shows_at_the_end():
    byte = npgpt.tokenizer("byte")
    assert fed(byte, b"a\xe2\x82") == ["a", "", "", "\ufffd"]
    assert fed(byte, b"\xe2\x82z") == ["", "", "\ufffdz", ""]  # or when it is clear that it is
    assert fed(byte, [300, 97]) == ["\ufffd", "a", ""]  # no such token


@settings(deadline=None)
@given(st.binary(max_size=30))
def test_what_streams_is_what_decodes(raw):
    """Any bytes, whole characters or not."""
    byte = npgpt.tokenizer("byte")
    assert "".join(fed(byte, raw)) == byte.decode(raw)
    assert "".join(fed(byte, raw)) == codecs.decode(raw, errors="replace")


@settings(deadline=None)
@given(st.text(max_size=30))
def test_what_streams_is_the_text(text):
    byte = npgpt.tokenizer("byte")
    assert "".join(fed(byte, text.encode())) == text


@pytest.mark.parametrize("shared", [False, True])
def test_stop_strings_end_a_sequence_at_the_token_that_completes_one(shared):
    config = npgpt.Config(**SHAPE | {"vocab_size": 257, "context_length": 32})
    model = npgpt.GPT(config, ops=npgpt.ops, tokenizer="byte")
    letters = dict.fromkeys({*range(257)} - {*range(97, 123)}, -100.0)
    rngs = [npgpt.Generator(i, ops=npgpt.ops) for i in (1, 2)]

    def run(stop=(), prompts=([97], [98, 99])):
        rng = rngs[0].copy() if shared or len(prompts) == 1 else [one.copy() for one in rngs]
        new = generate(model, prompts, 12, temperature=1.0, logit_bias=letters, rng=rng, stop=stop)
        return np.array(list(new)).T

    free = run()
    stop = bytes(free[0, 4:7].tolist()).decode()
    found = run(["never", stop])
    assert (found[0, :7] == free[0, :7]).all()
    assert (found[0, 7:] == free[0, 6]).all(), "the last token is repeated"
    assert (found[1] == free[1]).all(), "the other row is as before"
    if not shared:
        assert (run([stop], prompts=([97],)) == free[:1, :7]).all(), "nothing is yielded afterwards"


def test_stop_strings_need_a_tokenizer():
    model = npgpt.GPT(npgpt.Config(**SHAPE), ops=npgpt.ops)
    with pytest.raises(InputError, match="stop is 'x', but must be strings"):
        generate(model, [1], 2, stop="x")
    with pytest.raises(InputError, match="tokenizer"):
        generate(model, [1], 2, stop=["x"])
