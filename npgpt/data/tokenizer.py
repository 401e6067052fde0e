"""Text <-> token ids: GPT-2's byte-pair encoding, one token per byte, or a model's own."""

from __future__ import annotations

import functools
import operator
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from npgpt.config import VOCABULARIES, Config
from npgpt.data import gpt2_bpe
from npgpt.data.gpt2_bpe import END_OF_TEXT
from npgpt.data.tokenizer_choice import KINDS, find, is_known
from npgpt.errors import DownloadError, InputError, show
from npgpt.system import memory
from npgpt.weights.tokenizer_files import TokenizerFiles, TokenizerName

if TYPE_CHECKING:
    import tiktoken

REPLACEMENT = "\ufffd"


class Tokenizer(ABC):
    """Text <-> token ids. `npgpt.tokenizer` returns one.

    Attributes
    ----------
    origin : str or TokenizerFiles
        The value of `GPT.tokenizer` for a model that is trained with it: a name, or the files of
        another tokenizer.
    n_vocab : int
        The number of tokens: one more than the largest id.
    eot_token : int or None
        The id of the end of a text, None if there is none.
    is_bytewise : bool
        True if a token stands for the same bytes wherever it occurs.
    """

    origin: TokenizerName
    n_vocab: int
    eot_token: int | None
    is_bytewise = True

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a text.

        Parameters
        ----------
        text : str
            <|endoftext|> is encoded as one token. Otherwise "gpt2" and "byte" recognize no special
            token; a model's own tokenizer recognizes its own. Nothing is added before or after.

        Returns
        -------
        list of int

        Raises
        ------
        InputError
            If `text` is not a string, or the tokenizer cannot encode it.
        """
        if not isinstance(text, str):
            raise InputError(f"text must be a string, not {show(text)}")
        memory.require(memory.TO_TOKENIZE // 4 + 16 * len(text), "encode a text")
        with library_errors(f"the tokenizer {self}"):
            return self._encode(text)

    def decode(self, tokens: Iterable[int], *, unknown: str | None = None) -> str:
        """Return the text of token ids.

        Parameters
        ----------
        tokens : iterable of int
            Any iterable: a list, an array (N,), or what `npgpt.generate` returns.
        unknown : str or None, default None
            The text in place of an id that the tokenizer does not have. The vocabulary of a model
            may be larger than its tokenizer's. None: such an id is an error.

        Returns
        -------
        str
            Bytes that are not UTF-8 become U+FFFD.

        Raises
        ------
        InputError
            If an id is not an integer, or the tokenizer does not have it.
        """
        return self._decode(list(self._check(tokens, unknown)), unknown or "")

    def token_bytes(self, token: int) -> bytes | None:
        """Return the bytes of a token, None if the tokenizer does not have it.

        Parameters
        ----------
        token : int

        Returns
        -------
        bytes or None
        """
        return self._bytes_of(int(token))

    def has(self, token: int) -> bool:
        """Return True if the tokenizer has a token of this id.

        Parameters
        ----------
        token : int

        Returns
        -------
        bool
        """
        return self.token_bytes(token) is not None

    def __str__(self) -> str:
        return describe(self.origin)

    def __repr__(self) -> str:
        return f"Tokenizer({str(self)!r}, {self.n_vocab:,} tokens)"

    @abstractmethod
    def _encode(self, text: str) -> list[int]:
        """Return the token ids of a text."""

    @abstractmethod
    def _bytes_of(self, token: int) -> bytes | None:
        """Return the bytes of a token, None if the tokenizer does not have it."""

    def _decode(self, tokens: list[int], unknown: str) -> str:
        pieces = (self.token_bytes(token) for token in tokens)
        known = (unknown.encode() if piece is None else piece for piece in pieces)
        return b"".join(known).decode("utf-8", errors="replace")

    def _check(self, tokens: Iterable[int], unknown: str | None) -> Iterator[int]:
        """Yield the ids as int, after checking them."""
        try:
            ids = iter(tokens)
        except TypeError:
            raise InputError(f"tokens must be token ids, not {show(tokens)}") from None
        for token in ids:
            try:
                found = operator.index(token)
            except TypeError:
                raise InputError(f"a token id must be an integer, not {show(token)}") from None
            if unknown is None and not self.has(found):
                raise InputError(
                    f"the tokenizer {self} has no token {found}, only ids below {self.n_vocab}: "
                    'pass unknown="\\ufffd" to show such ids as U+FFFD'
                )
            yield found


class TiktokenTokenizer(Tokenizer):
    """A tokenizer that tiktoken computes: "gpt2" or "byte"."""

    def __init__(self, encoding: tiktoken.Encoding):
        self.encoding = encoding
        self.origin, self.n_vocab = encoding.name, encoding.n_vocab
        self.eot_token = encoding.eot_token

    def _bytes_of(self, token: int) -> bytes | None:
        try:
            return self.encoding.decode_single_token_bytes(token)
        except (KeyError, OverflowError):  # tiktoken's ids have 32 bits
            return None

    def _encode(self, text: str) -> list[int]:
        return self.encoding.encode(text, allowed_special={END_OF_TEXT}, disallowed_special=())


class Model(Protocol):
    """The part of a model that its tokenizer depends on."""

    @property
    def config(self) -> Config: ...
    @property
    def tokenizer(self) -> TokenizerName | None: ...
    @property
    def path(self) -> Path | None: ...


def tokenizer(name: str | Path | TokenizerFiles) -> Tokenizer:
    """Return the tokenizer of this name, or the one in these files.

    Parameters
    ----------
    name : str, Path or TokenizerFiles
        "gpt2": GPT-2's byte-pair encoding, 50257 tokens. tiktoken downloads its file once, into
        the directory TIKTOKEN_CACHE_DIR. "byte": the 256 bytes and the end of a text, 257 tokens,
        without a download. Otherwise the path of a tokenizer.json, of a directory with a
        tokenizer.json or vocab.json and merges.txt, or of a model; or `model.tokenizer`.

    Returns
    -------
    Tokenizer
        With `encode`, `decode`, `n_vocab` and `eot_token`.

    Raises
    ------
    InputError
        If the name is unknown, or the files are missing or invalid.
    DownloadError
        If the file of GPT-2's tokenizer cannot be downloaded.
    """
    memory.require(memory.TO_TOKENIZE, "make a tokenizer")
    origin = find(name)
    return build(origin) if isinstance(origin, TokenizerFiles) else named(origin)


def tokenizer_of(model: Model) -> Tokenizer:
    """Return the tokenizer of a model. Raise InputError if it is unknown, or too large for it."""
    if not is_known(model.tokenizer):
        raise InputError(
            f"the tokenizer of {model.path or 'this model'} is unknown: give --tokenizer {KINDS} "
            "(in Python, model.tokenizer = npgpt.tokenizer(...).origin)"
        )
    found = tokenizer(model.tokenizer)
    check_size(found, model.config)
    return found


def check_size(found: Tokenizer, config: Config) -> None:
    """Raise InputError if the tokenizer has more tokens than the model's vocabulary."""
    if found.n_vocab > config.vocab_size:
        raise InputError(
            f"the tokenizer {found} has {found.n_vocab} tokens, more than the model's vocabulary "
            f"of {config.vocab_size}"
        )


