"""npgpt.evaluate: the mean loss over every token of a text but the first."""

import numpy as np
import pytest

import npgpt
from npgpt.data.mapped_tokens import MappedTokens, Shard
from npgpt.inference.evaluate import Batches

CONFIG = npgpt.Config(vocab_size=257, context_length=12, n_layer=2, n_head=2, n_embd=8)
TEXT = "The lamp is lit at dusk, and the keeper writes the hour in the book."


@pytest.fixture
def model(backend):
    return npgpt.GPT(CONFIG, seed=3, tokenizer="byte", scheme="book", ops=backend)


@pytest.mark.parametrize(("length", "stride"), [(None, None), (12, 12), (7, 3), (5, None)])
def test_it_is_the_mean_over_all_tokens_but_the_first(model, length, stride):
    """Compared with one window at a time, scored in float64."""
    tokens = np.frombuffer(TEXT.encode(), np.uint8).astype(np.int64)
    width = length or CONFIG.context_length
    losses, end = [], 0
    for start in range(0, len(tokens) - 1, stride or width):
        window = tokens[start : start + width + 1]
        logits = model.logits(window[None, :-1])[0].astype(np.float64)
        log_sum = np.log(np.exp(logits).sum(-1))
        each = log_sum - logits[np.arange(len(logits)), window[1:]]
        new = start + len(each) - end
        losses.extend(each[len(each) - max(new, 0) :])
        end = start + len(each)
        if end == len(tokens) - 1:
            break
    assert len(losses) == len(tokens) - 1
    for text in (TEXT, tokens, tokens.tolist()):
        for size in (1, 3):
            loss = npgpt.evaluate(
                model, text, context_length=length, stride=stride, batch_size=size
            )
            assert type(loss) is float
            # float32 losses of about 5.5; each is right to a few of its last digits
            assert loss == pytest.approx(np.mean(losses), rel=1e-6)


def test_track_sees_every_batch(model):
    seen = []
    npgpt.evaluate(model, TEXT, track=lambda batches: seen.extend(batches) or batches)
    assert sum(targets.size for _, targets in seen) == len(TEXT) - 1


@pytest.mark.parametrize(
    ("text", "options", "says"),
    [
        ("T", {}, "the text must have at least 2 tokens to predict one, got 1"),
        ("", {}, "the text must have at least 2 tokens to predict one, got 0"),
        (np.zeros((2, 3), int), {}, "tokens must be integers of shape (N,), not array([[0"),
        (TEXT, {"stride": 13}, "stride is 13, but must be at most the context length 12"),
        (TEXT, {"stride": 0}, "stride is 0, but must be at least 1"),
        (TEXT, {"context_length": 13}, "context_length is 13, but must be at most the model's 12"),
        (TEXT, {"batch_size": 0}, "batch_size is 0, but must be at least 1"),
        ([1, 300], {}, "300"),
    ],
)
def test_invalid_arguments(model, text, options, says):
    with pytest.raises(npgpt.InputError) as caught:
        npgpt.evaluate(model, text, **options)
    assert says in str(caught.value)


@pytest.mark.parametrize(("length", "stride"), [(12, 12), (5, 5), (12, 4)])
@pytest.mark.parametrize("count", [1, 2, 7, 60, 150, 10**6])
def test_windows_that_are_spread(length, stride, count):
    tokens = np.arange(200)
    found = Batches(tokens, length, 3, stride, count * stride)
    pairs = list(found)
    assert len(found) == len(pairs) and found.predicted == sum(y.size for _, y in pairs)
    targets = np.concatenate([y.ravel() for _, y in pairs])
    assert len(set(targets)) == len(targets)  # none is predicted twice
    windows = -(-(199 - length) // stride) + 1
    assert sum(len(x) for x, _ in pairs) == min(count, windows)
    if count >= windows:
        assert targets.tolist() == list(range(1, 200))
    elif count > 1:
        assert targets.min() <= 200 / count and targets.max() >= 199 - 200 / count
    for x, y in pairs:
        assert np.array_equal(x[:, -y.shape[1] :] + 1, y)


@pytest.mark.parametrize("stride", [12, 5])
def test_tokens_in_files_are_read_in_batches(model, stride):
    tokens = np.frombuffer(TEXT.encode(), np.uint8)
    mapped = MappedTokens([Shard("a", tokens[:30]), Shard("b", tokens[30:])], 257)
    expected = npgpt.evaluate(model, tokens, stride=stride)
    assert npgpt.evaluate(model, mapped, stride=stride) == expected
    assert npgpt.evaluate(model, mapped, stride=stride, eval_tokens=10**9) == expected
    with pytest.raises(npgpt.InputError, match="eval_tokens is 0, but must be at least 1"):
        npgpt.evaluate(model, mapped, eval_tokens=0)
    with pytest.raises(npgpt.InputError, match="a has token id 115, outside the vocabulary of 100"):
        npgpt.evaluate(model, MappedTokens(mapped.shards, 100))
