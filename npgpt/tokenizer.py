"""Text <-> token ids: GPT-2's byte-pair encoding, and one token per byte that needs no download."""

from __future__ import annotations

from typing import TYPE_CHECKING

from npgpt.errors import InputError, RunError

if TYPE_CHECKING:
    import tiktoken

END_OF_TEXT = "<|endoftext|>"
NAMES = ("gpt2", "byte")


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
        except OSError as error:  # what `requests` raises is an OSError as well
            raise RunError(
                "GPT-2's tokenizer files could not be downloaded "
                f"({type(error).__name__}). Set TIKTOKEN_CACHE_DIR to a folder that has them, or "
                "use --tokenizer byte, which needs none"
            ) from error
    raise InputError(f"there is no tokenizer {name!r}; there are {', '.join(NAMES)}")


def encode(encoding: tiktoken.Encoding, text: str) -> list[int]:
    """The ids of a text in which <|endoftext|>, and no other special token, means itself."""
    return encoding.encode(text, allowed_special={END_OF_TEXT}, disallowed_special=())
