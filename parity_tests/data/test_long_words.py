"""Long texts and long words have the token ids of the whole: tiktoken's, and an own exact BPE's."""

import heapq
import os
import random

import numpy as np
import pytest

from npgpt.data import long_word, text_encoder
from npgpt.data.long_word import LongWords
from npgpt.data.text_encoder import TextEncoder
from npgpt.data.tokenizer import TiktokenTokenizer, tokenizer

POOLS = (
    "a", " ", "\n", "ab", "  \n", "=", "-=", "'s", "ll'", "ACGT", "0123456789", "äöü", "漢字仮名",
    "é ' s", "'", "' s", "\u3000x", "🙂", "abc 123 ,.!'\n", "aé漢1 '-\n\t\u00a0", "\x1c\x1f a",
)  # fmt: skip


def small_encoding():
    """GPT-2's pattern with merges of a few letters and blanks, of which some compete."""
    import tiktoken

    from npgpt.data import gpt2_bpe

    merges = (
        b"aa|bb|ab|  |    |aaa|ba|abab|bab|==|-=|=-|aaaa|\n\n|ACGT|AC|GT|CG|'s| a|lll|ll".split(
            b"|"
        )
    )
    tokens = [bytes([i]) for i in range(256)]
    # A token is reached by merges of two tokens that exist, as in GPT-2's own vocabulary.
    for token in sorted(merges, key=len):
        pieces = {token[i : i + 1] for i in range(len(token))} | set(tokens)
        if any(token[:i] in pieces and token[i:] in tokens for i in range(1, len(token))):
            tokens.append(token)
    return tiktoken.Encoding(
        name="gpt2",
        pat_str=gpt2_bpe.SPLIT_PATTERN,
        mergeable_ranks={token: i for i, token in enumerate(tokens)},
        special_tokens={"<|endoftext|>": len(tokens)},
    )


@pytest.fixture(scope="module", params=["small", "gpt2"])
def encoder(request):
    if request.param == "small":
        return TextEncoder(TiktokenTokenizer(small_encoding()))
    if not os.environ.get("TIKTOKEN_CACHE_DIR"):
        pytest.skip("TIKTOKEN_CACHE_DIR does not name a folder with GPT-2's byte-pair files")
    return TextEncoder(tokenizer("gpt2"))


def texts(count, seed):
    """Random texts with runs of equal, periodic and random characters."""
    rng = random.Random(seed)
    for _ in range(count):
        parts = []
        for _ in range(rng.randint(1, 6)):
            pool, size = rng.choice(POOLS), rng.choice([1, 3, 50, 400])
            if rng.random() < 0.6:
                parts += rng.choices(pool, k=size)
            else:
                parts.append(pool * (size // len(pool) + 1))
        yield "".join(parts)


@pytest.mark.parametrize("span, window", [(7, 16), (64, 32), (300, 64)])
def test_the_ids_are_those_of_the_whole_text(span, window, encoder, monkeypatch):
    monkeypatch.setattr(text_encoder, "SPAN", span)
    monkeypatch.setattr(LongWords.encode, "__defaults__", (window,))
    for text in texts(150, span):
        expected = encoder.encoding.encode_ordinary(text)
        assert encoder.encode(text).tolist() == expected, repr(text)


@pytest.mark.parametrize("text", ["a", " ", "ab", "\n", "=", "漢字", "x1", " '", "ACGT"])
def test_long_runs_at_the_real_sizes(text, encoder):
    text = "He said: " + text * (50_000 // len(text)) + "'s end. "
    assert encoder.encode(text).tolist() == encoder.encoding.encode_ordinary(text)


class ExactBPE:
    """Byte-pair encoding of one word, merge by merge: the lowest rank, then the leftmost."""

    def __init__(self, encoding):
        self.ranks = {t: encoding.encode_single_token(t) for t in encoding.token_byte_values()}

    def encode(self, word):
        parts = [word[i : i + 1] for i in range(len(word))]
        following = [*range(1, len(parts)), -1]
        before = list(range(-1, len(parts) - 1))
        heap = []

        def consider(i):
            if i >= 0 and following[i] >= 0:
                both = parts[i] + parts[following[i]]
                if both in self.ranks:
                    heapq.heappush(heap, (self.ranks[both], i, both))

        for i in range(len(parts)):
            consider(i)
        while heap:
            _, i, both = heapq.heappop(heap)
            j = following[i] if parts[i] else -1
            if j < 0 or parts[i] + parts[j] != both:
                continue
            parts[i], parts[j], following[i] = both, b"", following[j]
            if following[j] >= 0:
                before[following[j]] = i
            consider(i)
            consider(before[i])
        return [self.ranks[part] for part in parts if part]


@pytest.mark.parametrize("word", ["a" * 9999, "ab" * 3000, "abba" * 2500, "漢" * 3333])
def test_an_own_exact_bpe_agrees_with_tiktoken(word, encoder):
    assert ExactBPE(encoder.encoding).encode(word.encode()) == encoder.encoding.encode_ordinary(
        word
    )


@pytest.mark.slow
def test_a_million_characters_at_which_tiktoken_fails(encoder):
    """A run of blanks at the end of a text is one word, and overflows the library's stack."""
    exact = ExactBPE(encoder.encoding)
    size = 1_000_003 if len(exact.ranks) > 300 else 100_003
    assert encoder.encode(" " * size).tolist() == exact.encode(b" " * size)


def test_a_word_is_cut_at_characters(encoder, monkeypatch):
    windows = []
    words = LongWords(encoder.encoding)
    encode = words.encode_window
    monkeypatch.setattr(
        words, "encode_window", lambda data: windows.append(len(data)) or encode(data)
    )
    found = words.encode("漢字" * 20_000)
    assert max(windows) <= long_word.WINDOW
    assert sum(windows) < 2 * 120_000
    assert np.array_equal(found, encoder.encoding.encode_ordinary("漢字" * 20_000))
