"""Encode a text of any length in bounded memory, with the token ids of the whole.

GPT-2's pattern splits a text into words, and no merge crosses the end of a word. A cut where a word
ends therefore changes no id. A word ends before white space that follows another character, and
between a letter or a number and a character of another kind. A stretch of text without such an
end is one long word with at most two before it: `long_word.py` encodes it.
"""

import re
import unicodedata
from typing import Any

import numpy as np

from npgpt.arrays import Array
from npgpt.data.long_word import LongWords
from npgpt.data.tokenizer import TiktokenTokenizer, Tokenizer, library_errors

SPAN = 1 << 14  # characters per call of the library, which overflows its stack at a million blanks
EQUAL = re.compile(r"(.)\1*", re.DOTALL)
CONTRACTION = re.compile("[sdmt]|ll|ve|re")
UNKNOWN = "?"  # the kind of a character that another version of Unicode may know


class TextEncoder:
    """Encodes texts as plain text: <|endoftext|> is no token here, but text like any other."""

    def __init__(self, tokenizer: Tokenizer):
        self.tokenizer = tokenizer
        self.encoding: Any = getattr(tokenizer, "encoding", None)
        self.words: LongWords | None = None  # made for the first long word

    def encode(self, text: str) -> Array:
        """Return the token ids of a text as integers (N,). Raises InputError as the tokenizer."""
        if not isinstance(self.tokenizer, TiktokenTokenizer):
            return np.asarray(self.tokenizer.encode(text), np.uint32)
        if self.tokenizer.origin == "byte":
            return np.frombuffer(text.encode("utf-8", "replace"), np.uint8)
        with library_errors(f"the tokenizer {self.tokenizer}"):
            return self.encode_gpt2(text)

    def encode_gpt2(self, text: str) -> Array:
        """Return the token ids of a text, cut into spans if it is long."""
        found, start = [], 0
        while len(text) - start > SPAN:
            end = find_cut(text, start + 1, start + SPAN)
            if end:
                found.append(self.encode_span(text[start:end]))
            else:
                words, end = split_words(text, start)
                found += [self.encode_word(word) for word in words]
            start = end
        found.append(self.encode_span(text[start:]))
        return found[0] if len(found) == 1 else np.concatenate(found)

    def encode_span(self, text: str) -> Array:
        """Return the token ids that the library gives."""
        if hasattr(self.encoding, "encode_to_numpy"):  # without a Python object per token
            return self.encoding.encode_to_numpy(text, disallowed_special=())
        return np.array(self.encoding.encode_ordinary(text), np.uint32)

    def encode_word(self, word: str) -> Array:
        """Return the token ids of one word of any length."""
        if self.words is None:
            self.words = LongWords(self.encoding)
        return self.words.encode(word)


def find_cut(text: str, low: int, high: int) -> int:
    """Return the last end of a word from `low` to `high`, 0 if none is found.

    `low` must be at least 1.
    """
    for space in " \n":
        end = high + 1
        for _ in range(8):  # more than a few in vain are a run of blanks
            if (end := text.rfind(space, low, end)) < 0:
                break
            if not text[end - 1].isspace():
                return end
    after = kind(text[high])
    for at in range(high, low - 1, -1):
        before = kind(text[at - 1])
        if before != after and UNKNOWN not in (before, after):
            if before in "LN" or (before == "O" and after == "W"):
                return at
        after = before
    return 0


def split_words(text: str, start: int) -> tuple[list[str], int]:
    """Return the words of a stretch without a cut, and where it ends.

    `start` is where a word begins. White space, other characters and letters or numbers follow
    each other, in this order, and each may be missing.
    """
    blanks_end = end_of_run(text, start, "W")
    others_end = end_of_run(text, blanks_end, "O")
    end = others_end
    if end < len(text) and kind(text[end]) in "LN":
        end = end_of_run(text, end, kind(text[end]))
    if end < len(text) and kind(text[end]) == UNKNOWN:
        raise ValueError(f"U+{ord(text[end]):04X} in a word of more than {SPAN:,} characters")
    blanks, others = text[start:blanks_end], text[blanks_end:others_end]
    word, found = text[others_end:end], list[str]()
    if end == blanks_end:
        return [blanks], end
    lead = ""
    if blanks:
        lead = " " if blanks[-1] == " " else ""  # one blank belongs to the next word
        found += [blanks[:-1], "" if lead else blanks[-1]]
    if others == "'" and not lead and (suffix := CONTRACTION.match(word)):
        others, word = others + suffix[0], word[suffix.end() :]
    found += [lead + others, word] if others else [lead + word]
    return [one for one in found if one], end


def kind(char: str) -> str:
    """Return W for white space, L for a letter, N for a number, O for others, or UNKNOWN."""
    if char.isspace() and not "\x1c" <= char <= "\x1f":
        return "W"
    category = unicodedata.category(char)
    if category == "Cn":
        return UNKNOWN
    return category[0] if category[0] in "LN" else "O"


def end_of_run(text: str, start: int, wanted: str) -> int:
    """Return where the characters of a kind end that begin at `start`."""
    while start < len(text) and kind(text[start]) == wanted:
        start = EQUAL.match(text, start).end()  # type: ignore[union-attr]
    return start
