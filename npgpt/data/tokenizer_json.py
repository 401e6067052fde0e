"""A model's own tokenizer, from its files, through the `tokenizers` library.

The files are untrusted: they are JSON and text, and nothing in them is executed. The library panics
on some invalid ones, and then writes to standard error. What it writes is held back.
"""

from __future__ import annotations

import os
import re
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from npgpt.data import gpt2_bpe
from npgpt.data.gpt2_bpe import BYTE_OF, END_OF_TEXT
from npgpt.data.tokenizer import TiktokenTokenizer, Tokenizer, library_errors
from npgpt.errors import InputError
from npgpt.weights.strict_json import parse_json_object
from npgpt.weights.tokenizer_files import JSON, KINDS, TokenizerFiles

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Backend

MISSING = "is read with the tokenizers library, which is missing: pip install tokenizers"
WORD_END = re.compile(r"\S(?=[ \n])")
PIECE = 1 << 17  # characters that are encoded at once, at least
SPECIAL = "eos_token", "bos_token", "unk_token", "pad_token"
holding = threading.RLock()


def read(files: TokenizerFiles) -> Tokenizer:
    """Return the tokenizer in these files; with GPT-2's vocabulary and merges, the name "gpt2".

    Raises InputError if they are invalid.
    """
    if JSON in files.contents:
        values = parse(files, JSON)
        vocabulary, merges = vocabulary_of(values)
        if gpt2_bpe.splits_as_gpt2(values) and (found := gpt2(files, vocabulary, merges)):
            return found
        text = files.contents[JSON].decode("utf-8")
        with library(files) as tokenizers:
            backend = tokenizers.Tokenizer.from_str(text)
        kind = values.get("decoder") or {}
        bytewise = isinstance(kind, dict) and kind.get("type") == "ByteLevel"
        return LibraryTokenizer(files, backend, bytewise=bytewise)
    names = next(kind for kind in KINDS if files.contents.keys() >= {*kind})
    vocabulary, merges = parse(files, names[0]), parse_merges(files, names[1])
    if found := gpt2(files, vocabulary, merges):
        return found
    return LibraryTokenizer(files, make_backend(files, vocabulary, merges), bytewise=True)


def gpt2(
    files: TokenizerFiles, vocabulary: Mapping[str, Any], merges: list[tuple[str, str]]
) -> Tokenizer | None:
    """Return GPT-2's tokenizer if these are its vocabulary, merges and settings, else None."""
    same = end_of_text(files) == END_OF_TEXT and not settings(files).get("add_prefix_space")
    published = gpt2_bpe.merges_if_gpt2(vocabulary, merges) if same else None
    return None if published is None else TiktokenTokenizer(gpt2_bpe.make_encoding(published))


def parse(files: TokenizerFiles, name: str) -> dict[str, Any]:
    """Return the JSON object in one of the files, {} if there is no such file."""
    if name not in files.contents:
        return {}
    return parse_json_object(files.contents[name], f"{files.path}: its {name}")


def vocabulary_of(values: dict[str, Any]) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """Return the vocabulary and the merges in a tokenizer.json, empty if it is no BPE."""
    model = values.get("model")
    if not isinstance(model, dict):
        return {}, []
    vocabulary, merges = model.get("vocab"), model.get("merges")
    if not isinstance(vocabulary, dict) or not isinstance(merges, list):
        return {}, []
    pairs = [pair.split(" ") if isinstance(pair, str) else pair for pair in merges]
    fit = all(isinstance(pair, list) and list(map(type, pair)) == [str, str] for pair in pairs)
    return (vocabulary, [(a, b) for a, b in pairs]) if fit else ({}, [])


def parse_merges(files: TokenizerFiles, name: str) -> list[tuple[str, str]]:
    """Return the merges in merges.txt or vocab.bpe: one per line, two tokens and a space."""
    try:
        lines = files.contents[name].decode("utf-8").split("\n")
    except UnicodeDecodeError:
        raise InputError(f"{files.path}: {name} is not UTF-8") from None
    merges = []
    for number, line in enumerate(lines, 1):
        line = line.rstrip("\r")
        if not line or line.startswith("#version"):
            continue
        pair = line.split(" ")
        if len(pair) != 2:
            raise InputError(f"{files.path}: {name}, line {number}: expected two tokens")
        merges.append((pair[0], pair[1]))
    return merges


