"""Chapter 6's data: the rows that pandas draws, and the batches that PyTorch draws."""

import io
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import npgpt
from npgpt import ops
from npgpt.errors import InputError
from npgpt.finetuning import labelled_texts
from npgpt.finetuning.batches import Batches
from npgpt.finetuning.labelled_texts import Example, LabelledTexts, balance, split

COLLECTION = "SMSSpamCollection"


def table(hams=83, spams=19):
    rows = [f"ham\tmessage {i}, see you at {i % 7}" for i in range(hams)]
    for i in range(spams):
        rows.insert(5 * i, f"spam\tWIN {i} NOW")
    return "\n".join(rows)


def book_frames(source):
    """The three frames of section 6.2, by pandas."""
    pandas = pytest.importorskip("pandas")
    df = pandas.read_csv(source, sep="\t", header=None, names=["Label", "Text"])
    num_spam = df[df["Label"] == "spam"].shape[0]
    ham = df[df["Label"] == "ham"].sample(num_spam, random_state=123)
    balanced = pandas.concat([ham, df[df["Label"] == "spam"]])
    balanced["Label"] = balanced["Label"].map({"ham": 0, "spam": 1})
    df = balanced.sample(frac=1, random_state=123).reset_index(drop=True)
    train_end = int(len(df) * 0.7)
    val_end = train_end + int(len(df) * 0.1)
    return len(df), [df[:train_end], df[train_end:val_end], df[val_end:]]


def require_equal(path, source):
    count, frames = book_frames(source)
    balanced = balance(labelled_texts.read(path))
    assert len(balanced.examples) == count
    for frame, part in zip(frames, split(balanced.examples), strict=True):
        expected = list(zip(frame["Text"], frame["Label"].tolist(), strict=True))
        assert part == expected and len(part) > 1
    return balanced


def test_balance_and_splits_are_those_of_pandas(tmp_path):
    path = tmp_path / "spam.tsv"
    path.write_text(table())
    balanced = require_equal(path, io.StringIO(table()))
    assert balanced.labels == ("ham", "spam") and balanced.counts() == [19, 19]


def test_columns_in_the_wrong_order_are_an_error(tmp_path):
    path = tmp_path / "texts.csv"
    path.write_text("".join(f"message {i},{'ham' if i % 3 else 'spam'}\n" for i in range(20)))
    with pytest.raises(InputError, match="every text has a label of its own: the label comes"):
        labelled_texts.read(path)


def test_the_spam_collection(data):
    path = Path(data) / COLLECTION
    if not path.exists():
        pytest.skip(f"the folder of data has no {COLLECTION}")
    texts = labelled_texts.read(path)
    assert texts.labels == ("ham", "spam") and texts.counts() == [4825, 747]
    require_equal(path, path)
    splits = split(balance(texts).examples)
    assert [len(part) for part in splits] == [1045, 149, 300]
    bpe = npgpt.tokenizer("gpt2")
    train, *_ = labelled_texts.encode_splits(splits, bpe, pad_id=50256, max_length=1024)
    assert train.tokens.shape == (1045, 120)


def test_the_rarest_of_several_labels_keeps_its_order():
    examples = [Example(f"{label} {i}", label) for i in range(9) for label in (0, 1, 1, 2)]
    examples += [Example("0 last", 0)]
    found = balance(LabelledTexts(("a", "b", "c"), examples))
    assert found.counts() == [9, 9, 9]
    assert [one.text for one in found.examples if one.label == 2] == [f"2 {i}" for i in range(9)]
    assert len(set(found.examples[:9])) == 9


@pytest.mark.parametrize("lengths, longest", [([3, 5, 1], 5), ([3, 9, 1], 6)])
def test_texts_are_padded_to_the_longest_for_training(lengths, longest):
    byte = npgpt.tokenizer("byte")
    splits = labelled_texts.Splits(
        [Example("x" * n, i) for i, n in enumerate(lengths)],
        [Example("y" * 8, 0)],
        [Example("zz", 1)],
    )
    train, val, test = labelled_texts.encode_splits(
        splits, byte, pad_id=byte.eot_token, max_length=6
    )
    assert train.lengths.tolist() == [min(n, longest) for n in lengths]
    assert train.labels.tolist() == [0, 1, 2]
    assert [part.cropped for part in (train, val, test)] == [int(max(lengths) > longest), 1, 0]
    for part, length in ((train, longest), (val, longest), (test, longest)):
        assert part.tokens.shape[1] == length and part.tokens.dtype == np.int64
    assert val.tokens.tolist() == [[ord("y")] * longest]
    assert test.tokens[0].tolist() == [ord("z")] * 2 + [256] * (longest - 2)


@pytest.mark.parametrize(
    "content, says",
    [
        ("a\tx\na\ty\n", "has one label, 'a', but there must be two or more"),
        ("\n".join(f"{i}\tx" for i in range(1001)), "has 1,001 labels, at most 1,000 are"),
    ],
)
def test_labels_that_are_no_classes(tmp_path, content, says):
    path = tmp_path / "x.tsv"
    path.write_text(content)
    with pytest.raises(InputError, match=says):
        labelled_texts.read(path)


def test_too_few_texts_for_three_splits():
    with pytest.raises(InputError, match="9 texts cannot be split into three parts"):
        split([Example("x", 0)] * 9)
    assert [len(part) for part in split([Example("x", 0)] * 10)] == [7, 1, 2]


def test_batches_are_those_of_a_DataLoader():
    """Three passes, the second one broken off: each draws from the stream as PyTorch's does."""
    numbers = torch.arange(29)
    torch.manual_seed(123)
    theirs = [
        DataLoader(TensorDataset(numbers), 4, shuffle=True, drop_last=True),
        DataLoader(TensorDataset(numbers[:9]), 4),
    ]
    ours = [
        Batches(29, lambda chosen: (chosen,), 4, training=True),
        Batches(9, lambda chosen: (chosen,), 4, training=False),
    ]
    assert [len(one) for one in ours] == [len(one) for one in theirs] == [7, 3]
    rng = npgpt.Generator(123, ops=ops)
    for limit in (None, 2, None):
        for mine, loader in zip(ours, theirs, strict=True):
            expected = [batch.tolist() for (batch,) in islice(loader, limit)]
            assert [batch.tolist() for (batch,) in mine.draw(rng, limit)] == expected
    assert (rng.state == torch.get_rng_state().numpy()).all()


def test_a_training_split_of_less_than_one_batch():
    with pytest.raises(InputError, match="3 training examples are fewer than one batch of 8"):
        Batches(3, lambda chosen: (chosen,), 8, training=True)
