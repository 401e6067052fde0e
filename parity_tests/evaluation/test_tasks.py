"""npgpt evaluate --task: the protocols, by hand on a byte model, and files that are not trusted."""

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest

import npgpt
import npgpt.ops
from npgpt.evaluation import hellaswag, task, wikitext
from npgpt.evaluation.requests import encode_pair, rolling_windows
from npgpt.evaluation.tasks import TASKS, find
from npgpt.inference.scoring import score
from parity_tests.support import task_files

CONFIG = npgpt.Config(vocab_size=257, context_length=128, n_layer=1, n_head=2, n_embd=16)
BYTES = npgpt.tokenizer("byte")


@pytest.fixture(scope="module")
def model():
    return npgpt.GPT(CONFIG, seed=3, scheme="book", tokenizer="byte", ops=npgpt.ops)


def log_prob(model, context, continuation):
    """Return the log-probability of bytes after bytes, and True if each is the most likely."""
    tokens = np.array([*(context.encode() or [256]), *continuation.encode()])[-129:]
    logits = model.logits(tokens[None, :-1])[0].astype(np.float64)
    log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    n, at = len(continuation.encode()), np.arange(len(tokens) - 1)
    greedy = (logits.argmax(-1) == tokens[1:])[-n:].all()
    return log_probs[at, tokens[1:]][-n:].sum(), greedy


def metrics(model, name, path, protocol=None, limit=None):
    chosen = find(name, protocol)
    items = task.read_items(chosen, path, BYTES, CONFIG.context_length, limit)
    found = task.measure(chosen, items, score(model, task.join_requests(items)))
    return {one.name: one for one in found}


def test_lambada(model, tmp_path):
    found = metrics(model, "lambada", task_files.write(tmp_path)["lambada"])
    pairs = [text.rpartition(" ") for text in task_files.LAMBADA]
    expected = [log_prob(model, context, f" {word}") for context, _, word in pairs]
    log_probs = np.array([one for one, _ in expected])
    error = log_probs.std(ddof=1) / math.sqrt(len(pairs))
    assert found["perplexity"].value == pytest.approx(math.exp(-log_probs.mean()), rel=1e-5)
    assert found["perplexity"].error == pytest.approx(math.exp(-log_probs.mean()) * error, rel=1e-4)
    assert found["accuracy"].value == np.mean([greedy for _, greedy in expected])


@pytest.mark.parametrize("protocol", ["harness", "karpathy"])
def test_hellaswag(model, tmp_path, protocol):
    found = metrics(model, "hellaswag", task_files.write(tmp_path)["hellaswag"], protocol)
    right, right_norm = [], []
    for activity, a, b, endings, label in task_files.HELLASWAG:
        context = f"{a} {b}".strip()
        if protocol == "harness":
            context = hellaswag.clean(f"{activity}: {a} {b.capitalize()}")
            endings = [hellaswag.clean(ending) for ending in endings]
        log_probs = [log_prob(model, context, f" {ending}")[0] for ending in endings]
        extra = protocol == "karpathy"  # the space is a token too
        norms = [p / (len(e) + extra) for p, e in zip(log_probs, endings, strict=True)]
        right.append(np.argmax(log_probs) == label)
        right_norm.append(np.argmax(norms) == label)
    assert found["accuracy"].value == np.mean(right)
    assert found["accuracy_norm"].value == np.mean(right_norm)
    assert found["accuracy"].error == pytest.approx(np.std(right, ddof=1) / 2)


def test_marks_in_brackets():
    text = " a [title] b [step] c [] d ] e [f\n] [g] h [i"
    assert hellaswag.clean(text) == re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". "
                                           )).replace("  ", " ")  # fmt: skip


