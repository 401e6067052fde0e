"""The files of a tokenizer as transformers reads them, for every tokenizer of npgpt.

"gpt2" and "byte" have no files of their own: theirs are made here. A byte is a BPE without merges,
whose 256 tokens are the characters that GPT-2's files write for the bytes.
"""

from __future__ import annotations

import json
from pathlib import Path

from npgpt.config import VOCABULARIES
from npgpt.data import gpt2_bpe
from npgpt.data.gpt2_bpe import BYTE_OF, END_OF_TEXT
from npgpt.data.tokenizer import Tokenizer
from npgpt.data.tokenizer_json import library, make_backend, parse, parse_merges
from npgpt.errors import InputError, RunError
from npgpt.weights.tokenizer_files import JSON, KINDS, TokenizerFiles

CONFIG = "tokenizer_config.json"
VOCAB, MERGES = KINDS[1]
HARD_TEXTS = (  # if one of them has other ids in the new files, the export fails
    "",
    " ",
    "Every effort moves you, doesn't it? I'LL go; we've 3.14159 of 1,000,000.",
    "  two spaces,\ttabs\t\t and\r\nline ends\n\n\n   before a word, and at the end   ",
    "\u00a0no-break\u2003em\u200bzero width\ufeff\x0b\x0c\x1c\x85\u2028",
    "caf\u00e9 cafe\u0301 \u00df \u01c4 \ufb01 \u017f \u212b \u0130\u0131",
    "\u4f60\u597d\u4e16\u754c \u65e5\u672c\u8a9e\u306e\u30c6\u30ad\u30b9\u30c8 \ud55c\uad6d\uc5b4",
    "\u0645\u0631\u062d\u0628\u0627 \u05e9\u05dc\u05d5\u05dd \u0939\u093f\u0928\u094d\u0926\u0940",
    "\u0663\u0664 \u2167 \u00bd\u00b2",
    "\U0001f469\u200d\U0001f52c\U0001f3fd \U0001f1e9\U0001f1ea \U0010ffff \U0001d54f",
    "def f(x):\n    return x**2  # ''' \"\"\" <html>&amp;</html>\n\t}\\\\//",
    "".join(map(chr, range(256))),
    f"one{END_OF_TEXT}two {END_OF_TEXT}\n{END_OF_TEXT}{END_OF_TEXT} <|endoftext <|end|>",
    "a" * 300 + "!" * 100 + "9" * 50,
)


def make_files(found: Tokenizer, context_length: int) -> dict[str, bytes]:
    """Return the content of a tokenizer's files by name: tokenizer.json and those beside it.

    Files that the model came with stay as they are; those that transformers needs are added. Raises
    RunError if the new files encode a text otherwise than `found`.
    """
    if isinstance(found.origin, TokenizerFiles):
        contents = dict(found.origin.contents)
        for old, new in zip(KINDS[2], KINDS[1], strict=True):  # OpenAI's names
            if old in contents:
                contents[new] = contents.pop(old)
    else:
        contents = make_pair(found.origin)
    files = TokenizerFiles(Path(str(found)), contents)
    if JSON not in contents:
        pair = parse(files, VOCAB), parse_merges(files, MERGES)
        contents[JSON] = make_backend(files, *pair).to_str().encode()
    if CONFIG not in contents:
        contents[CONFIG] = encode_json(tokenizer_config(found, context_length))
    require_equal(found, TokenizerFiles(files.path, contents))
    return contents


def make_pair(name: str) -> dict[str, bytes]:
    """Return vocab.json and merges.txt of "gpt2" or "byte"."""
    if name == "byte":
        vocabulary, merges = dict(BYTE_OF), f"{gpt2_bpe.VERSION}\n".encode()
    else:
        merges = gpt2_bpe.download_merges()
        lines = merges.decode().split("\n")[1:-1]
        tokens = [*BYTE_OF, *(line.replace(" ", "") for line in lines)]
        vocabulary = {token: number for number, token in enumerate(tokens)}
    vocabulary[END_OF_TEXT] = VOCABULARIES[name] - 1
    return {VOCAB: encode_json(vocabulary), MERGES: merges}


def tokenizer_config(found: Tokenizer, context_length: int) -> dict[str, object]:
    """Return the values of tokenizer_config.json: the class, and the special tokens."""
    values: dict[str, object] = {
        "tokenizer_class": "GPT2Tokenizer" if found.origin == "gpt2" else "PreTrainedTokenizerFast",
        "model_max_length": context_length,
        "clean_up_tokenization_spaces": False,
    }
    if found.eot_token is not None:
        text = (found.token_bytes(found.eot_token) or b"").decode()
        values |= dict.fromkeys(("bos_token", "eos_token"), text)
    return values


def require_equal(found: Tokenizer, files: TokenizerFiles) -> None:
    """Raise RunError unless tokenizer.json gives the ids and the texts of a tokenizer."""
    with library(files) as tokenizers:
        backend = tokenizers.Tokenizer.from_str(files.contents[JSON].decode())
        backend.no_truncation()
        backend.no_padding()
    for text in HARD_TEXTS:
        try:
            ids = found.encode(text)
        except InputError:  # a tokenizer without a token for some of it
            continue
        with library(files):
            other = backend.encode(text, add_special_tokens=False).ids
            decoded = backend.decode(other, skip_special_tokens=False)
        if other != ids or decoded != found.decode(ids):
            raise RunError(
                f"tokenizer.json gives {text!r:.60} other ids than the tokenizer {found}: nothing "
                "was written"
            )


def encode_json(values: dict) -> bytes:
    """Return the content of a JSON file."""
    return json.dumps(values, ensure_ascii=False).encode() + b"\n"
