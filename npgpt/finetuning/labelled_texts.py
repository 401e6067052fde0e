"""Texts with labels, prepared as in chapter 6 of the book: balanced, shuffled, split and padded."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from npgpt.arrays import Array
from npgpt.data.tokenizer import Tokenizer
from npgpt.errors import InputError, show
from npgpt.finetuning.records import read_records
from npgpt.system.terminal import number_of
from npgpt.weights.classifier_file import MAX_LABELS

SEED = 123
TRAIN, VALIDATION = 0.7, 0.1  # of all texts; the rest is for the test
MIN_TEXTS = 10  # fewer have no validation split


class Example(NamedTuple):
    """One text, and the number of its label."""

    text: str
    label: int


class LabelledTexts(NamedTuple):
    """Examples, and the names of their labels, sorted: a label's number is its place here."""

    labels: tuple[str, ...]
    examples: list[Example]

    def counts(self) -> list[int]:
        """Return the number of examples of each label."""
        return np.bincount(
            [one.label for one in self.examples], minlength=len(self.labels)
        ).tolist()


class Splits(NamedTuple):
    """Three disjoint parts of the examples."""

    train: list[Example]
    val: list[Example]
    test: list[Example]


class Encoded(NamedTuple):
    """A split as token ids, padded on the right to one length."""

    tokens: Array  # (n, T) int64
    lengths: Array  # (n,) int64, without the padding
    labels: Array  # (n,) int64
    cropped: int  # texts that are longer than T


def read(path: str | Path) -> LabelledTexts:
    """Return the examples of a file whose records have a label and a text.

    Raises InputError if the file is invalid, or has fewer than two labels.
    """
    records = read_records(path, ("label", "text"))
    names = tuple(sorted({record["label"] for record in records}))
    if len(names) > MAX_LABELS:
        raise InputError(
            f"{path} has {len(names):,} labels, at most {MAX_LABELS:,} are supported: "
            "the label comes first, then the text"
        )
    if len(names) == len(records) > 2:
        raise InputError(
            f"in {path}, every text has a label of its own: the label comes first, then the text"
        )
    if len(names) < 2:
        raise InputError(f"{path} has one label, {show(names[0])}, but there must be two or more")
    numbers = {name: number for number, name in enumerate(names)}
    return LabelledTexts(names, [Example(r["text"], numbers[r["label"]]) for r in records])


def sample(count: int, size: int, seed: int = SEED) -> list[int]:
    """Return `size` of the numbers 0 to count - 1, as DataFrame.sample(random_state=seed) does.

    pandas draws RandomState(seed).choice(count, size, replace=False).
    """
    return np.random.RandomState(seed).choice(count, size, replace=False).tolist()


def balance(texts: LabelledTexts, seed: int = SEED) -> LabelledTexts:
    """Return as many examples of each label as the rarest has, label by label.

    The rarest keeps the order of the file, those of the others are drawn.
    """
    counts = texts.counts()
    size, rarest, chosen = min(counts), counts.index(min(counts)), []
    for label in range(len(texts.labels)):
        own = [one for one in texts.examples if one.label == label]
        order = range(size) if label == rarest else sample(len(own), size, seed)
        chosen += [own[i] for i in order]
    return LabelledTexts(texts.labels, chosen)


def split(examples: Sequence[Example], seed: int = SEED) -> Splits:
    """Return the shuffled examples in three parts: 70 % for training, 10 % for validation.

    Raises InputError if there are too few.
    """
    count = len(examples)
    if count < MIN_TEXTS:
        raise InputError(
            f"{number_of(count, 'text')} cannot be split into three parts: give at least "
            f"{MIN_TEXTS}, or --no-balance to keep all texts of the frequent labels"
        )
    shuffled = [examples[i] for i in sample(count, count, seed)]
    train = int(count * TRAIN)
    val = train + int(count * VALIDATION)
    return Splits(shuffled[:train], shuffled[train:val], shuffled[val:])


def encode(examples: Sequence[Example], tokenizer: Tokenizer) -> list[list[int]]:
    """Return the token ids of each text."""
    return [tokenizer.encode(one.text) for one in examples]


def pad(rows: Sequence[Sequence[int]], length: int, pad_id: int) -> tuple[Array, Array]:
    """Return rows cropped and padded on the right: (n, length), and their own lengths (n,)."""
    tokens = np.full((len(rows), length), pad_id, np.int64)
    lengths = np.array([min(len(row), length) for row in rows], np.int64)
    for i, row in enumerate(rows):
        tokens[i, : lengths[i]] = row[: lengths[i]]
    return tokens, lengths


def encode_splits(
    splits: Splits, tokenizer: Tokenizer, *, pad_id: int, max_length: int
) -> tuple[Encoded, Encoded, Encoded]:
    """Return the splits as arrays of the length T of the longest training text.

    T is at most `max_length`. Longer texts are cropped.
    """
    encoded = [encode(part, tokenizer) for part in splits]
    length = min(max_length, max(map(len, encoded[0])))
    train, val, test = (
        Encoded(
            *pad(rows, length, pad_id), np.array([one.label for one in part], np.int64),
            sum(len(row) > length for row in rows),
        )
        for rows, part in zip(encoded, splits, strict=True)
    )  # fmt: skip
    return train, val, test
