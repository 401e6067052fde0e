"""Text -> windows -> batches; the batches are those of PyTorch's DataLoader, draw for draw."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, TensorDataset

import npgpt
from npgpt import ops
from npgpt.data import text
from npgpt.data.dataset import read_tokens
from npgpt.data.loader import Loader, windows
from npgpt.errors import InputError
from npgpt.inference.evaluate import Batches
from npgpt.preset import defaults
from npgpt.training.trainer import Trainer

# Where a text comes from


def test_the_bundled_text_is_about_20_000_characters_of_plain_english():
    bundled = text.read("bundled")
    assert 19_000 < len(bundled) < 21_000
    assert bundled.isascii()
    assert "\r" not in bundled
    assert len(set(bundled.lower().split())) > 1000
    assert "lighthouse" in bundled


def test_a_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("Sèvres, “é”\n\n".encode())
    assert text.read(path) == text.read(str(path)) == "Sèvres, “é”\n\n"


def test_windows_line_ends_and_byte_order_marks_are_no_part_of_the_text(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbfone\r\ntwo\r\n\r\nthree\rfour\n")
    assert text.read(path) == "one\ntwo\n\nthree\nfour\n"


def test_a_folder_joins_its_texts_by_name_with_the_end_of_a_text(tmp_path):
    (tmp_path / "sub").mkdir()
    for name, content in (("b.txt", "B"), ("a.txt", "A"), ("sub/c.txt", "C"), ("d.md", "D")):
        (tmp_path / name).write_text(content)
    assert text.read(tmp_path) == "A<|endoftext|>B<|endoftext|>C"
    byte = npgpt.tokenizer("byte")
    assert byte.encode(text.read(tmp_path)) == [65, 256, 66, 256, 67]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty: choose a file"),
        (b" \r\n\t \n", "is empty"),
        (b"\xef\xbb\xbf", "is empty"),
        ("\u00a0\u3000\n".encode(), "is empty"),
        (b"ab\0c", "is not text: byte 2 is zero"),
        ("text".encode("utf-16"), "is UTF-16, not UTF-8: convert it"),
        (b"caf\xe9 au lait", "is not UTF-8: byte 3 is 0xe9; convert it"),
        (b"caf\xc3", "is not UTF-8: byte 3 is 0xc3"),
    ],
)
def test_a_file_that_is_no_text(tmp_path, content, says):
    path = tmp_path / "a.txt"
    path.write_bytes(content)
    for source in (path, tmp_path):  # alone, and in a folder, where it is named too
        with pytest.raises(InputError, match=says) as caught:
            text.read(source)
        assert str(path) in str(caught.value)


def test_nothing_there(tmp_path):
    with pytest.raises(InputError, match=r"there is no text file .*no\.txt"):
        text.read(tmp_path / "no.txt")
    with pytest.raises(InputError, match=r"the directory .* has no \.txt files"):
        text.read(tmp_path)


def test_the_split_counts_characters_not_bytes():
    assert text.split("é" * 10, 0.9) == ("é" * 9, "é")
    assert text.split("abc", 0.5) == ("a", "bc")
    assert text.split("abc", 1.0) == ("abc", "")


# Windows


@settings(deadline=None)
@given(n=st.integers(0, 60), T=st.integers(1, 12), stride=st.integers(1, 15))
def test_windows_are_the_books(n, T, stride):
    """`for i in range(0, len(ids) - T, stride)`: ids[i:i+T] and ids[i+1:i+T+1]."""
    ids = np.arange(n) * 7
    starts = range(0, n - T, stride)
    if not len(starts):
        with pytest.raises(InputError, match=f"the test split has {n} tokens.* needs {T + 1}"):
            windows(ids, T, stride, what="test")
        return
    inputs, targets = windows(ids, T, stride, what="test")
    assert inputs.tolist() == [ids[i : i + T].tolist() for i in starts]
    assert targets.tolist() == [ids[i + 1 : i + T + 1].tolist() for i in starts]
    assert np.shares_memory(inputs, ids)


def test_a_split_that_is_too_short_says_what_to_do():
    with pytest.raises(InputError) as caught:
        windows(np.arange(256), 256, 1, what="validation")
    assert str(caught.value) == (
        "the validation split has 256 tokens, but one window of context length 256 needs 257: use "
        "more text, a smaller --context-length or, for data without a validation split of its own, "
        "another --train-fraction"
    )


# Batches


def both(n, *, batch_size, shuffle, drop_last, seed=5):
    """npgpt's loader and PyTorch's over the same windows, each at the start of one stream."""
    inputs, targets = windows(np.arange(2 * n + 4), 4, 2, what="test")
    assert len(inputs) == n
    how = dict(batch_size=batch_size, shuffle=shuffle, drop_last=drop_last)
    pairs = TensorDataset(torch.tensor(inputs), torch.tensor(targets))
    torch.manual_seed(seed)
    return Loader(inputs, targets, **how), DataLoader(pairs, **how), npgpt.Generator(seed, ops=ops)


def listed(batches):
    return [(np.asarray(x).tolist(), np.asarray(y).tolist()) for x, y in batches]


@pytest.mark.parametrize("n", [1, 2, 7, 12])
@pytest.mark.parametrize("batch_size", [1, 2, 5])
@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("drop_last", [True, False])
def test_batches_are_pytorchs_draw_for_draw(n, batch_size, shuffle, drop_last):
    """Three passes: the order of each, and the generator's bytes after each."""
    ours, theirs, rng = both(n, batch_size=batch_size, shuffle=shuffle, drop_last=drop_last)
    assert len(ours) == len(theirs)
    for _ in range(3):
        found = listed(ours.batches(ours.order(rng)))
        assert found == listed(theirs)
        assert len(found) == len(ours)
        np.testing.assert_array_equal(rng.state, torch.get_rng_state().numpy())


