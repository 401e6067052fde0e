"""Chapter 7's data: the prompt, the batches, and the losses with ignored targets."""

import doctest
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import npgpt
from npgpt import ops
from npgpt.errors import InputError
from npgpt.finetuning import instructions
from npgpt.finetuning.batches import Batches
from npgpt.finetuning.instruction_tuning import InstructionTuning
from npgpt.finetuning.instructions import collate
from npgpt.finetuning.loop import Evaluation, Settings
from reference import finetuning, gpt2

DATA = "instruction-data.json"


def test_the_example_of_collate():
    failed, tried = doctest.testmod(instructions)
    assert (failed, tried) == (0, 2)


@pytest.mark.parametrize("max_length", [None, 4, 12])
def test_collate_is_the_books(rng, max_length):
    """Also of texts that contain the padding's token, and of one that is cropped in its middle."""
    rows = [rng.integers(48, 51, size=n).tolist() for n in (1, 6, 11, 8)]
    ours = collate(rows, 50, max_length)
    theirs = finetuning.collate(rows, 50, max_length=max_length)
    for mine, expected in zip(ours, theirs, strict=True):
        assert mine.tolist() == expected.tolist() and mine.dtype == np.int64


@pytest.mark.parametrize(
    "rows, targets, loss",
    [(2, [0, 1], 1.1269), (3, [0, 1, 1], 0.7936), (3, [0, 1, -100], 1.1269)],
)
def test_an_ignored_target_leaves_the_loss_as_it_was(rows, targets, loss):
    logits = np.array([[-1.0, 1.0], [-0.5, 1.5], [-0.5, 1.5]], np.float32)[:rows]
    identity = np.eye(2, dtype=np.float32)
    found = ops.linear_cross_entropy.evaluate(logits, identity, np.array(targets))
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


@pytest.mark.parametrize("patterns, max_length", [(("*",), None), (("h.1", "wpe"), 150)])
def test_the_log_is_the_references(patterns, max_length):
    """Chapter 7 with random weights."""
    config = npgpt.Config(vocab_size=257, context_length=170, n_layer=2, n_head=2, n_embd=16)
    model = npgpt.GPT(config, seed=4, ops=ops, tokenizer="byte")
    byte = npgpt.tokenizer("byte")
    entries = instructions.split(
        [{"instruction": f"Add {i}.", "input": "", "output": "1" * (i % 9)} for i in range(23)]
    )
    settings = dict(epochs=2, eval_every=2, eval_batches=3)
    run = InstructionTuning(
        model,
        entries,
        Settings(**settings, batch_size=4, lr=1e-3, max_length=max_length, trainable=patterns),
    )
    arrays = {name: array.copy() for name, array in npgpt.named(model.params)}
    theirs = gpt2.from_arrays(gpt2.Config(**asdict(config)), arrays).requires_grad_(False)
    for name, parameter in theirs.named_parameters():
        parameter.requires_grad_(any(name == one or name.startswith(f"{one}.") for one in patterns))
        parameter.requires_grad_(parameter.requires_grad or patterns == ("*",))

    def collate(rows):
        return finetuning.collate(rows, 256, max_length=max_length or 170)

    loaders = [
        DataLoader(
            instructions.encode(part, byte), 4, shuffle=i == 0, drop_last=i == 0, collate_fn=collate
        )
        for i, part in enumerate((entries.train, entries.val))
    ]
    torch.manual_seed(123)
    before = [finetuning.mean_loss(theirs, one, 3) for one in loaders]
    assert np.allclose(run.measure(), before, rtol=0, atol=2e-6)
    torch.manual_seed(123)
    optimizer = torch.optim.AdamW(theirs.parameters(), lr=1e-3, weight_decay=0.1)
    log = [*finetuning.train(theirs, *loaders, optimizer, **settings)]
    ours = [(e.train_loss, e.val_loss) for e in run.events() if isinstance(e, Evaluation)]
    assert len(log) == 4
    assert [[f"{x:.3f}" for x in pair] for pair in ours] == [
        [f"{x:.3f}" for x in pair] for pair in log
    ]


def test_the_batches_of_the_book(data, bpe):
    path = Path(data) / DATA
    if not path.exists():
        pytest.skip(f"the folder of data has no {DATA}")
    train, val, test = instructions.split(instructions.read(path))
    assert [len(train), len(val), len(test)] == [935, 55, 110]
    rows = instructions.encode(train, bpe)
    batches = Batches(
        len(rows), lambda chosen: collate([rows[i] for i in chosen], 50256), 8, training=True
    )
    drawn = batches.draw(npgpt.Generator(123, ops=ops))
    assert [next(drawn)[0].shape for _ in range(4)] == [(8, 61), (8, 76), (8, 73), (8, 68)]
