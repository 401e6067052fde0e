"""Read the data of a run, a text or token files, as training and validation tokens."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from npgpt.arrays import Array
from npgpt.config import RunConfig
from npgpt.data import text
from npgpt.data.mapped_tokens import MappedTokens
from npgpt.data.tokenizer import Tokenizer, check_size, tokenizer


@dataclass
class Tokens:
    """An encoded text in two splits."""

    train: Array | MappedTokens  # (N,) int64, or token ids in files
    val: Array | MappedTokens  # (M,) int64, or token ids in files
    sha256: str  # of both splits: a run is only resumed on the text that it was started on
    tokenizer: Tokenizer


def read_tokens(
    settings: RunConfig,
    encoding: Tokenizer | None = None,
    say: Callable[[str], object] = lambda line: None,
) -> Tokens:
    """Read, split and encode the text of a run. `encoding`: by default the settings' tokenizer.

    Token files are mapped. A large text, and one in another file than .txt, is encoded once into
    the cache directory, and mapped. `say`: called with a line about it.

    Raises InputError if the text cannot be read, or if the tokenizer has more tokens than the
    model's vocabulary.
    """
    encoding = tokenizer(settings.tokenizer) if encoding is None else encoding
    check_size(encoding, settings.config)
    vocab_size, fraction = settings.config.vocab_size, settings.training.train_fraction
    if settings.val_data is None:
        train, val, digest = read_splits(settings.data, encoding, fraction, vocab_size, say)
        return Tokens(train, val, digest, encoding)
    train, _, digest = read_splits(settings.data, encoding, 1.0, vocab_size, say)
    first, second, other = read_splits(settings.val_data, encoding, 1.0, vocab_size, say)
    digest = hashlib.sha256(f"{digest} {other}".encode()).hexdigest()
    return Tokens(train, second if len(second) else first, digest, encoding)


def read_splits(
    data: str,
    encoding: Tokenizer,
    train_fraction: float,
    vocab_size: int,
    say: Callable[[str], object],
) -> tuple[Array | MappedTokens, Array | MappedTokens, str]:
    """Return training and validation tokens of a text or of token files, and their digest."""
    if data not in ("bundled", "verdict"):
        from npgpt.data import mapped_data  # here, because a short text needs none of it

        if (directory := mapped_data.find(Path(data), encoding, say)) is not None:
            return mapped_data.split(directory, encoding, train_fraction, vocab_size)
    both = text.split(text.read(data), train_fraction)
    train, val = (np.asarray(encoding.encode(part), np.int64) for part in both)
    return train, val, hashlib.sha256(train.tobytes() + b"|" + val.tobytes()).hexdigest()
