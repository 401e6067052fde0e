"""Rows that join and leave: each one is its own run, bit for bit where the kernels allow it."""

import doctest
import itertools
from contextlib import contextmanager, nullcontext, suppress
from types import SimpleNamespace

import numpy as np
import pytest

import npgpt
from npgpt import Sampling, ops
from npgpt.errors import InputError
from npgpt.inference import batch as batch_module
from npgpt.inference import window as window_module
from npgpt.inference.batch import Batch
from npgpt.inference.window import FEW
from npgpt.model import quantize
from npgpt.quantized_matrix import KINDS
from parity_tests.inference.test_generate import model_of, passes

SHAPE = dict(context_length=40, n_head=3, n_embd=48)  # widths that no cache line divides, in int8
# (length of the prompt, step at which it joins, tokens, settings)
ROWS = [
    (20, 0, 6, Sampling()),
    (3, 0, 9, Sampling(1.0, top_k=9)),
    (1, 1, 4, Sampling()),
    (37, 1, 9, Sampling(0.7, top_p=0.9, logit_bias={3: 1.5})),  # past the end of the context
    (5, 2, 5, Sampling(1.0, min_p=0.05, repetition_penalty=1.3)),
    (17, 2, 3, Sampling()),
    (60, 5, 4, Sampling(1.2)),  # longer than the context
    (2, 9, 3, Sampling()),
]


def prompt_of(length):
    return np.random.default_rng(length).integers(0, 17, length)


def run(model, rows, speculate=None):
    """Return what each row of `rows` (number, row) gets, when they join as they say."""
    batch, found, names = Batch(model, speculate=speculate), {}, {}
    step = 0
    while batch or len(names) < len(rows):
        for number, (length, start, count, sampling) in rows:
            if start == step:
                rng = npgpt.Generator(number, ops=model.ops)
                options = dict(max_new_tokens=count, rng=rng, log_probs=2)
                names[batch.add(prompt_of(length), sampling, **options)] = number
        for new in batch.step() if batch else ():
            found.setdefault(names[new.row], []).append(new._replace(row=0))
        step += 1
    return found


@contextmanager
def failing(monkeypatch, owner, name, at, error):
    """Let call number `at` of a function, from 1, raise an error. 0: none."""
    calls, call = itertools.count(1), getattr(owner, name)

    def called(*args, **options):
        if next(calls) == at:
            raise error
        return call(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, called)
        yield


def run_alone(model, number):
    length, _, *others = ROWS[number]
    return run(model, [(number, (length, 0, *others))])[number]


@pytest.mark.parametrize("kind", ["numpy", "fused", "bfloat16", "int8"])
def test_each_row_is_its_own_run(kind):
    model = model_of("numpy" if kind == "numpy" else "fused", np.float32, **SHAPE)
    if kind in KINDS:
        model = npgpt.GPT.from_params(model.config, quantize.quantize(model.params, kind))
    together = run(model, list(enumerate(ROWS)))
    for number, row in enumerate(ROWS):
        alone = run_alone(model, number)
        assert len(alone) == row[2]
        assert [new.finish_reason for new in alone] == [None] * (row[2] - 1) + ["length"]
        if kind == "numpy":  # whose BLAS adds in another order for more rows
            assert [new.token for new in together[number]] == [new.token for new in alone]
        else:
            assert together[number] == alone, number


def test_a_row_is_what_generate_yields(backend):
    model = model_of(backend, **SHAPE)
    for number, (length, _, count, sampling) in enumerate(ROWS):
        rng = npgpt.Generator(number, ops=backend)
        settings = {**vars(sampling), "rng": rng}
        ids = list(npgpt.generate(model, prompt_of(length), count, **settings))
        assert ids == [new.token for new in run_alone(model, number)]


def test_many_rows_are_their_own_runs():
    """More than FEW: the output head is applied to some rows after the others."""
    model = model_of("fused", np.float32)
    prompts = [[i % 17, 2 * i % 17] for i in range(2 * FEW + 3)]
    together = np.array(list(npgpt.generate(model, prompts, 8))).T.tolist()
    assert together == [list(npgpt.generate(model, prompt, 8)) for prompt in prompts]


