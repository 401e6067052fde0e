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
    fraction = settings.training.train_fraction
    if settings.data not in ("bundled", "verdict"):
        from npgpt.data import mapped_data  # here, because a short text needs none of it

        path = Path(settings.data)
        if (directory := mapped_data.find(path, encoding, say)) is not None:
            vocab_size = settings.config.vocab_size
            train, val, digest = mapped_data.split(directory, encoding, fraction, vocab_size)
            return Tokens(train, val, digest, encoding)
    both = text.split(text.read(settings.data), fraction)
    train_ids, val_ids = (np.asarray(encoding.encode(part), np.int64) for part in both)
    digest = hashlib.sha256(train_ids.tobytes() + b"|" + val_ids.tobytes()).hexdigest()
    return Tokens(train_ids, val_ids, digest, encoding)