def test_a_pass_that_is_left_early_draws_as_much_as_pytorchs():
    """Leave a pass after its first batch, as an evaluation of a few batches does."""
    ours, theirs, rng = both(12, batch_size=2, shuffle=True, drop_last=True)
    first = next(ours.batches(ours.order(rng)))
    expected = next(iter(theirs))
    assert listed([first]) == listed([expected])
    np.testing.assert_array_equal(rng.state, torch.get_rng_state().numpy())


@pytest.mark.parametrize("start", range(4))
def test_a_pass_resumes_at_any_batch(start):
    loader, _, rng = both(7, batch_size=2, shuffle=True, drop_last=False)
    order = loader.order(rng)
    assert listed(loader.batches(order, start=start)) == listed(loader.batches(order))[start:]
    assert sorted(order.tolist()) == list(range(7))


# A text to evaluate


@settings(deadline=None)
@given(n=st.integers(2, 50), T=st.integers(1, 9), size=st.integers(1, 4))
def test_an_evaluation_predicts_every_token_but_the_first_once(n, T, size):
    tokens = np.arange(n)
    pairs = Batches(tokens, T, size)
    for x, y in pairs:
        assert x.shape == y.shape
        assert x.shape[0] <= size
        assert x.shape[1] <= T
        np.testing.assert_array_equal(x + 1, y)
    assert np.concatenate([y.ravel() for _, y in pairs]).tolist() == list(range(1, n))


# The book's text


def test_the_verdict(data, bpe):
    """20,479 characters, 5,145 tokens, 9 batches to train on and 1 to validate."""
    path = data / "the-verdict.txt"
    verdict = text.read(path)
    assert len(verdict) == 20_479
    assert len(bpe.encode(verdict)) == 5_145
    book = defaults("book")
    settings = type(book)(**vars(book) | {"data": str(path)})
    tokens = read_tokens(settings)
    small = npgpt.Config(context_length=256, n_layer=1, n_head=1, n_embd=1)  # the loaders' sizes
    model = npgpt.GPT(small, ops=ops)  # do not depend on the width
    run = Trainer(model, tokens.train, tokens.val, book.training, npgpt.Generator(123), prompt=[1])
    train_data, val_data = (evaluation.data for evaluation in run.evaluations)
    assert (len(run.steps_data), len(train_data), len(val_data)) == (9, 9, 1)
    assert run.tokens_per_epoch == 4_608
    ((x, y),) = val_data.batches(np.arange(2))
    assert x.size == y.size == 512
    assert run.total_steps == 90