def test_what_is_few_is_what_the_kernels_take_for_few():
    from npgpt.kernels import gemm

    assert FEW == gemm.FEW


def test_short_prompts_and_long_ones_are_not_read_together(monkeypatch):
    model, calls = model_of("numpy", context_length=200, n_layer=1), passes(monkeypatch)
    monkeypatch.setattr(window_module, "PASS", 256)
    batch = Batch(model)
    for length in (30, *[4] * 8, 58, 16, 150, 140, 2, 60):
        batch.add(np.ones(length, int), max_new_tokens=1)
    batch.step()
    # at most FEW positions; at most a quarter of padding; at most PASS positions
    assert calls == [(8, 4), (2, 16), (1, 30), (2, 60), (1, 140), (1, 150)]
    assert len(batch) == 0
    calls.clear()
    monkeypatch.setattr(window_module, "PASS", 2048)
    list(npgpt.generate(model, np.ones((FEW + 2, FEW + 1), int), 1))
    assert calls == [(FEW, FEW + 1), (2, FEW + 1)]


def test_caches_are_used_again(backend):
    model = model_of(backend)
    batch = Batch(model)
    for _ in range(5):
        numbers = [batch.add([1, 2, 3], max_new_tokens=2) for _ in range(3)]
        batch.step()
        batch.remove(numbers[1])
        assert [new.row for new in batch.step()] == [numbers[0], numbers[2]]
    assert len(batch._free) == 3
    with pytest.raises(InputError, match="row 4 is not in the batch"):
        batch.remove(4)


def test_a_row_stops_by_a_token_or_by_a_condition(backend):
    model = model_of(backend)
    free = list(npgpt.generate(model, [1, 2, 3], 9))
    eos, seen = free[4], []
    count = free.index(eos) + 1
    batch = Batch(model)
    batch.add([1, 2, 3], max_new_tokens=9, eos_id=eos)
    batch.add([1, 2, 3], max_new_tokens=9, stop=lambda token: seen.append(token) or len(seen) == 3)
    batch.add([1, 2, 3], max_new_tokens=9)
    reasons = {}
    while batch:
        for new in batch.step():
            reasons.setdefault(new.row, []).append(new.finish_reason)
    assert reasons[0] == [None] * (count - 1) + ["stop"]
    assert reasons[1] == [None, None, "stop"]
    assert reasons[2] == [None] * 8 + ["length"]
    assert seen == free[:3]


def test_kept_tokens_and_half_of_the_others(backend, monkeypatch):
    """A context of 8, with 2 kept: (8 - 2) / 2 are dropped, and 3 + 1 read again."""
    model, calls = model_of(backend), passes(monkeypatch)
    found = list(npgpt.generate(model, [1, 2, 3], 16, keep=2))
    window, expected = [1, 2, 3], []
    for _ in range(16):
        logits = model.logits([window])[0, -1]
        if len(window) == 8:
            del window[2:5]
        expected.append(int(logits.argmax()))
        window.append(expected[-1])
    assert found == expected
    assert calls[:16] == [(1, 3)] + [(1, 1)] * 5 + ([(1, 6)] + [(1, 1)] * 2) * 3 + [(1, 6)]
    everything = list(npgpt.generate(model, [1, 2, 3], 16, keep=0))
    assert everything[:6] == found[:6]
    assert everything != found