def test_wikitext(model, tmp_path):
    path = task_files.write(tmp_path)["wikitext"]
    found = metrics(model, "wikitext", path)
    pages = list(wikitext.split_pages(path.read_text("utf-8")))
    assert [page.split("\n")[0] for page in pages] == [" = The Lamp =", " = The Ship ="]
    total, words, size = 0.0, 0, 0
    for page in pages:
        ids = [256, *wikitext.detokenize(page).encode()]
        for end in range(1, len(ids), 128):  # windows of the context length
            stop = min(end + 128, len(ids))
            window = np.array(ids[max(0, stop - 129) : stop])
            logits = model.logits(window[None, :-1])[0].astype(np.float64)
            log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
            each = log_probs[np.arange(len(window) - 1), window[1:]]
            total += each[-(stop - end) :].sum()
        words, size = words + len(re.split(r"\s+", page)), size + len(page.encode())
    assert found["word_perplexity"].value == pytest.approx(math.exp(-total / words), rel=1e-4)
    assert found["byte_perplexity"].value == pytest.approx(math.exp(-total / size), rel=1e-5)
    assert found["bits_per_byte"].value == pytest.approx(-total / size / math.log(2), rel=1e-5)
    documents = path.with_suffix(".jsonl")
    documents.write_text(task_files.json_lines([{"page": pages[0]}, {"text": pages[1]}]))
    assert metrics(model, "wikitext", documents) == found


def test_the_standard_error_of_a_perplexity_is_the_jackknifes():
    """Leave out each article in turn: the spread of these perplexities, of 200 articles."""
    rng = np.random.default_rng(5)
    words = rng.integers(50, 500, 200)
    log_probs = -words * rng.normal(4, 0.5, 200) - rng.normal(0, 20, 200)
    found = task.perplexity("x", log_probs, words)
    assert found.value == pytest.approx(math.exp(-log_probs.sum() / words.sum()))
    others = np.exp(-(log_probs.sum() - log_probs) / (words.sum() - words))
    jackknife = math.sqrt(199 / 200 * np.square(others - others.mean()).sum())
    assert found.error == pytest.approx(jackknife, rel=0.02)


def test_detokenized():
    assert wikitext.detokenize(task_files.WIKITEXT).split("\n\n") == [
        "\n= The Lamp =",
        'The lamp was lit in 1,821, and the keeper\'s book says: "it burns". It stands (as\n'
        "planned) 3.5 m high; [sic], he said. {none}",
        "== The keeper ==",
        "He was a well-known man, the others' friend. 'A light', he wrote, at 40\u00b0N .",
        "= The Ship =",
        "No one saw the ship! Did it sink ?",
        "=== Log ===",
        "N miles .\n",
    ]


def test_pairs_and_windows():
    assert encode_pair(BYTES, "a b  ", "c") == ([97, 32, 98], [32, 32, 99])
    assert encode_pair(BYTES, "", " c") == ([256], [32, 99])
    assert encode_pair(BYTES, "", "<|endoftext|>c") == ([256], [99])
    for context, continuation in (("", ""), ("a", ""), ("  ", "c")):
        with pytest.raises(ValueError, match="no token is left to predict"):
            encode_pair(BYTES, context, continuation)
    windows = list(rolling_windows(BYTES, "abcdefgh", 3))
    assert windows == [
        ([256], [97, 98, 99]), ([99], [100, 101, 102]), ([101, 102], [103, 104])
    ]  # fmt: skip
    assert list(rolling_windows(BYTES, "", 3)) == []


