"""Forty documents, as files of several kinds, and a conversion of them."""

import json
import random

from npgpt.data import tokenize
from npgpt.data.sources import list_sources
from npgpt.data.tokenizer import tokenizer

END = 256  # the byte tokenizer's <|endoftext|>
RNG = random.Random(5)
WORDS = ["one", "two ", "three\n", "vier, ", "fünf ", "六 ", "7 ", "<|endoftext|", "  \n"]
DOCUMENTS = ["".join(RNG.choices(WORDS, k=RNG.randint(1, 90))) for _ in range(40)]


def job(sources, to, **options):
    """A Job with the byte tokenizer."""
    files, _ = list_sources([str(source) for source in sources])
    return tokenize.Job(files, to, tokenizer("byte"), **options)


def contents(directory):
    """The bytes of every file in a directory, by name."""
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}


def write_jsonl(path, texts=tuple(DOCUMENTS)):
    path.write_text("".join(json.dumps({"id": 1, "text": text}) + "\n" for text in texts))
    return path


def write_folder(path):
    path.mkdir()
    for i, text in enumerate(DOCUMENTS):
        (path / f"{i:03d}.txt").write_text(text)
    (path / "notes.md").write_text("passed over")
    return path
