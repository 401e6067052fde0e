"""Chapter 7's data: the prompt, the batches, and the losses with ignored targets."""

import doctest
from pathlib import Path

import numpy as np
import pytest
import torch

import npgpt
from npgpt import ops
from npgpt.errors import InputError
from npgpt.finetuning import instructions
from npgpt.finetuning.batches import Batches
from npgpt.finetuning.instructions import collate

DATA = "instruction-data.json"


def test_the_example_of_collate():
    failed, tried = doctest.testmod(instructions)
    assert (failed, tried) == (0, 2)


def book_collate(batch, pad_token_id=50256, ignore_index=-100, allowed_max_length=None):
    """Section 7.3's function, as the book has it."""
    longest = max(len(item) + 1 for item in batch)
    inputs_lst, targets_lst = [], []
    for item in batch:
        new_item = [*item, pad_token_id]
        padded = new_item + [pad_token_id] * (longest - len(new_item))
        inputs, targets = torch.tensor(padded[:-1]), torch.tensor(padded[1:])
        indices = torch.nonzero(targets == pad_token_id).squeeze()
        if indices.numel() > 1:
            targets[indices[1:]] = ignore_index
        if allowed_max_length is not None:
            inputs, targets = inputs[:allowed_max_length], targets[:allowed_max_length]
        inputs_lst.append(inputs)
        targets_lst.append(targets)
    return torch.stack(inputs_lst), torch.stack(targets_lst)


@pytest.mark.parametrize("max_length", [None, 4, 12])
def test_collate_is_the_books(rng, max_length):
    """Also of texts that contain the padding's token, and of one that is cropped in its middle."""
    rows = [rng.integers(48, 51, size=n).tolist() for n in (1, 6, 11, 8)]
    ours = collate(rows, 50, max_length)
    theirs = book_collate(rows, 50, allowed_max_length=max_length)
    for mine, expected in zip(ours, theirs, strict=True):
        assert mine.tolist() == expected.tolist() and mine.dtype == np.int64


@pytest.mark.parametrize(
    "rows, targets, loss",
    [(2, [0, 1], 1.1269), (3, [0, 1, 1], 0.7936), (3, [0, 1, -100], 1.1269)],
)
def test_an_ignored_target_leaves_the_loss_as_it_was(backend, rows, targets, loss):
    logits = np.array([[-1.0, 1.0], [-0.5, 1.5], [-0.5, 1.5]], np.float32)[:rows]
    identity = np.eye(2, dtype=np.float32)
    found = backend.linear_cross_entropy.evaluate(logits, identity, np.array(targets))
    assert f"{found:.4f}" == f"{loss:.4f}"


def test_the_prompt():
    entry = {"instruction": "Spell it.", "input": "Ocassion", "output": "Occasion."}
    assert instructions.format_example(entry) == (
        "Below is an instruction that describes a task. Write a response that appropriately "
        "completes the request.\n\n### Instruction:\nSpell it.\n\n### Input:\nOcassion"
        "\n\n### Response:\nOccasion."
    )
    assert instructions.format_prompt(entry | {"input": ""}).endswith("Instruction:\nSpell it.")


def test_the_parts_of_a_file():
    entries = [{"instruction": str(i), "input": "", "output": ""} for i in range(1100)]
    parts = instructions.split(entries)
    assert [len(part) for part in parts] == [935, 55, 110]
    assert [part[0]["instruction"] for part in parts] == ["0", "1045", "935"]
    with pytest.raises(InputError, match="9 entries cannot be split into three parts"):
        instructions.split(entries[:9])


def test_the_batches_of_the_book(data, bpe):
    path = Path(data) / DATA
    if not path.exists():
        pytest.skip(f"NPGPT_DATA has no {DATA}")
    train, val, test = instructions.split(instructions.read(path))
    assert [len(train), len(val), len(test)] == [935, 55, 110]
    rows = instructions.encode(train, bpe)
    batches = Batches(
        len(rows), lambda chosen: collate([rows[i] for i in chosen], 50256), 8, training=True
    )
    drawn = batches.draw(npgpt.Generator(123, ops=ops))
    assert [next(drawn)[0].shape for _ in range(4)] == [(8, 61), (8, 76), (8, 73), (8, 68)]