def describe(origin: TokenizerName) -> str:
    """Return the name of a tokenizer, or the path of its files."""
    return origin if isinstance(origin, str) else str(origin.path)


def named(name: str) -> Tokenizer:
    """Return the tokenizer "gpt2" or "byte"."""
    if name == "byte":
        return TiktokenTokenizer(byte_encoding())
    try:
        return TiktokenTokenizer(gpt2_bpe.make_encoding(gpt2_bpe.download_merges()))
    except (OSError, ValueError) as error:  # of `requests` without a network, or a wrong hash
        raise DownloadError(
            "GPT-2's tokenizer file could not be downloaded "
            f"({type(error).__name__}). Set TIKTOKEN_CACHE_DIR to a directory that has it. "
            'The tokenizer "byte" needs no file'
        ) from error


@functools.cache
def byte_encoding() -> tiktoken.Encoding:
    """Return the encoding of the tokenizer "byte"."""
    import tiktoken  # here, because `npgpt --help` does not need it

    return tiktoken.Encoding(
        name="byte",
        pat_str=r"[\s\S]",
        mergeable_ranks={bytes([i]): i for i in range(256)},
        special_tokens={END_OF_TEXT: VOCABULARIES["byte"] - 1},
    )


@functools.lru_cache(4)
def build(files: TokenizerFiles) -> Tokenizer:
    """Return the tokenizer in these files."""
    from npgpt.data import tokenizer_json  # here, because it is needed for these only

    return tokenizer_json.read(files)


@contextmanager
def library_errors(what: str) -> Iterator[None]:
    """Turn an error of a tokenizer library into an InputError that begins with `what`.

    A panic of a library in Rust is no Exception, only a BaseException.
    """
    try:
        yield
    except (InputError, MemoryError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:
        text = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{what} failed: {text:.200}") from None