def test_log_probabilities_are_the_models_own(backend):
    model = model_of(backend)
    batch = Batch(model)
    settings = Sampling(temperature=2.0, top_k=2, logit_bias={5: 9.0}, repetition_penalty=2.0)
    rng = npgpt.Generator(1, ops=backend)
    batch.add([1, 2, 3], settings, rng=rng, max_new_tokens=1, log_probs=3)
    batch.add([1, 2, 3], settings, rng=rng, max_new_tokens=1)
    new, other = batch.step()
    logits = model.logits([[1, 2, 3]])[0, -1]
    expected = logits - np.log(np.exp(logits).sum())
    assert new.log_probability == pytest.approx(expected[new.token], abs=1e-12)
    best = np.argsort(-expected)[:3]
    assert [token for token, _ in new.most_likely] == best.tolist()
    np.testing.assert_allclose([value for _, value in new.most_likely], expected[best])
    assert (other.log_probability, other.most_likely) == (None, [])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (dict(prompt=[]), "the prompt is empty"),
        (dict(prompt=[17]), "token id 17 is outside"),
        (dict(prompt="a"), "not text: encode it"),
        (dict(max_new_tokens=0), "max_new_tokens is 0, but must be at least 1"),
        (dict(sampling=Sampling(1.0)), "draws at random"),
        (dict(sampling={"temperature": 1}), "sampling must be an npgpt.Sampling"),
        (dict(sampling=Sampling(logit_bias={17: 1})), "logit_bias: token id 17 is outside"),
        (dict(keep=7), "keep is 7, but must be at most 6"),
        (dict(keep=-1), "keep is -1"),
        (dict(log_probs=-1), "log_probs is -1"),
        (dict(eos_id="<eos>"), "eos_id is '<eos>', but must be an integer"),
        (dict(eos_id=True), "eos_id is True, but must be an integer"),
    ],
    ids=lambda value: str(value) if isinstance(value, str) else "",
)
def test_what_makes_no_sense_is_refused_when_it_is_added(arguments, says):
    batch = Batch(model_of("numpy"))
    with pytest.raises(InputError, match=says):
        batch.add(**{"prompt": [1], "max_new_tokens": 1} | arguments)
    assert not batch


@pytest.mark.parametrize("owner, name", [(ops.linear, "forward"), (batch_module, "choose")])
@pytest.mark.parametrize("step", [0, 2], ids=["of prompts", "of tokens"])
def test_a_step_that_was_interrupted_changes_no_token(owner, name, step, monkeypatch):
    """Wherever it is: in any block, in the output head, and between two rows' choices."""
    model = model_of("numpy")

    def texts(at):
        batch, found = Batch(model), {}
        for prompt in ([1, 2, 3], [4, 5]):
            found[batch.add(prompt, max_new_tokens=4)] = []
        for count in itertools.count():
            fails = at if count == step else 0
            with (
                pytest.raises(KeyboardInterrupt) if fails else nullcontext(),
                failing(monkeypatch, owner, name, fails, KeyboardInterrupt),
            ):
                for new in batch.step():
                    found[new.row].append(new.token)
            if not batch:
                return list(found.values())

    expected, ends = texts(0), 9 if name == "forward" else 2  # two blocks of four, and the head
    for at in range(1, ends + 1):
        assert texts(at) == expected


@pytest.mark.parametrize("name", ["stop", "most_likely"])
def test_a_token_that_was_drawn_is_not_drawn_again(name, monkeypatch):
    """A failure after a draw: two rows share a generator, which draws in turns."""
    model, options = model_of("numpy"), dict(max_new_tokens=3, log_probs=1)

    def texts(at):
        batch, found = Batch(model), {}
        owner = SimpleNamespace(stop=lambda token: False) if name == "stop" else batch_module
        rng = npgpt.Generator(5)
        with failing(monkeypatch, owner, name, at, KeyboardInterrupt):
            for prompt in ([1, 2, 3], [4, 5]):
                stop = owner.stop if name == "stop" else None
                row = batch.add(prompt, Sampling(1.5), rng=rng, stop=stop, **options)
                found[row] = []
            for _ in range(4):
                with suppress(KeyboardInterrupt):
                    for new in batch.step():
                        found[new.row].append(new.token)
        assert not batch
        return list(found.values())

    expected = texts(0)
    assert [len(text) for text in expected] == [3, 3]
    for at in range(1, 7):
        assert texts(at) == expected, at


def test_the_example_runs():
    failed, tried = doctest.testmod(batch_module)
    assert (failed, tried > 4) == (0, True)


@pytest.mark.parametrize("count", [1, 2, 8, 60, 300])
def test_the_most_likely_tokens_are_sorted_and_of_equal_ones_the_first_come_first(rng, count):
    ties = rng.integers(0, 5, 257).astype(float)
    for log_probs in (rng.normal(size=257), ties, np.where(ties == 4, ties, -np.inf)):
        expected = sorted(range(257), key=lambda token: (-log_probs[token], token))[:count]
        found = batch_module.most_likely(log_probs, count)
        assert found == [(token, log_probs[token]) for token in expected]
