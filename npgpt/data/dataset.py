"""Read a text and split it into training and validation tokens."""

import hashlib
from dataclasses import dataclass

import numpy as np

from npgpt.config import RunConfig
from npgpt.data import text
from npgpt.data.tokenizer import encode, tokenizer
from npgpt.errors import InputError


@dataclass
class Tokens:
    """A text, encoded and split."""

    train: np.ndarray  # (N,) int64
    val: np.ndarray
    sha256: str  # of both, so that a run is only resumed on the text it saw


def read_tokens(settings: RunConfig) -> Tokens:
    """The text that the settings name, as two splits of token ids."""
    encoding = tokenizer(settings.tokenizer)
    if encoding.n_vocab > settings.config.vocab_size:
        raise InputError(
            f"the tokenizer {settings.tokenizer} has {encoding.n_vocab} tokens, more than the "
            f"model's vocabulary of {settings.config.vocab_size}"
        )
    both = text.split(text.read(settings.data), settings.training.train_fraction)
    train, val = (np.asarray(encode(encoding, part), np.int64) for part in both)
    digest = hashlib.sha256(train.tobytes() + b"|" + val.tobytes()).hexdigest()
    return Tokens(train, val, digest)
