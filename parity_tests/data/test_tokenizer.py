"""Text <-> ids: byte by byte, and GPT-2's way."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import npgpt
from npgpt.config import VOCABULARIES
from npgpt.errors import DownloadError, InputError

BYTE = npgpt.tokenizer("byte")


@settings(deadline=None)
@given(st.text())
def test_bytes_there_and_back(text):
    ids = BYTE.encode(text)
    assert ids == list(text.encode())
    assert BYTE.decode(ids) == text


def test_bytes_are_an_encoding_like_any_other():
    assert BYTE.n_vocab == 257
    assert BYTE.eot_token == 256
    assert BYTE.encode("a\nb") == [97, 10, 98]
    assert BYTE.token_bytes(200) == b"\xc8"


def test_the_end_of_a_text_is_one_token_and_nothing_else_is_special():
    text = "a<|endoftext|>b<|endofprompt|><|endoftext"
    ids = BYTE.encode(text)
    assert ids[:3] == [97, 256, 98]
    assert ids.count(256) == 1
    assert BYTE.decode(ids) == text


def test_what_is_no_text_shows_as_such():
    """Bytes that are no UTF-8, and ids beyond the tokenizer's."""
    assert BYTE.decode([97, 0xE9, 98]) == "a\ufffdb"
    ids = [97, 257, 98, 50_000, 1 << 62]
    assert BYTE.decode(ids, unknown="\ufffd") == "a\ufffdb\ufffd\ufffd"
    assert BYTE.decode(ids, unknown="") == "ab"


def test_the_names():
    with pytest.raises(InputError, match="unknown tokenizer 'gpt3'; expected gpt2, byte, a tok"):
        npgpt.tokenizer("gpt3")


def test_gpt2_as_the_book_prints_it(bpe):
    text = "Hello, do you like tea? <|endoftext|> In the sunlit terracesof someunknownPlace."
    ids = [15496, 11, 466, 345, 588, 8887, 30, 220, 50256, 554, 262, 4252, 18250, 8812, 2114, 1659,
           617, 34680, 27271, 13]  # fmt: skip
    assert bpe.encode(text) == ids
    assert bpe.decode(ids) == text
    assert bpe.encode("Every effort moves you") == [6109, 3626, 6100, 345]


def test_the_vocabularies_are_as_large_as_the_settings_say(bpe):
    for name, size in VOCABULARIES.items():
        assert npgpt.tokenizer(name).n_vocab == size


def test_gpt2_is_tiktokens(bpe):
    import tiktoken

    theirs = tiktoken.get_encoding("gpt2")
    for token in range(theirs.n_vocab):
        assert bpe.token_bytes(token) == theirs.decode_single_token_bytes(token)

    @settings(deadline=None)
    @given(st.text())
    def check(text):
        assert bpe.encode(text) == theirs.encode(text, disallowed_special=())

    check()


@pytest.mark.parametrize("error", [ConnectionError("no route"), ValueError("Hash mismatch")])
def test_gpt2_without_a_network(monkeypatch, error):
    import tiktoken.load

    def unreachable(address, sha256):
        raise error

    monkeypatch.setattr(tiktoken.load, "read_file_cached", unreachable)
    with pytest.raises(DownloadError, match=r"could not be downloaded .*TIKTOKEN_CACHE_DIR.*byte"):
        npgpt.tokenizer("gpt2")


def test_gpt2_without_a_network_for_real(monkeypatch, tmp_path):
    """Through tiktoken and requests, to a port without a server."""
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(DownloadError, match=r"could not be downloaded \(\w*ProxyError\)"):
        npgpt.tokenizer("gpt2")
