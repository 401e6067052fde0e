"""Read a text and split it into training and validation tokens."""

import hashlib
from dataclasses import dataclass

import numpy as np

from npgpt.arrays import Array
from npgpt.config import RunConfig
from npgpt.data import text
from npgpt.data.tokenizer import Tokenizer, check_size, tokenizer


@dataclass
class Tokens:
    """An encoded text in two splits."""

    train: Array  # (N,) int64
    val: Array  # (M,) int64
    sha256: str  # of both splits: a run is only resumed on the text that it was started on
    tokenizer: Tokenizer


def read_tokens(settings: RunConfig, encoding: Tokenizer | None = None) -> Tokens:
    """Read, split and encode the text of a run. `encoding`: by default the settings' tokenizer.

    Raises InputError if the text cannot be read, or if the tokenizer has more tokens than the
    model's vocabulary.
    """
    encoding = tokenizer(settings.tokenizer) if encoding is None else encoding
    check_size(encoding, settings.config)
    both = text.split(text.read(settings.data), settings.training.train_fraction)
    train, val = (np.asarray(encoding.encode(part), np.int64) for part in both)
    digest = hashlib.sha256(train.tobytes() + b"|" + val.tobytes()).hexdigest()
    return Tokens(train, val, digest, encoding)
