"""A model's own tokenizer: the ids and texts of transformers, and files that are invalid."""

import json
import os
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import npgpt
from npgpt.data import gpt2_bpe, text, tokenizer_json
from npgpt.data.text_stream import TextStream
from npgpt.errors import InputError
from npgpt.weights import tokenizer_files
from parity_tests.support import tokenizers_of
from parity_tests.support.run_transformers import ask, available
from parity_tests.support.runs import POSIX_ONLY
from parity_tests.support.tokenizers_of import END, bpe, metaspace, write, write_pair

STORY = text.read("bundled")
BPE, META = bpe(STORY), metaspace(STORY)
FAST = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END}
TEXTS = [
    "",
    "The lighthouse",
    f"one{END}two {END}{END} three",
    "  spaces   and\ttabs\n\n\nlines \n",
    "S\u00e8vres, \u201c\u00e9\u201d \u6f22\u5b57 \U0001f5fc",
    "they'll we're 12345 a_b <|endofprompt|> <pad>",
    "\x00\x7f\u00ad\u2028",
    STORY,
]
FOLDERS = {  # what writes the files
    "tokenizer.json": lambda folder: write(folder, BPE, **FAST),
    "tokenizer.json of a GPT2Tokenizer": lambda folder: write(
        folder, BPE, tokenizer_class="GPT2Tokenizer"
    ),
    "with another end of a text": lambda folder: write(
        folder, bpe(STORY, end="</s>", special=["<pad>"]), **FAST | {"eos_token": "</s>"}
    ),
    "SentencePiece's kind": lambda folder: write(folder, META, **FAST | {"eos_token": "<unk>"}),
    "vocab.json and merges.txt": lambda folder: write_pair(folder, BPE),
    "with a space in front": lambda folder: write_pair(folder, BPE, add_prefix_space=True),
    "with a token to pad": lambda folder: write_pair(
        folder, bpe(STORY, special=["<pad>"]), pad_token="<pad>"
    ),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A directory for each of these tokenizers, beside transformers' answers."""
    if not available():
        pytest.skip("no transformers here")
    found, jobs = tmp_path_factory.mktemp("tokenizers"), []
    for name, writer in FOLDERS.items():
        writer(found / name)
        (found / name / "config.json").write_text('{"model_type": "gpt2"}')
        jobs.append(["encode", found / name, TEXTS, found / f"{name}.answers"])
    ask(jobs)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", FOLDERS)
def test_ids_and_texts_are_transformers(folders, name):
    theirs = json.loads((folders / f"{name}.answers").read_text())
    ours = npgpt.tokenizer(folders / name)
    ids = [ours.encode(one) for one in TEXTS]
    assert ids == theirs["ids"]
    assert [ours.decode(one) for one in ids] == theirs["texts"]
    assert ours.eot_token == theirs["eos"]


@pytest.fixture(params=[BPE, META], ids=["bytewise", "SentencePiece's kind"])
def own(request, tmp_path):
    """A tokenizer of each kind, read from its file."""
    write(tmp_path / "own", request.param)
    return npgpt.tokenizer(tmp_path / "own" / "tokenizer.json")


def test_a_stream_is_the_decoded_text(own):
    for one in TEXTS[:-1]:
        ids = own.encode(one)
        stream = TextStream(own)
        assert "".join([*map(stream.feed, ids), stream.end()]) == own.decode(ids)
        for cut in range(len(ids)):  # a prompt, and what follows it
            stream = TextStream(own, ids[:cut])
            rest = "".join([*map(stream.feed, ids[cut:]), stream.end()])
            if "\ufffd" not in own.decode(ids[:cut]):
                assert own.decode(ids[:cut]) + rest == own.decode(ids)


def test_ids_that_the_tokenizer_does_not_have(own):
    word = own.encode("The")
    ids = [*word, own.n_vocab, *word, 1 << 62, -1]
    with pytest.raises(InputError, match=f"has no token {own.n_vocab}, only ids below"):
        own.decode(ids)
    shown = own.decode(ids, unknown="\ufffd")
    assert shown.replace(" ", "") == "The\ufffdThe\ufffd\ufffd"
    stream = TextStream(own)
    assert "".join([*map(stream.feed, ids), stream.end()]).replace(" ", "") == shown.replace(
        " ", ""
    )


@settings(deadline=None, max_examples=50)
@given(st.text(st.characters(exclude_categories=[])))
def test_any_text_is_encoded(text):
    """Halves of surrogate pairs, too: they become U+FFFD, as in tiktoken."""
    own = tokenizer_json.read(FILES)
    expected = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    assert own.decode(own.encode(text)) == expected
    assert npgpt.tokenizer("byte").encode(text) == list(expected.encode())


FILES = tokenizer_files.TokenizerFiles(
    Path("own"), {"tokenizer.json": BPE.to_str().encode(), "tokenizer_config.json": b"{}"}
)


# GPT-2's own


@pytest.fixture(scope="module")
def gpt2():
    if not os.environ.get("TIKTOKEN_CACHE_DIR"):
        pytest.skip("TIKTOKEN_CACHE_DIR does not name a folder with GPT-2's byte-pair files")
    return tokenizers_of.gpt2()


@pytest.mark.slow
def test_files_with_gpt2s_vocabulary_and_merges_are_gpt2(gpt2, bpe, tmp_path, monkeypatch):
    write(tmp_path / "json", gpt2)
    write_pair(tmp_path / "pair", gpt2)
    write_pair(tmp_path / "openai", gpt2, names=("encoder.json", "vocab.bpe"))
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))  # nothing is downloaded
    for name in ("json", "pair", "openai"):
        found = npgpt.tokenizer(tmp_path / name)
        assert (found.origin, found.n_vocab, found.eot_token) == ("gpt2", 50257, 50256)
    assert found.encode(STORY) == bpe.encode(STORY) == gpt2.encode(STORY).ids
    assert found.decode(iter(found.encode(STORY))) == STORY


