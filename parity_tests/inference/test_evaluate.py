"""npgpt.evaluate: the mean loss over every token of a text but the first."""

import numpy as np
import pytest

import npgpt

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
