"""Chapter 6 of the book with OpenAI's weights: its log, if weights and data are present.

The log is that of PyTorch 2.2 and 2.6 on CPUs, and of an Apple GPU with 2.9.
"""

import os
from pathlib import Path

import numpy as np
import pytest

import npgpt
from npgpt.finetuning import labelled_texts
from npgpt.finetuning.classification import Accuracy, Classification, last_block
from npgpt.finetuning.loop import Evaluation, Settings

BEFORE = (0.4625, 0.45, 0.4875), (2.453, 2.583, 2.322)
HEAD = -3.5983, 3.9902  # of "Do you have time", before training
LOG = """
Ep 1 (Step 000000): Train loss 2.153, Val loss 2.392
Ep 1 (Step 000050): Train loss 0.617, Val loss 0.637
Ep 1 (Step 000100): Train loss 0.523, Val loss 0.557
Training accuracy: 70.00% | Validation accuracy: 72.50%
Ep 2 (Step 000150): Train loss 0.561, Val loss 0.489
Ep 2 (Step 000200): Train loss 0.419, Val loss 0.397
Ep 2 (Step 000250): Train loss 0.409, Val loss 0.353
Training accuracy: 82.50% | Validation accuracy: 85.00%
Ep 3 (Step 000300): Train loss 0.333, Val loss 0.320
Ep 3 (Step 000350): Train loss 0.340, Val loss 0.306
Training accuracy: 90.00% | Validation accuracy: 90.00%
Ep 4 (Step 000400): Train loss 0.136, Val loss 0.200
Ep 4 (Step 000450): Train loss 0.153, Val loss 0.132
Ep 4 (Step 000500): Train loss 0.222, Val loss 0.137
Training accuracy: 100.00% | Validation accuracy: 97.50%
Ep 5 (Step 000550): Train loss 0.207, Val loss 0.143
Ep 5 (Step 000600): Train loss 0.083, Val loss 0.074
Training accuracy: 100.00% | Validation accuracy: 97.50%
"""
AFTER = 0.9721, 0.9732, 0.9567


def numbers(line):
    """Return both numbers of a line of the log: losses, or accuracies as fractions."""
    parts = [word.rstrip(",") for word in line.split()]
    if line.startswith("Training"):
        return [float(word.rstrip("%")) / 100 for word in parts if word.endswith("%")]
    return [float(parts[5]), float(parts[8])]


@pytest.mark.slow
def test_the_log_of_chapter_6(data, bpe):
    name = os.environ.get("NPGPT_GPT2")
    if not name:
        pytest.skip("NPGPT_GPT2 does not name GPT-2's weights, for example gpt2-small")
    if not (data / "SMSSpamCollection").exists():
        pytest.skip("the folder of data has no SMSSpamCollection")
    inside = Path(name) / "124M"
    model = npgpt.load(inside if inside.is_dir() else name)
    model = npgpt.GPT.from_params(npgpt.Config(), model.params, tokenizer="gpt2")  # no dropout
    texts = labelled_texts.balance(labelled_texts.read(data / "SMSSpamCollection"))
    settings = Settings(epochs=5, eval_every=50, trainable=last_block(model))
    run = Classification(model, texts, settings)
    assert run.length == 120
    assert [len(batches) for batches in run.batches] == [130, 19, 38]
    ids = np.array([bpe.encode("Do you have time")])
    assert np.allclose(run.classifier.logits(ids, np.array([4])), HEAD, rtol=0, atol=2e-4)
    for found, expected in zip(run.measure(), BEFORE, strict=True):
        assert np.allclose(found, expected, rtol=0, atol=1e-3)
    events = (e for e in run.events() if isinstance(e, Evaluation | Accuracy))
    for event, line in zip(events, LOG.strip().splitlines(), strict=True):
        found = list(vars(event).values())[-2:]
        assert np.allclose(found, numbers(line), rtol=0, atol=1e-3), line
    final = [run.accuracy(batches, run.rng) for batches in run.batches]
    assert np.allclose(final, AFTER, rtol=0, atol=1e-3)
