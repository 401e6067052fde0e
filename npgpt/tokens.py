"""Text <-> token ids: GPT-2's byte-pair encoding, and one token per byte that needs no download."""

from __future__ import annotations

from typing import TYPE_CHECKING

from npgpt.errors import InputError, RunError

if TYPE_CHECKING:
    import tiktoken

END_OF_TEXT = "<|endoftext|>"
VOCABULARIES = {"gpt2": 50257, "byte": 257}  # how many tokens each has


def tokenizer(name: str) -> tiktoken.Encoding:
    """The `tiktoken.Encoding` of that name: `encode`, `decode`, `n_vocab`, `eot_token`.

    "gpt2": 50257 tokens; tiktoken downloads its files once (to where TIKTOKEN_CACHE_DIR says).
    "byte": the 256 bytes and the end of a text, 257 tokens; nothing to download.
    """
    import tiktoken  # here, because `npgpt --help` does not need it

    if name == "byte":
        return tiktoken.Encoding(
            name="byte",
            pat_str=r"[\s\S]",
            mergeable_ranks={bytes([i]): i for i in range(256)},
            special_tokens={END_OF_TEXT: 256},
        )
    if name == "gpt2":
        try:
            return tiktoken.get_encoding("gpt2")
        except (OSError, ValueError) as error:  # no network (of `requests`), or a wrong hash
            raise RunError(
                "GPT-2's tokenizer files could not be downloaded "
                f"({type(error).__name__}). Set TIKTOKEN_CACHE_DIR to a folder that has them, or "
                "use --tokenizer byte, which needs none"
            ) from error
    raise InputError(f"there is no tokenizer {name!r}; there are {', '.join(VOCABULARIES)}")


def likely(vocab_size: int) -> str | None:
    """The tokenizer of a model that does not say which it has, by the size of its vocabulary."""
    if vocab_size >= VOCABULARIES["gpt2"]:  # some fill it up to a rounder number
        return "gpt2"
    return "byte" if vocab_size == VOCABULARIES["byte"] else None


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
