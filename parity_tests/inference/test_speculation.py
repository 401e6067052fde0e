"""Speculation: several tokens are read in one pass, and neither text nor bits change."""

from contextlib import nullcontext

import numpy as np
import pytest

import npgpt
from npgpt import Sampling, Speculation, ops
from npgpt.errors import InputError, RunError
from npgpt.inference.batch import Batch
from npgpt.inference.drafts import DraftModel, PromptLookup
from npgpt.inference.speculation import Pace
from npgpt.inference.window import FEW, Reader, Window, advance
from npgpt.model import quantize
from parity_tests.inference import test_batch
from parity_tests.inference.test_batch import failing
from parity_tests.inference.test_generate import model_of

KINDS = "numpy", "fused", "mixed", "bfloat16", "int8"
SHAPE = dict(context_length=300, n_head=3, n_embd=48)  # widths that no cache line divides


def model_as(kind, dtype=np.float32, **changes):
    """Return a model of a backend, or a quantized one."""
    if kind in ("numpy", "fused", "mixed"):
        return model_of(kind, dtype, **SHAPE | changes)
    model = model_as("fused", **changes)
    return npgpt.GPT.from_params(model.config, quantize.quantize(model.params, kind))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("start", [1, 250], ids="after {}".format)
def test_logits_of_several_positions_are_those_of_one_after_the_other(kind, start, rng):
    """250 and more: the cache grows on the way."""
    reader = Reader(model_as(kind))
    tokens = rng.integers(17, size=start + FEW).tolist()
    window = Window(tokens[:start], reader.empty_cache())
    next(reader.logits([window]))
    window.append(tokens[start])
    other = window.fork()
    expected = [next(reader.logits([window]))]
    for token in tokens[start + 1 :]:
        window.append(token)
        expected.append(next(reader.logits([window])))
    found = reader.logits_ahead(other, tokens[start + 1 :])
    np.testing.assert_array_equal(found, expected)
    assert other.unread == 0
    for token in tokens[start + 1 :]:
        other.append(token)
        advance(other)
    for one, two in zip(window.caches, other.caches, strict=True):
        S = len(tokens)
        np.testing.assert_array_equal(one.k[:, :, :S], two.k[:, :, :S])
        np.testing.assert_array_equal(one.v[:, :, :S], two.v[:, :, :S])


def like(model, noise=0.01):
    """Return a model that mostly chooses the same tokens."""
    twin = model_of("numpy", **{k: v for k, v in vars(model.config).items() if k in SHAPE})
    rng = np.random.default_rng(1)
    for _, array in npgpt.named(twin.params):
        array *= 1 + noise * rng.normal(size=array.shape)
    return twin


def settings_of(rng):
    """Return random settings of `Batch.add`, and whether a draft model proposes."""
    sampling = Sampling(
        temperature=rng.choice([0.0, 0.5, 1.0]),
        top_k=rng.choice([None, 5]),
        top_p=rng.choice([None, 0.8]),
        min_p=rng.choice([None, 0.1]),
        repetition_penalty=rng.choice([1.0, 1.2]),
        logit_bias=rng.choice([None, {3: 2.0}]),
    )
    return dict(
        prompt=rng.integers(17, size=rng.integers(1, 40)),
        sampling=sampling,
        max_new_tokens=int(rng.integers(1, 40)),
        keep=rng.choice([None, 0, 5]),
        eos_id=rng.choice([None, 7]),
        log_probs=rng.choice([None, 2]),
        rng_seed=int(rng.integers(100)),
        stops_at=rng.choice([None, 11]),
    )


def continued(model, *, rng_seed, stops_at, speculate=None, **settings):
    """Return what a row gets, and what its generator draws afterwards."""
    generator = npgpt.Generator(rng_seed, ops=model.ops)
    batch, found = Batch(model, speculate=speculate), []
    batch.add(**settings, rng=generator, stop=lambda token: token == stops_at)
    while batch:
        found += batch.step()
        found.append(generator.random64())  # tokens are drawn when they are due, not before
    return found


