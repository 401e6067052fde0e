"""GPT-2's byte-pair encoding: its published merges, the file formats, and how to recognize it.

A token is a sequence of bytes. Files write each byte as one printable character: the byte's own, or
else the next one from U+0100 on (Radford et al. 2019). The ids are the 256 bytes in that order, one
token per merge, and the end of a text.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from npgpt.config import VOCABULARIES
from npgpt.system.time_limit import within

if TYPE_CHECKING:
    import tiktoken

END_OF_TEXT = "<|endoftext|>"
URL = "https://openaipublic.blob.core.windows.net/gpt-2/encodings/main/vocab.bpe"
SHA256 = "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5"
MAX_TIME = 120  # seconds for these 456 kB
VERSION = "#version: 0.2"  # the first line of a file of merges
SPLIT_PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"

PRINTABLE = [byte for byte in range(256) if chr(byte).isprintable() and chr(byte) != " "]
OTHERS = [byte for byte in range(256) if byte not in PRINTABLE]
BYTE_OF = {chr(byte): byte for byte in PRINTABLE} | {
    chr(0x100 + i): byte for i, byte in enumerate(OTHERS)
}  # by the character that represents it; in the order of the ids
SPACE = chr(0x100 + OTHERS.index(ord(" ")))


def download_merges() -> bytes:
    """Return the published file of merges. tiktoken downloads it once and compares its hash.

    Raises TimeoutError if that takes more than MAX_TIME.
    """
    from tiktoken.load import read_file_cached

    return within(MAX_TIME, functools.partial(read_file_cached, URL, SHA256))


@functools.lru_cache(1)
def make_encoding(merges: bytes) -> tiktoken.Encoding:
    """Return tiktoken.get_encoding("gpt2") in a third of its time: it reads two vocabularies."""
    import tiktoken

    return tiktoken.Encoding(
        name="gpt2",
        pat_str=SPLIT_PATTERN,
        mergeable_ranks={token: i for i, token in enumerate(parse_merges(merges))},
        special_tokens={END_OF_TEXT: VOCABULARIES["gpt2"] - 1},
        explicit_n_vocab=VOCABULARIES["gpt2"],
    )


def parse_merges(file: bytes) -> list[bytes]:
    """Return the tokens in the order of their ids. A line of the file is a merge of two tokens."""
    table = {ord(char): byte for char, byte in BYTE_OF.items()}
    table[ord(" ")] = ord(" ")
    lines = file.decode().replace(" ", "").replace(SPACE, " ").split("\n")[1:-1]
    pairs = [  # most lines are ASCII now, and need no table
        line.encode() if line.isascii() else line.translate(table).encode("latin-1")
        for line in lines
    ]
    return [bytes([byte]) for byte in BYTE_OF.values()] + pairs


def merges_if_gpt2(vocabulary: Mapping[str, int], merges: Sequence[Sequence[str]]) -> bytes | None:
    """Return the published file of merges if these merges and this vocabulary are GPT-2's."""
    lines = [VERSION, *(" ".join(pair) for pair in merges), ""]
    file = "\n".join(lines).encode("utf-8", "replace")
    if hashlib.sha256(file).hexdigest() != SHA256:
        return None
    tokens = [*BYTE_OF, *("".join(pair) for pair in merges), END_OF_TEXT]
    expected = {token: i for i, token in enumerate(tokens)}
    without = {token: i for token, i in expected.items() if token != END_OF_TEXT}
    return file if vocabulary in (expected, without) else None


def splits_as_gpt2(values: Mapping[str, Any]) -> bool:
    """Return True if a tokenizer.json, apart from its vocabulary and merges, is as GPT-2's."""
    added = values.get("added_tokens")
    special = [token for token in added if isinstance(token, dict)] if type(added) is list else []
    moved = ("single_word", "lstrip", "rstrip")
    return (
        splits_words_as_gpt2(values)
        and [(token.get("content"), token.get("id")) for token in special]
        == [(END_OF_TEXT, VOCABULARIES["gpt2"] - 1)]
        and not any(token.get(key) for token in special for key in moved)
    )


def splits_words_as_gpt2(values: Mapping[str, Any]) -> bool:
    """Return True if a tokenizer.json, apart from its tokens and merges, is as GPT-2's."""
    model, before = values.get("model"), values.get("pre_tokenizer")
    plain = ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "ignore_merges",
             "byte_fallback")  # fmt: skip
    return (
        isinstance(model, dict)
        and model.get("type", "BPE") == "BPE"
        and not any(model.get(key) for key in plain)
        and values.get("normalizer") is None
        and isinstance(before, dict)
        and before.get("type") == "ByteLevel"
        and before.get("add_prefix_space") is False
        and before.get("use_regex", True) is True
    )
