"""Instructions and answers, prepared as in chapter 7 of the book: Alpaca's prompt, and batches.

The prompt is of Taori et al. 2023, "Stanford Alpaca: An Instruction-following LLaMA model".
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from npgpt.arrays import Array
from npgpt.data.tokenizer import Tokenizer
from npgpt.errors import InputError
from npgpt.finetuning.records import Record, read_records
from npgpt.ops.linear_cross_entropy import IGNORED

FIELDS = "instruction", "input", "output"
TRAIN, TEST = 0.85, 0.1  # of all entries; the rest is for validation
ANSWER = "### Response:"


class Splits(NamedTuple):
    """Three parts of the entries of a file, in its order."""

    train: list[Record]
    val: list[Record]
    test: list[Record]


def read(path: str | Path) -> list[Record]:
    """Return the entries of a file: instruction, input and output. An input may be empty."""
    return read_records(path, FIELDS, may_be_empty=("input", "output"))


def split(entries: Sequence[Record]) -> Splits:
    """Return the entries in three parts: the first 85 % for training, the next 10 % for the test.

    Raises InputError if there are too few.
    """
    train = int(len(entries) * TRAIN)
    val = train + int(len(entries) * TEST)
    found = Splits(list(entries[:train]), list(entries[val:]), list(entries[train:val]))
    if not all(found):
        raise InputError(
            f"{len(entries)} entries cannot be split into three parts: give at least 10"
        )
    return found


def format_prompt(entry: Record) -> str:
    """Return the text that the model continues with an answer."""
    prompt = (
        "Below is an instruction that describes a task. Write a response that appropriately "
        f"completes the request.\n\n### Instruction:\n{entry['instruction']}"
    )
    return prompt + (f"\n\n### Input:\n{entry['input']}" if entry["input"] else "")


def format_example(entry: Record) -> str:
    """Return the text to train on: the prompt and the answer."""
    return f"{format_prompt(entry)}\n\n{ANSWER}\n{entry['output']}"


def encode(entries: Sequence[Record], tokenizer: Tokenizer) -> list[list[int]]:
    """Return the token ids of each entry, with its answer."""
    return [tokenizer.encode(format_example(entry)) for entry in entries]


def collate(
    rows: Sequence[Sequence[int]], pad_id: int, max_length: int | None = None
) -> tuple[Array, Array]:
    """Return inputs and targets (B, T) of texts of any lengths, padded to the longest.

    An answer ends with one `pad_id`, which is a target. All further ones are ignored:

    >>> inputs, targets = collate([[0, 1, 2, 3, 4], [5, 6], [7, 8, 9]], 50256)
    >>> targets.tolist()
    [[1, 2, 3, 4, 50256], [6, 50256, -100, -100, -100], [8, 9, 50256, -100, -100]]

    `max_length`: T at most; longer rows are cropped.
    """
    length = max(map(len, rows)) + 1
    padded = np.full((len(rows), length), pad_id, np.int64)
    for i, row in enumerate(rows):
        padded[i, : len(row)] = row
    inputs, targets = padded[:, :-1].copy(), padded[:, 1:].copy()
    is_pad = targets == pad_id
    targets[is_pad & (is_pad.cumsum(1) > 1)] = IGNORED
    return inputs[:, :max_length], targets[:, :max_length]