NEARLY = {  # changes of the tokenizer.json of GPT-2
    "two ids exchanged": lambda v: v["model"]["vocab"].update({"a": 65, "b": 64}),
    "a merge less": lambda v: v["model"]["merges"].pop(),
    "two merges exchanged": lambda v: v["model"]["merges"].insert(0, v["model"]["merges"].pop(1)),
    "a space in front": lambda v: v["pre_tokenizer"].update(add_prefix_space=True),
    "other words": lambda v: v["pre_tokenizer"].update(use_regex=False),
    "dropout": lambda v: v["model"].update(dropout=0.1),
    "lower case": lambda v: v.update(normalizer={"type": "Lowercase"}),
    "another special token": lambda v: v["added_tokens"].append(
        v["added_tokens"][0] | {"id": 50257, "content": "<pad>"}
    ),
}


@pytest.mark.parametrize("name", NEARLY)
def test_nearly_gpt2s_are_not_gpt2(gpt2_json, name):
    values = json.loads(gpt2_json)
    NEARLY[name](values)
    vocabulary, merges = tokenizer_json.vocabulary_of(values)
    same = gpt2_bpe.splits_as_gpt2(values)
    assert not same or gpt2_bpe.merges_if_gpt2(vocabulary, merges) is None


@pytest.fixture(scope="module")
def gpt2_json(gpt2):
    text = gpt2.to_str()
    values = json.loads(text)
    assert gpt2_bpe.splits_as_gpt2(values)
    assert gpt2_bpe.merges_if_gpt2(*tokenizer_json.vocabulary_of(values))
    return text


def test_another_end_of_a_text_is_not_gpt2(gpt2_json):
    files = {"tokenizer.json": gpt2_json.encode(), "tokenizer_config.json": b'{"eos_token": "!"}'}
    own = tokenizer_json.read(tokenizer_files.TokenizerFiles(Path("own"), files))
    assert (own.eot_token, own.n_vocab) == (0, 50257)
    assert own.origin != "gpt2"


# Files that are invalid


def forged(**changes):
    """Return a tokenizer.json with other fields."""
    return json.dumps(json.loads(BPE.to_str()) | changes)


def model(**changes):
    return forged(model=json.loads(BPE.to_str())["model"] | changes)


