"""Text <-> token ids: GPT-2's byte-pair encoding, and one token per byte, without a download."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import TYPE_CHECKING

from npgpt.config import VOCABULARIES
from npgpt.errors import DownloadError, InputError

if TYPE_CHECKING:
    import tiktoken

END_OF_TEXT = "<|endoftext|>"
MERGES = "https://openaipublic.blob.core.windows.net/gpt-2/encodings/main/vocab.bpe"
SHA256 = "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5"
SPLIT_PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"


def tokenizer(name: str) -> tiktoken.Encoding:
    """Return the tokenizer of this name.

    Parameters
    ----------
    name : {"gpt2", "byte"}
        "gpt2": GPT-2's byte-pair encoding, 50257 tokens. tiktoken downloads its file once, into
        the directory TIKTOKEN_CACHE_DIR. "byte": the 256 bytes and the end of a text, 257 tokens,
        without a download.

    Returns
    -------
    tiktoken.Encoding
        With `encode`, `decode`, `n_vocab` and `eot_token`.

    Raises
    ------
    InputError
        If the name is unknown.
    DownloadError
        If the file of GPT-2's tokenizer cannot be downloaded.
    """
    if name == "byte":
        import tiktoken  # here, because `npgpt --help` does not need it

        return tiktoken.Encoding(
            name="byte",
            pat_str=r"[\s\S]",
            mergeable_ranks={bytes([i]): i for i in range(256)},
            special_tokens={END_OF_TEXT: 256},
        )
    if name == "gpt2":
        try:
            return gpt2_encoding()
        except (OSError, ValueError) as error:  # of `requests` without a network, or a wrong hash
            raise DownloadError(
                "GPT-2's tokenizer file could not be downloaded "
                f"({type(error).__name__}). Set TIKTOKEN_CACHE_DIR to a directory that has it. "
                'The tokenizer "byte" needs no file'
            ) from error
    raise InputError(f"unknown tokenizer {name!r}; expected one of {', '.join(VOCABULARIES)}")


@functools.cache
def gpt2_encoding() -> tiktoken.Encoding:
    """Return tiktoken.get_encoding("gpt2") in a third of its time: it reads two vocabularies."""
    import tiktoken
    from tiktoken.load import read_file_cached

    tokens = parse_merges(read_file_cached(MERGES, SHA256))
    return tiktoken.Encoding(
        name="gpt2",
        pat_str=SPLIT_PATTERN,
        mergeable_ranks={token: i for i, token in enumerate(tokens)},
        special_tokens={END_OF_TEXT: VOCABULARIES["gpt2"] - 1},
        explicit_n_vocab=VOCABULARIES["gpt2"],
    )


def parse_merges(file: bytes) -> list[bytes]:
    """Return GPT-2's tokens in the order of their ids: the single bytes, then the merged tokens.

    A line of the file is a merge of two tokens. It represents each byte by a printable character:
    the byte's own, or else the next one from U+0100 on (Radford et al. 2019).
    """
    printable = [byte for byte in range(256) if chr(byte).isprintable() and chr(byte) != " "]
    others = [byte for byte in range(256) if byte not in printable]
    byte_of = {0x100 + i: byte for i, byte in enumerate(others)}
    lines = file.decode().replace(" ", "").split("\n")[1:-1]  # the first is the version
    pairs = [line.translate(byte_of).encode("latin-1") for line in lines]
    return [bytes([byte]) for byte in printable + others] + pairs


def encode(encoding: tiktoken.Encoding, text: str) -> list[int]:
    """Return the token ids of a text.

    <|endoftext|> is encoded as one token. No other special token is recognized.
    """
    return encoding.encode(text, allowed_special={END_OF_TEXT}, disallowed_special=())


def decode(encoding: tiktoken.Encoding, tokens: Iterable[int]) -> str:
    """Return the text of token ids.

    Bytes that are not UTF-8 become U+FFFD, as do ids outside the tokenizer's vocabulary: that of a
    model may be larger.
    """
    pieces = (token_bytes(encoding, token) for token in tokens)
    return b"".join(pieces).decode("utf-8", errors="replace")


def token_bytes(encoding: tiktoken.Encoding, token: int) -> bytes:
    """Return the bytes of one token id, U+FFFD if it is outside the tokenizer's vocabulary."""
    try:
        return encoding.decode_single_token_bytes(int(token))
    except (KeyError, OverflowError):  # tiktoken's ids have 32 bits
        return "\ufffd".encode()
