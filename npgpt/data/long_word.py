"""Byte-pair encoding of a word of any length, in linear time.

The library's time for one word is quadratic in older versions. Here, the word is encoded in windows
that overlap. If both windows have the same token at the same byte, the tokens of the left one up
to it and those of the right one after it are the encoding of both: a sequence of tokens is the
encoding of its bytes if and only if each pair of neighbours is the encoding of theirs, and here
each pair is in one of the two windows.

Source: https://github.com/github/rust-gems, crates/bpe/README.md
"""

from typing import Any

import numpy as np

from npgpt.arrays import Array

WINDOW = 1 << 11  # bytes


class LongWords:
    """Encodes words with the merges of a tiktoken.Encoding, without its pattern."""

    def __init__(self, encoding: Any):
        import tiktoken

        tokens = encoding.token_byte_values()
        ranks = {token: encoding.encode_single_token(token) for token in tokens}
        self.encoding = tiktoken.Encoding(
            name="words", pat_str=r"[\s\S]+", mergeable_ranks=ranks, special_tokens={}
        )
        self.lengths = np.zeros(max(ranks.values()) + 1, np.int64)  # bytes of each token
        for token, rank in ranks.items():
            self.lengths[rank] = len(token)

    def encode(self, word: str, window: int = WINDOW) -> Array:
        """Return the token ids of a word as integers (N,)."""
        data = word.encode("utf-8", "replace")
        if len(data) <= window:
            return self.encode_window(data)
        stop = previous_character(data, window)
        left, left_start, done = self.encode_window(data[:stop]), 0, list[Array]()
        while stop < len(data):
            ends = left_start + np.cumsum(self.lengths[left])
            starts = ends - self.lengths[left]
            for overlap in (window // 8, window // 2):
                begin = self.token_before(data, starts, stop - overlap)
                end = previous_character(data, min(begin + window, len(data)))
                right = self.encode_window(data[begin:end])
                right_ends = begin + np.cumsum(self.lengths[right])
                right_starts = right_ends - self.lengths[right]
                # A token of both: it begins at the same byte and has the same id.
                at = np.searchsorted(starts, right_starts)
                at[at == len(starts)] = 0
                common = np.flatnonzero((starts[at] == right_starts) & (left[at] == right))
                if common.size and end > stop:
                    break
            else:
                return self.encode(word, 2 * window)
            last = common[0]
            done.append(left[: at[last] + 1])
            left, left_start, stop = right[last + 1 :], int(right_ends[last]), end
        return np.concatenate([*done, left])

    def encode_window(self, data: bytes) -> Array:
        """Return the token ids of a part of a word."""
        return np.array(self.encoding.encode_ordinary(data.decode()), np.int64)

    def token_before(self, data: bytes, starts: Array, limit: int) -> int:
        """Return the last start of a token at or before `limit` that is the start of a character.

        Windows that begin with a token of the one before agree sooner.
        """
        found = starts[starts <= limit][::-1]
        return next((int(at) for at in found if data[at] & 0xC0 != 0x80), int(starts[0]))


def previous_character(data: bytes, at: int) -> int:
    """Return the start of a character at or before `at`, or the end of the data."""
    while at < len(data) and data[at] & 0xC0 == 0x80:
        at -= 1
    return at
