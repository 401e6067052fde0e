"""Read the data of a run, texts or token files, as training and validation tokens."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from npgpt.arrays import Array
from npgpt.config import RunConfig
from npgpt.data import text
from npgpt.data.mapped_tokens import MappedTokens, MixedTokens, count_windows
from npgpt.data.mixture import Mixture
from npgpt.data.tokenizer import Tokenizer, check_size, tokenizer

Say = Callable[[str], object]


def silent(line: str) -> None:
    """Say nothing."""


@dataclass
class Tokens:
    """Encoded data in two splits: token ids in memory, in files, or of several sources."""

    train: Array | MappedTokens | MixedTokens  # (N,) int64 in memory
    val: Array | MappedTokens | MixedTokens  # (M,) int64 in memory
    sha256: str  # of both splits: a run is only resumed on the data that it was started on
    tokenizer: Tokenizer


@dataclass
class Source:
    """One of the data that are named."""

    name: str
    train: Array | MappedTokens
    val: Array | MappedTokens
    sha256: str

    @property
    def held_out(self) -> Array | MappedTokens:
        """The validation split, or all tokens without one."""
        return self.val if len(self.val) else self.train


def read_tokens(
    settings: RunConfig, encoding: Tokenizer | None = None, say: Say = silent
) -> Tokens:
    """Read, split and encode the data of a run. `encoding`: by default the settings' tokenizer.

    Token files are mapped. A large text, and one in another file than .txt, is encoded once into
    the cache directory, and mapped. `say`: called with a line about it.

    Raises InputError if the data cannot be read, if several have different tokenizers, or if the
    tokenizer has more tokens than the model's vocabulary.
    """
    encoding = tokenizer(settings.tokenizer) if encoding is None else encoding
    check_size(encoding, settings.config)
    vocab_size, weights = settings.config.vocab_size, settings.data_weights
    names, others = settings.sources, settings.val_sources
    if len(names) + len(others) > 1:
        from npgpt.data import mapped_data

        mapped_data.require_one_tokenizer([*names, *others])
    fraction = 1.0 if others else settings.training.train_fraction
    data = [read_source(name, encoding, fraction, vocab_size, say) for name in names]
    digest = digest_of(data, weights)
    train = mix([(one.name, one.train) for one in data], weights, vocab_size)
    if isinstance(train, MixedTokens):
        stride = settings.training.stride or settings.config.context_length
        describe_mixture(train, settings.config.context_length, stride, say)
    if others:
        val_data = [read_source(name, encoding, 1.0, vocab_size, say) for name in others]
        val = mix([(one.name, one.held_out) for one in val_data], None, vocab_size)
        digest = hashlib.sha256(f"{digest} {digest_of(val_data)}".encode()).hexdigest()
    else:
        val = mix([(one.name, one.val) for one in data], weights, vocab_size)
    return Tokens(train, val, digest, encoding)


def read_source(
    name: str, encoding: Tokenizer, train_fraction: float, vocab_size: int, say: Say = silent
) -> Source:
    """Read one of the data: a text, or token files."""
    if name not in ("bundled", "verdict"):
        from npgpt.data import mapped_data  # here, because a short text needs none of it

        if (directory := mapped_data.find(Path(name), encoding, say)) is not None:
            return Source(
                name, *mapped_data.split(directory, encoding, train_fraction, vocab_size, name)
            )
    both = text.split(text.read(name), train_fraction)
    train, val = (np.asarray(encoding.encode(part), np.int64) for part in both)
    digest = hashlib.sha256(train.tobytes() + b"|" + val.tobytes()).hexdigest()
    return Source(name, train, val, digest)


def digest_of(data: Sequence[Source], weights: Sequence[float] | None = None) -> str:
    """Return the digest of one of the data, or of several and their weights."""
    if len(data) == 1:
        return data[0].sha256
    described = json.dumps([[one.sha256 for one in data], weights])
    return hashlib.sha256(described.encode()).hexdigest()


def mix(
    named: Sequence[tuple[str, Array | MappedTokens]],
    weights: Sequence[float] | None,
    vocab_size: int,
) -> Array | MappedTokens | MixedTokens:
    """Return the tokens of one of the data as they are, those of several as MixedTokens."""
    if len(named) == 1:
        return named[0][1]
    sources = [
        tokens
        if isinstance(tokens, MappedTokens)
        else MappedTokens.of_array(name, tokens, vocab_size)
        for name, tokens in named
    ]
    return MixedTokens(sources, weights)


def describe_mixture(train: MixedTokens, context_length: int, stride: int, say: Say) -> None:
    """Say the share of each of several data, and how often an epoch uses each of its windows."""
    sizes = [count_windows(len(one), context_length, stride) for one in train.sources]
    if not all(sizes):
        return  # the trainer's error says which is too short
    shares = Mixture(train.weights or sizes).shares
    for one, size, share in zip(train.sources, sizes, shares, strict=True):
        say(
            f"{one.name}: {len(one):,} training tokens, {float(share):.1%} of the windows, "
            f"each used {float(share * sum(sizes) / size):.3g} times an epoch"
        )