def make_backend(
    files: TokenizerFiles, vocabulary: dict[str, Any], merges: list[tuple[str, str]]
) -> Backend:
    """Return the byte-level BPE of a vocabulary and merges, as transformers' GPT2Tokenizer."""
    added = parse(files, "added_tokens.json")
    for token, number in (vocabulary | added).items():
        if type(number) is not int or not 0 <= number < 1 << 32:
            raise InputError(f"{files.path}: the id of {token!r:.60} is {number!r:.60}")
    ordered = sorted(added, key=added.__getitem__)
    special = [value for key in SPECIAL if (value := content(settings(files).get(key)))]
    special = [token for token in (*special, END_OF_TEXT) if token in vocabulary | added]
    with library(files) as tokenizers:
        model = tokenizers.models.BPE(vocab=vocabulary, merges=merges)
        backend = tokenizers.Tokenizer(model)
        space = settings(files).get("add_prefix_space") is True
        backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=space)
        backend.decoder = tokenizers.decoders.ByteLevel()
        backend.add_tokens([tokenizers.AddedToken(t, normalized=False) for t in ordered])
        backend.add_special_tokens(
            [tokenizers.AddedToken(t, normalized=False, special=True) for t in special]
        )
    for token in ordered:
        if backend.token_to_id(token) != added[token]:
            raise InputError(
                f"{files.path}: added_tokens.json gives {token!r:.60} the id {added[token]}, but "
                f"the next one is {backend.token_to_id(token)}"
            )
    return backend


def settings(files: TokenizerFiles) -> dict[str, Any]:
    """Return the values of tokenizer_config.json, over those of special_tokens_map.json."""
    return parse(files, "special_tokens_map.json") | parse(files, "tokenizer_config.json")


def content(token: Any) -> str | None:
    """Return the text of a special token, which is a string or an object with its content."""
    found = token.get("content") if isinstance(token, dict) else token
    return found if isinstance(found, str) else None


def end_of_text(files: TokenizerFiles) -> str:
    """Return the token at the end of a text, GPT-2's unless the settings name another."""
    return content(settings(files).get("eos_token")) or END_OF_TEXT


class LibraryTokenizer(Tokenizer):
    """A tokenizer that the `tokenizers` library computes."""

    def __init__(self, files: TokenizerFiles, backend: Backend, *, bytewise: bool):
        self.origin, self.backend, self.is_bytewise = files, backend, bytewise
        with library(files) as tokenizers:
            backend.no_truncation()
            backend.no_padding()
            self.ids = backend.get_vocab(with_added_tokens=True)
            self.cuts = splits_at_spaces(backend, tokenizers)
        self.tokens = {number: token for token, number in self.ids.items()}
        self.n_vocab = max(self.tokens, default=-1) + 1
        self.eot_token = self.ids.get(end_of_text(files))

    def _bytes_of(self, token: int) -> bytes | None:
        text = self.tokens.get(token)
        if text is None:
            return None
        if not self.is_bytewise or any(char not in BYTE_OF for char in text):
            return text.encode()  # an added token, which is written as it is
        return bytes(BYTE_OF[char] for char in text)

    def _encode(self, text: str) -> list[int]:
        ids = []
        for piece in cut(text) if self.cuts else [text]:
            # Halves of surrogate pairs are no Unicode text. tiktoken replaces them in the same way.
            valid = piece.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
            with held_stderr():
                ids += self.backend.encode(valid, add_special_tokens=False).ids
        return ids

    def _decode(self, tokens: list[int], unknown: str) -> str:
        if self.is_bytewise:
            return super()._decode(tokens, unknown)
        runs: list[list[int]] = [[]]
        for token in tokens:
            if self.has(token):
                runs[-1].append(token)
            else:
                runs.append([])
        with library_errors(f"the tokenizer {self}"), held_stderr():
            return unknown.join(self.backend.decode(run, skip_special_tokens=False) for run in runs)


def splits_at_spaces(backend: Backend, tokenizers: Any) -> bool:
    """Return True if no token continues over the end of a word, where a space or a line end is."""
    split, added = backend.pre_tokenizer, backend.get_added_tokens_decoder().values()
    return (
        isinstance(split, tokenizers.pre_tokenizers.ByteLevel)
        and split.use_regex
        and not split.add_prefix_space
        and backend.normalizer is None
        and not any(t.lstrip or t.rstrip or t.single_word for t in added)
        and not any(char.isspace() for t in added for char in t.content)
    )


def cut(text: str) -> Iterator[str]:
    """Yield the pieces of a text, cut at ends of words. The library takes much memory per token."""
    start = 0
    while start < len(text):
        end = WORD_END.search(text, start + PIECE)
        stop = end.end() if end else len(text)
        yield text[start:stop]
        start = stop


@contextmanager
def library(files: TokenizerFiles) -> Iterator[Any]:
    """Yield the `tokenizers` library; its errors become an InputError that names the files."""
    try:
        import tokenizers
    except ImportError:
        raise InputError(f"the tokenizer in {files.path} {MISSING}") from None
    with library_errors(f"{files.path}: reading its tokenizer"), held_stderr():
        yield tokenizers


@contextmanager
def held_stderr() -> Iterator[None]:
    """Hold back what is written to file descriptor 2, and discard it if an exception is raised.

    A panic of a library in Rust writes there before it becomes an exception.
    """
    with holding:
        try:
            held = tempfile.TemporaryFile()
            saved = os.dup(2)
        except OSError:  # standard error is closed, or no directory can be written to
            yield
            return
        with held, open(saved, "wb", buffering=0) as stderr:
            os.dup2(held.fileno(), 2)
            try:
                yield
                held.seek(0)
                with suppress(OSError):
                    stderr.write(held.read())
            finally:
                os.dup2(stderr.fileno(), 2)
