"""Scores of continuations in batches, after shared contexts, on many ranks: those of each alone."""

import numpy as np
import pytest

import npgpt
import npgpt.ops
from npgpt.distributed import evaluation
from npgpt.errors import InputError, RunError
from npgpt.inference import scoring
from npgpt.inference.scoring import Request, make_batches, score
from parity_tests.support import thread_ranks

T, V = 48, 97
CONFIG = npgpt.Config(vocab_size=V, context_length=T, n_layer=2, n_head=2, n_embd=16)


@pytest.fixture
def model(backend):
    return npgpt.GPT(CONFIG, seed=3, scheme="book", ops=backend)


def ids(rng, count):
    return rng.integers(V, size=count).tolist()


@pytest.fixture
def requests(rng):
    """Questions with three or four answers, texts alone, some too long for the context."""
    found = []
    for context, answers in ((27, 4), (24, 4), (25, 4), (40, 3), (38, 3), (2, 3), (17, 1)):
        shared = ids(rng, context)
        found += [Request(shared, ids(rng, 1 + rng.integers(9))) for _ in range(answers)]
    shared = ids(rng, 46)  # with some answers it fits, with others its beginning is cropped
    found += [Request(shared, ids(rng, n)) for n in (1, 2, 3, 4, 6)]
    found += [Request(ids(rng, n), ids(rng, m)) for n, m in ((1, 48), (60, 5), (48, 1), (1, 1))]
    return [found[i] for i in rng.permutation(len(found))]


def alone(model, request):
    tokens = np.array([*request.context, *request.continuation])[-T - 1 :]
    n = len(request.continuation)
    logits = model.logits(tokens[None, :-1])[0, -n:].astype(np.float64)
    log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    targets = tokens[-n:]
    return log_probs[np.arange(n), targets].sum(), (logits.argmax(-1) == targets).all()


@pytest.mark.parametrize("tokens", [1, 100, 4096])
def test_batches_and_forks_change_nothing(model, requests, tokens):
    likely = model.logits(np.array([requests[0].context[:T]]))[0, -1].argmax()
    requests.append(Request(requests[0].context[:T], [int(likely)]))  # one that is greedy
    found = score(model, requests, tokens=tokens)
    expected = np.array([alone(model, request) for request in requests], np.float64)
    np.testing.assert_allclose(found[:, 0], expected[:, 0], rtol=1e-5)
    np.testing.assert_array_equal(found[:, 1], expected[:, 1])
    assert found[-1, 1] == 1 and not found[:, 1].all()


def test_a_batch_is_of_one_kind_and_no_larger_than_told(requests):
    batches = make_batches(requests, T, 200)
    assert sorted(row.number for one in batches for row in one.rows) == [*range(len(requests))]
    assert {batch.copies for batch in batches} == {1, 3, 4}
    for batch in batches:
        assert len(batch.rows) * scoring.length(batch.rows) <= 200
        assert (batch.shared > 0) == (batch.copies > 1)


@pytest.mark.parametrize("size", [2, 5])
def test_every_number_of_ranks_gives_the_same_scores(size, requests, monkeypatch):
    monkeypatch.setattr(evaluation, "once_per_machine", lambda world, work: work())
    model = npgpt.GPT(CONFIG, seed=3, ops=npgpt.ops)
    seen = []

    def program(here):
        def track(share):
            seen.append((here.rank, len(share)))
            return share

        return evaluation.score(here, model, requests, 100, track)

    found = thread_ranks.run(size, program)
    for one in found:
        np.testing.assert_array_equal(one, score(model, requests, tokens=100))
    assert sum(count for _, count in seen) == len(make_batches(requests, T, 100))

    def with_others(here):
        some = requests[: len(requests) - here.rank]
        with pytest.raises(InputError, match="the requests must be equal on all"):
            evaluation.score(here, model, some, 100)

    thread_ranks.run(size, with_others)


def test_what_cannot_be_scored(model, requests):
    with pytest.raises(InputError, match="continuation of 49 tokens is longer than the context"):
        score(model, [Request([1], [2] * 49)])
    model.params.ln_f.weight[3] = np.nan
    with pytest.raises(RunError, match=r"a log-probability is nan: ln_f.weight holds nan"):
        score(model, requests)
    assert score(model, []).shape == (0, 2)
    assert scoring.make_batches([], T, 100) == []