QUESTION = dict(ctx_a="a", ctx_b="b", ctx="a b", activity_label="c", endings=["d", "e"], label=0)
BAD = {
    "lambada": {
        "": "is empty",
        '{"text": "a b"}\n\n[1]\n': "line 3 is not a JSON object: [1]",
        '{"text": "a b"}\n{"text": 3}\n': 'line 2: its "text" must be a text, not 3',
        '{"txt": "a b"}\n': "line 1: it has no \"text\", only 'txt'",
        '{"text": "a b"\n': "line 1 is not JSON",
        '{"text": NaN}\n': "line 1 is not JSON",
        '{"text": "a", "text": "b"}\n': "line 1 is not JSON (a name occurs twice)",
        '{"text": "' + '\\ud800"}\n': "line 1 is not JSON",
        '{"text": ""}': 'line 1: its "text" is empty',
        "[" * 10**5: "line 1 is not JSON",
        "text\n": "line 1 is not JSON",
        "\0\0": "line 1 is not JSON",
    },
    "hellaswag": {
        json.dumps(QUESTION | {"label": 2}): 'line 1: its "label" must be 0 to 1, not 2',
        json.dumps(QUESTION | {"label": ""}): 'line 1: its "label" must be 0 to 1',
        json.dumps(QUESTION | {"label": True}): 'line 1: its "label" must be 0 to 1, not True',
        json.dumps(QUESTION | {"endings": ["d"]}): 'its "endings" must be a list of texts',
        json.dumps(QUESTION | {"endings": ["d", 3]}): 'its "endings" must be a list of texts',
        json.dumps(QUESTION | {"endings": "de"}): 'its "endings" must be a list of texts',
        json.dumps({"text": "a b"}): "line 1: it has no \"ctx_a\", only 'text'",
        json.dumps(
            QUESTION | {"endings": ["d", "d" * 200]}
        ): "line 1: 201 tokens to predict, but the context length is 128",
    },
    "wikitext": {
        '{"page": " "}': "line 1: the document is empty",
        '{"page": 3}': 'its "page" must be a text',
        " = a = \n \xff": "is not UTF-8",
        "\xff\xfea\0": "not UTF-8",
    },
}


@pytest.mark.parametrize(
    ("name", "contents"), [(name, text) for name, texts in BAD.items() for text in texts]
)
def test_bad_files_are_one_error_with_the_number_of_the_line(name, contents, model, tmp_path):
    path = tmp_path / "data"
    path.write_bytes(contents.encode("latin1"))
    with pytest.raises(npgpt.InputError) as caught:
        metrics(model, name, path)
    assert BAD[name][contents] in str(caught.value) and "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("text", ["[" * 10**6, "(" * 10**6, '"' * 10**6, "( " * 10**6, " " * 10**6])
def test_the_time_for_a_text_is_linear(text):
    assert len(hellaswag.clean(text)) <= len(text)
    assert len(wikitext.detokenize(text)) <= len(text)


@pytest.fixture
def folder(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model.save("model.h5")
    return task_files.write(Path())


@pytest.mark.slow
def test_the_command(folder, npgpt_):
    said = npgpt_(f"evaluate --task lambada --model model.h5 --data {folder['lambada']} --limit 3")
    first, second = said.out.splitlines()
    assert re.fullmatch(
        r"accuracy 0\.\d{4} \+/- 0\.\d{4}, perplexity [\d.e+]+ \+/- [\d.e+]+", first
    )
    assert second.startswith("lambada, protocol harness, over 3 texts (byte): the last word")
    said = npgpt_(f"evaluate --task hellaswag --protocol karpathy --model model.h5 --limit 1 "
                  f"--data {folder['hellaswag']}")  # fmt: skip
    assert re.match(r"accuracy [01]\.0000, accuracy_norm [01]\.0000\n", said.out)
    assert "karpathy, over 1 question (byte), too few for a standard error: " in said.out


WRONG = {
    "--protocol karpathy --task lambada": "protocol is 'karpathy', but lambada has harness",
    "--protocol x --task hellaswag": "protocol is 'x', but hellaswag has harness and karpathy",
    "--task lam": "task is 'lam', but must be one of lambada, hellaswag, wikitext",
    "--task lambada --limit 0": "--limit is 0, but must be at least 1",
    "--task lambada --batch-size 0": "--batch-size is 0, but must be at least 1",
    "--task lambada --stride 3": "--stride is for a text, not for the task lambada",
    "--limit 3": "--limit is for a task: give --task",
    "--protocol harness": "--protocol is for a task: give --task",
}


@pytest.mark.parametrize("flags", WRONG)
def test_flags_that_do_not_fit(flags, folder, npgpt_):
    said = npgpt_(f"evaluate --model model.h5 --data {folder['lambada']} {flags}", code=2)
    assert WRONG[flags] in said.err and said.err.count("\n") == 1


def test_every_task_has_the_protocol_of_the_harness():
    assert all(next(iter(protocols)) == "harness" for protocols in TASKS.values())
    assert find("hellaswag").protocol == "harness"