@pytest.fixture
def any_count(monkeypatch):
    """Drafts of any length, at any time."""
    rng = np.random.default_rng(5)
    counts = 0, 1, 2, 3, 7, 15, 31
    monkeypatch.setattr(Pace, "count", lambda pace: int(rng.choice(counts)) if pace.passes else 0)


@pytest.mark.parametrize("kind", KINDS)
def test_no_setting_lets_a_draft_change_the_text(kind, any_count):
    model = model_as(kind, context_length=40)
    rng = np.random.default_rng(3)
    sources = Speculation(), Speculation(like(model)), Speculation(model_of("numpy"))
    for number in range(24):
        settings = settings_of(rng)
        expected = continued(model, **settings)
        found = continued(model, **settings, speculate=sources[number % 3])
        assert found == expected, (number, settings)
    for speculation in sources[:2]:
        assert 0 < speculation.accepted < speculation.proposed
    assert sources[1].accepted > sources[1].proposed / 3


@pytest.mark.parametrize("kind", ["numpy", "fused"])
def test_rows_that_join_and_leave_are_their_own_runs(kind, any_count):
    model = model_of(kind, np.float32, **test_batch.SHAPE)
    speculation = Speculation(like(model))
    for rows in ([0, 6], [1, 7], [4], range(8)):
        rows = [(number, test_batch.ROWS[number]) for number in rows]
        assert test_batch.run(model, rows, speculation) == test_batch.run(model, rows)
    assert 0 < speculation.accepted < speculation.proposed


def test_generate_speculates(any_count):
    model = model_of("numpy", context_length=40)
    for draft in (None, model):
        speculation = Speculation(draft)
        found = list(npgpt.generate(model, [1, 2, 1, 2, 1], 20, speculate=speculation))
        assert found == list(npgpt.generate(model, [1, 2, 1, 2, 1], 20))
        assert speculation.proposed


def test_a_step_that_was_interrupted_changes_no_token(monkeypatch):
    """In a block of the draft model or of the model, or in an output head."""
    monkeypatch.setattr(Pace, "count", lambda pace: 3 if pace.passes else 0)
    model = model_of("numpy", context_length=40)

    def text(at):
        batch, found = Batch(model, speculate=Speculation(model)), []
        batch.add([1, 2, 3], max_new_tokens=12)
        for _ in range(2):
            found += batch.step()
        with (
            pytest.raises(KeyboardInterrupt) if at else nullcontext(),
            failing(monkeypatch, ops.linear, "forward", at, KeyboardInterrupt),
        ):
            found += batch.step()
        while batch:
            found += batch.step()
        return [new.token for new in found]

    expected = text(0)
    for at in range(1, 37):  # three passes of the draft model, and one that verifies
        assert text(at) == expected


@pytest.mark.parametrize("at", [2, 11], ids=["of its prompt", "of its second token"])
def test_a_draft_that_fails_leaves_no_half_read_cache(at, monkeypatch):
    model = model_of("numpy", context_length=40)
    draft, batch = DraftModel(model), Batch(model)
    batch.add([1, 2, 3], max_new_tokens=9)
    (row,) = batch._rows.values()
    with failing(monkeypatch, ops.linear, "forward", at, RunError("no threads")):
        assert draft.propose([1, 2, 3], 3, row.chooser) == []
    text = [1, 2, 3, *npgpt.generate(model, [1, 2, 3], 2)]
    for layer in draft.window.caches:
        layer.k[:, :, layer.length :] = layer.v[:, :, layer.length :] = np.nan  # never read
    expected = DraftModel(model).propose(text, 3, row.chooser)
    assert draft.propose(text, 3, row.chooser) == expected


def test_the_model_as_its_own_draft_is_accepted_greedy_and_sampled(any_count):
    """A draft is drawn by the same random numbers as the text."""
    model = model_of("numpy", context_length=40)
    for temperature in (0.0, 1.0):
        speculation, rng = Speculation(model), npgpt.Generator(1)
        ids = npgpt.generate(model, [1, 2, 3], 37, temperature, rng=rng, speculate=speculation)
        assert len(list(ids)) == 37
        assert 20 < speculation.proposed == speculation.accepted


