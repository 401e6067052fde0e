"""Text <-> token ids: GPT-2's byte-pair encoding, and one token per byte that needs no download."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from npgpt.config import VOCABULARIES
from npgpt.errors import InputError, RunError

if TYPE_CHECKING:
    import tiktoken

END_OF_TEXT = "<|endoftext|>"
MERGES = "https://openaipublic.blob.core.windows.net/gpt-2/encodings/main/vocab.bpe"
SHA256 = "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5"
WORDS = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"


def tokenizer(name: str) -> tiktoken.Encoding:
    """The `tiktoken.Encoding` of that name: `encode`, `decode`, `n_vocab`, `eot_token`.

    "gpt2": 50257 tokens; tiktoken downloads its file once (to where TIKTOKEN_CACHE_DIR says).
    "byte": the 256 bytes and the end of a text, 257 tokens; nothing to download.
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
            return gpt2()
        except (OSError, ValueError) as error:  # no network (of `requests`), or a wrong hash
            raise RunError(
                "GPT-2's tokenizer file could not be downloaded "
                f"({type(error).__name__}). Set TIKTOKEN_CACHE_DIR to a folder that has it, or "
                "use --tokenizer byte, which needs no file"
            ) from error
    raise InputError(f"there is no tokenizer {name!r}; there are {', '.join(VOCABULARIES)}")


@functools.cache
def gpt2() -> tiktoken.Encoding:
    """tiktoken.get_encoding("gpt2"), in a third of its time: it reads every token a second time."""
    import tiktoken
    from tiktoken.load import read_file_cached

    tokens = merged(read_file_cached(MERGES, SHA256))
    return tiktoken.Encoding(
        name="gpt2",
        pat_str=WORDS,
        mergeable_ranks={token: i for i, token in enumerate(tokens)},
        special_tokens={END_OF_TEXT: VOCABULARIES["gpt2"] - 1},
        explicit_n_vocab=VOCABULARIES["gpt2"],
    )


def merged(file: bytes) -> list[bytes]:
    """GPT-2's tokens in the order of their ids: single bytes, then what its merges make of them.

    A line of the file is a merge of two tokens. In it stands for each byte a character that can be
    seen: itself where there is one, otherwise the next from U+0100 on (Radford et al. 2019).
    """
    seen = [byte for byte in range(256) if chr(byte).isprintable() and chr(byte) != " "]
    unseen = [byte for byte in range(256) if byte not in seen]
    byte_of = {0x100 + i: byte for i, byte in enumerate(unseen)}
    lines = file.decode().replace(" ", "").split("\n")[1:-1]  # the first names the version
    pairs = [line.translate(byte_of).encode("latin-1") for line in lines]
    return [bytes([byte]) for byte in seen + unseen] + pairs


def encode(encoding: tiktoken.Encoding, text: str) -> list[int]:
    """The ids of a text in which <|endoftext|>, and no other special token, means itself."""
    return encoding.encode(text, allowed_special={END_OF_TEXT}, disallowed_special=())


def decode(encoding: tiktoken.Encoding, tokens: list[int]) -> str:
    """The text of some ids. What is no character shows as U+FFFD, as do ids that it has not: the
    vocabulary of a model may be larger than its tokenizer's."""
    pieces = (token_bytes(encoding, token) for token in tokens)
    return b"".join(pieces).decode("utf-8", errors="replace")


def token_bytes(encoding: tiktoken.Encoding, token: int) -> bytes:
    """The bytes of one id; U+FFFD for one that the tokenizer has not."""
    try:
        return encoding.decode_single_token_bytes(int(token))
    except KeyError:
        return "\ufffd".encode()
