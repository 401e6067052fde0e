"""The book's program in PyTorch and its run in npgpt, evaluation by evaluation, in small."""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks import book_log
from npgpt.data import text
from npgpt.data.dataset import Tokens
from npgpt.data.tokenizer import tokenizer
from npgpt.preset import defaults

IDS = np.frombuffer(text.read("bundled").encode(), np.uint8).astype(np.int64)
# Nine batches an epoch, one window left over; three windows to validate on, in batches of 2 and 1
TOKENS = Tokens(IDS[:305], IDS[305:360], "", tokenizer("byte"))
BOOK = defaults("book", tokenizer_name="byte")
SMALL = replace(
    BOOK,
    config=replace(BOOK.config, n_layer=2, n_head=2, n_embd=16, context_length=16),
    training=replace(BOOK.training, epochs=2, lr=1e-2, eval_every=3),
)


# Of losses of 3 to 6, whose last bit is 4.8e-7 in float32 and 8.9e-16 in float64. Measured: 6.4e-7
# (PyTorch's float32 from its own float64: 4.8e-7) and 1.8e-15
@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "bound"), [("float32", 2e-6), ("float64", 1e-13)])
@pytest.mark.parametrize("ops", ["numpy", "fused"])
def test_both_programs_come_to_the_same_losses(ops, dtype, bound):
    settings = replace(SMALL, dtype=dtype, ops=ops)
    logs = [list(program(settings, TOKENS)) for program in book_log.PROGRAMS.values()]
    ours, theirs = np.array(logs)
    assert ours[:, 0].tolist() == theirs[:, 0].tolist() == [0, 3, 6, 9, 12, 15]
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=bound)
    assert ours[0, 1] - ours[-1, 1] > 2  # it learns: a step that does nothing would agree too


def test_the_table_says_how_they_differ():
    lines = [
        {
            "step": 0,
            "book": [9.781, 9.933],
            "torch float32": [9.7810, 9.9325],
            "npgpt float32": [9.7813, 9.9326],
            "torch float64": [9.7811, 9.9326],
            "npgpt float64": [9.7811, 9.9327],
        },
        {
            "step": 5,
            "book": [8.111, 8.339],
            "torch float32": [8.1110, 8.3390],
            "npgpt float32": [8.1110, 8.3370],
        },
    ]
    head, first, second, largest = book_log.rows(lines)
    assert head[4:] == [
        "npgpt - book", "npgpt - PyTorch", "npgpt64 - PyTorch64", "npgpt - npgpt64",
        "PyTorch - PyTorch64",
    ]  # fmt: skip
    losses = ["9.781 / 9.933", "9.78100 / 9.93250", "9.78130 / 9.93260"]
    assert first == ["0", *losses, "4.0e-04", "3.0e-04", "1.0e-04", "2.0e-04", "1.0e-04"]
    assert second[4:] == ["2.0e-03", "2.0e-03", "", "", ""]
    assert largest[4:] == ["2.0e-03", "2.0e-03", "1.0e-04", "2.0e-04", "1.0e-04"]
    assert book_log.as_printed(lines[0], "npgpt float32")
    assert not book_log.as_printed(lines[1], "npgpt float32")