def test_what_followed_before_is_proposed():
    lookup, text = PromptLookup(), [1, 2, 3, 4, 5, 1, 2]
    assert lookup.propose([1, 2, 3, 4, 5], 3, None) == []
    assert lookup.propose(text, 3, None) == [3, 4, 5]
    assert lookup.propose(text, 7, None) == [3, 4, 5, 1, 2, 3, 4], "the draft repeats itself"
    assert lookup.propose([*text, 3], 2, None) == [4, 5]
    assert lookup.propose([*text, 3, 9], 2, None) == []
    assert lookup.propose([*text, 3, 9, 3, 4], 2, None) == [5, 1]
    # the last time counts; of the last four tokens before that of the last two
    assert lookup.propose([7, 1, 2, 5, 1, 2, 6, 1, 2], 1, None) == [6]
    assert lookup.propose([3, 4, 1, 2, 5, 1, 2, 6, 3, 4, 1, 2], 1, None) == [5]


def test_a_draft_model_reads_a_token_once(monkeypatch):
    model = model_of("numpy", context_length=40)
    draft, text = DraftModel(model), [1, 2, 3]
    read, hidden = [], draft.reader._hidden
    monkeypatch.setattr(draft.reader, "_hidden", lambda *a: read.append(a[0].size) or hidden(*a))
    follow = test_batch.Batch(model)
    follow.add(text, max_new_tokens=9)
    (row,) = follow._rows.values()
    first = draft.propose(text, 3, row.chooser)
    assert (len(first), read) == (3, [3, 1, 1])
    read.clear()
    other = [first[0], (first[1] + 1) % 17, 5]
    assert draft.propose([*text, *other], 2, row.chooser) == list(
        npgpt.generate(model, [*text, *other], 2)
    )
    assert read == [1, 1, 1], "the second token is another, and the third gives the logits"
    assert draft.propose([*text, *other], 40, row.chooser) == [], "more than the context"
    model.params.ln_f.weight[0] = np.nan
    assert draft.propose([*text, *other, 1], 2, row.chooser) == []


@pytest.mark.parametrize("more", [0.02, 0.1, 0.3, 1.0], ids="{} of a pass per token".format)
def test_the_pace_follows_time_and_acceptance(more, rng):
    """Passes of 1 second and `more` per draft token, and some that take much longer."""

    def tokens_per_second(hit_rate, pace, count=1500):
        seconds, tokens = 0.0, 0
        while tokens < count:
            stall = 10.0 if rng.random() < 0.02 else 0.0
            draft = pace.count()
            hits = 0
            for _ in range(max(draft, 1)):
                hit = rng.random() < hit_rate
                pace.note_token(hit)
                if not hit or hits == draft:
                    break
                hits += 1
            pace.note_pass(draft, 1 + more * draft + stall)
            seconds += 1 + more * draft
            tokens += 1 + hits
        return tokens / seconds

    for hit_rate in (0.0, 0.1, 0.3, 0.5):
        assert tokens_per_second(hit_rate, Pace(0.2, 0.0)) > 0.95, hit_rate
    for hit_rate in (0.9, 1.0):
        best = max(
            sum(hit_rate**i for i in range(count + 1)) / (1 + more * count) for count in Pace.COUNTS
        )
        assert tokens_per_second(hit_rate, Pace(0.2, 0.0)) > 0.85 * best, hit_rate


def test_a_draft_model_is_tried_again(rng):
    pace = Pace(DraftModel.hit_rate, DraftModel.drift)
    tried = []
    for step in range(2000):
        if draft := pace.count():
            tried.append(step)
            pace.note_token(False)
        else:
            pace.note_no_draft()
        pace.note_pass(draft, 1 + 0.3 * draft)
    assert len(tried) < 100
    assert tried[-1] > 1000


def test_what_cannot_speculate_is_refused():
    model = model_of("numpy")
    with pytest.raises(InputError, match=r"draft must be an npgpt\.GPT"):
        Speculation("gpt2-small")
    with pytest.raises(InputError, match=r"speculate must be an npgpt\.Speculation"):
        Batch(model, speculate=True)
    other = model_of("numpy", vocab_size=18)
    with pytest.raises(InputError, match="has 18 tokens, but must have the 17 of the model"):
        next(npgpt.generate(model, [1], 1, speculate=Speculation(other)))