INVALID = {  # tokenizer.json, and the error
    "nothing": ("", "is not JSON"),
    "half of it": (forged()[:3000], "is not JSON"),
    "nested": ("[" * 100_000, "is not JSON"),
    "a list": ("[]", "is not a JSON object"),
    "NaN": (forged(version=float("nan")), "it contains NaN"),
    "a name twice": ('{"model": 1, "model": 2}', "a name occurs twice"),
    "a huge id": (model(vocab={"a": 10**40}), "reading its tokenizer failed: invalid type"),
    "a negative id": (model(vocab={"a": -1}, merges=[]), "expected u32"),
    "a number for the added tokens": (forged(added_tokens=3), "invalid type: integer `3`"),
    "no model": ("{}", "Model missing"),
    "another model": (forged(model={"type": "Neural"}), "reading its tokenizer failed"),
    "a merge of no tokens": (model(merges=[["zz", "qq"]]), "out of vocabulary"),
    "merges that are numbers": (model(merges=[[1, 2]]), "reading its tokenizer failed"),
    "an invalid pattern": (
        forged(pre_tokenizer={"type": "Split", "pattern": {"Regex": "(("}, "behavior": "Isolated",
                              "invert": False}), "unmatched parenthesis",
    ),
    # the library panics
    "a prefix that is no token's": (model(continuing_subword_prefix="\u00e9\u00e9"), "failed: "),
    "an invalid table of characters": (
        forged(normalizer={"type": "Precompiled", "precompiled_charsmap": "AAAA"}), "failed: ",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", INVALID)
def test_invalid_files_are_one_line(tmp_path, capfd, name):
    content, says = INVALID[name]
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(InputError, match=says) as caught:
        npgpt.tokenizer(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_a_pattern_that_backtracks_without_end(tmp_path, capfd):
    split = {"type": "Split", "pattern": {"Regex": "(a|a)*$"}, "behavior": "Isolated",
             "invert": False}  # fmt: skip
    (tmp_path / "tokenizer.json").write_text(forged(pre_tokenizer=split))
    own = npgpt.tokenizer(tmp_path)
    with pytest.raises(InputError, match=r"the tokenizer .* failed: Onig"):
        own.encode("a" * 40 + "!")
    assert capfd.readouterr() == ("", "")


PAIRS = {  # vocab.json, merges.txt, and the error
    "no JSON": ("{", "a b\n", "is not JSON"),
    "a word for an id": ('{"a": "x"}', "", "the id of 'a' is 'x'"),
    "a negative id": ('{"a": -1}', "", "the id of 'a' is -1"),
    "true for an id": ('{"a": true}', "", "the id of 'a' is True"),
    "three tokens": ('{"a": 0}', "#version: 0.2\na b c\n", "merges.txt, line 2: expected two tok"),
    "no token": ('{"a": 0}', "a b\n", "out of vocabulary"),
    "other bytes": ('{"a": 0}', b"\xff\n", "merges.txt is not UTF-8"),
}


@pytest.mark.parametrize("name", PAIRS)
def test_invalid_pairs_are_one_line(tmp_path, capfd, name):
    vocabulary, merges, says = PAIRS[name]
    (tmp_path / "vocab.json").write_text(vocabulary)
    (tmp_path / "merges.txt").write_bytes(merges if isinstance(merges, bytes) else merges.encode())
    with pytest.raises(InputError, match=says):
        npgpt.tokenizer(tmp_path)
    assert capfd.readouterr() == ("", "")


def test_added_tokens_have_the_ids_in_their_file(tmp_path):
    write_pair(tmp_path, BPE)
    added = tmp_path / "added_tokens.json"
    added.write_text('{"<b>": 301, "<a>": 300}')
    own = npgpt.tokenizer(tmp_path)
    assert own.encode("<a><b>") == [300, 301]
    added.write_text('{"<b>": 400}')
    with pytest.raises(InputError, match="gives '<b>' the id 400, but the next one is 300"):
        npgpt.tokenizer(tmp_path)


def test_lengths_in_the_file_are_ignored(tmp_path):
    """The file of a tokenizer may say how long a text may be: a text is encoded completely."""
    limited = bpe(STORY)
    limited.enable_truncation(2)
    limited.enable_padding(length=10_000)
    write(tmp_path, limited)
    assert npgpt.tokenizer(tmp_path).encode("The lamp is lit") == BPE.encode("The lamp is lit").ids


@POSIX_ONLY
@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "merges.txt"])
def test_only_regular_files_of_a_limited_size_are_read(tmp_path, name):
    (write_pair if name == "merges.txt" else write)(tmp_path, BPE)
    path = tmp_path / name
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    with pytest.raises(InputError, match="cannot be read: it is a pipe, not a file"):
        npgpt.tokenizer(tmp_path)
    path.unlink()
    path.mkdir()
    with pytest.raises(InputError, match="cannot be read: it is a directory, not a file"):
        npgpt.tokenizer(tmp_path)
    path.rmdir()
    with open(path, "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(InputError, match="at most 67,108,864 are read"):
        npgpt.tokenizer(tmp_path)


def test_a_long_text_is_encoded_in_pieces(own, monkeypatch):
    """The ids are those of the whole text."""
    assert own.cuts == own.is_bytewise
    whole = [own.encode(one) for one in TEXTS]
    monkeypatch.setattr(tokenizer_json, "PIECE", 3)
    assert [own.encode(one) for one in TEXTS] == whole
    assert len(list(tokenizer_json.cut(STORY))) > 1000


@settings(deadline=None, max_examples=50)
@given(st.text(st.sampled_from("a1. \n\t\u00a0\u2028\x1c\x85'\u3000")))
def test_where_a_text_is_cut(text):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokenizer_json, "PIECE", 0)
        found = tokenizer_json.read(FILES).encode(text)
    assert found == BPE.encode(text).ids


@pytest.mark.parametrize(
    "change",
    [{"lstrip": True}, {"rstrip": True}, {"single_word": True}, {"content": "a b"}],
    ids=str,
)
def test_a_special_token_that_takes_spaces_is_not_cut(tmp_path, change):
    token = {"id": 300, "content": "<x>", "single_word": False, "lstrip": False, "rstrip": False,
             "normalized": False, "special": True} | change  # fmt: skip
    values = json.loads(BPE.to_str())
    (tmp_path / "tokenizer.json").write_text(
        json.dumps(values | {"added_tokens": [*values["added_tokens"], token]})
    )
    assert not npgpt.tokenizer(tmp_path).cuts


def test_without_the_library(tmp_path, monkeypatch):
    write(tmp_path, BPE)
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(InputError, match="is missing: pip install tokenizers"):
        npgpt.tokenizer(tmp_path)
    assert npgpt.tokenizer("byte").encode("a") == [97]


@POSIX_ONLY
def test_what_others_write_to_standard_error_is_shown(capfd):
    with tokenizer_json.held_stderr():
        os.write(2, b"note")
    assert capfd.readouterr().err == "note"
    with pytest.raises(KeyError), tokenizer_json.held_stderr():
        os.write(2, b"panic")
        raise KeyError
    assert capfd.readouterr().err == ""
