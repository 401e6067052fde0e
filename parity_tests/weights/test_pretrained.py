"""OpenAI's GPT-2 generates and scores what the book prints, if its weights are present."""

import os
from pathlib import Path

import numpy as np
import pytest

import npgpt
from npgpt import Generator
from npgpt.data import text
from npgpt.inference.evaluate import Batches

LOSSES = {  # on The Verdict, split at 90 % of the characters, windows of 256
    "124M": (3.7547486888037787, 3.5596182346343994),
    "1558M": (3.3046311861972384, 3.1195147037506104),
}


@pytest.fixture(scope="module")
def small():
    return pretrained("124M")


def pretrained(name):
    """Return the model in NPGPT_GPT2 or its subdirectory `name`; the small one may be in either."""
    folder = os.environ.get("NPGPT_GPT2")
    if not folder:
        pytest.skip("NPGPT_GPT2 does not name a folder with GPT-2's weights")
    inside = Path(folder) / name
    if not inside.is_dir() and name != "124M":
        pytest.skip(f"NPGPT_GPT2 names a folder without {name}")
    return npgpt.load(inside if inside.is_dir() else folder)


def test_the_embedding_of_the_first_token(small):
    np.testing.assert_array_equal(
        small.params.wte.weight[0, :3], np.float32([-0.11010301, -0.03926672, 0.03310751])
    )


@pytest.mark.parametrize(
    "prompt, expected",
    [
        (
            "Every effort moves",
            " forward, but it's not enough.\n\n\"I'm not going to sit here and say, "
            "'I'm not going to do this,'",
        ),
        (
            "Alan Turing theorized that computers would one day become",
            " the most powerful machines on the planet.\n\nThe computer is a machine that can "
            "perform complex calculations, and it can perform these calculations in a way that is "
            "very similar to the human brain.",
        ),
    ],
)
def test_the_likeliest_continuation(small, bpe, prompt, expected):
    assert written(small, bpe, prompt, len(bpe.encode(expected))) == expected


def test_a_drawn_continuation(small, bpe):
    options = dict(temperature=1.5, top_k=50, rng=Generator(123))
    assert written(small, bpe, "Every effort moves you", 25, **options) == (
        " toward finding an ideal new way to practice something!\n\n"
        "What makes us want to be on top of that?\n\n"
    )


def written(model, bpe, prompt, count, **options):
    """Return the text that the model adds to a prompt."""
    ids = list(npgpt.generate(model, bpe.encode(prompt), count, **options))
    return bpe.decode(ids)


@pytest.mark.parametrize("name", LOSSES)
def test_the_losses_on_the_verdict(name, data, bpe):
    model = pretrained(name)
    both = text.split(text.read(str(data / "the-verdict.txt")), 0.9)
    for part, expected in zip(both, LOSSES[name], strict=True):
        tokens = np.asarray(bpe.encode(part), np.int64)
        whole = (len(tokens) - 1) // 256 * 256 + 1  # the book has complete windows only
        losses = [model.evaluate(*batch) for batch in Batches(tokens[:whole], 256, 2)]
        # float32 sums in another order than PyTorch's: the last digits of a mean of losses near 10
        assert np.mean(losses) == pytest.approx(expected, abs=1e-5)
