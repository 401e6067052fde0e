"""npgpt generate --prompts, --jsonl, and flags that a single prompt has too."""

import codecs
import gzip
import io
import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import npgpt
from npgpt.data.prompts import MAX_LINE
from npgpt.weights.huggingface import write_huggingface

PROMPTS = "Lamp", "The keeper of the lighthouse", "sea", 'a "quoted"\\n line'
FLAGS = "--model run --max-new-tokens 12 --temperature 1"


@pytest.fixture
def prompts():
    Path("p.txt").write_text("\n".join(PROMPTS) + "\n")
    objects = [json.dumps({"prompt": text, "id": 3}) for text in PROMPTS]
    Path("p.jsonl").write_text("\n".join(objects))
    Path("p.jsonl.gz").write_bytes(gzip.compress(Path("p.jsonl").read_bytes()))


def test_each_prompt_has_the_text_of_its_own_run(npgpt_, run, prompts):
    alone = [npgpt_(f"generate {FLAGS}", "--prompt", text).out for text in PROMPTS]
    said = npgpt_(f"generate {FLAGS} --prompts p.txt --batch-size 3")
    assert said.out == "".join(f"--- prompt {i}\n{text}" for i, text in enumerate(alone, 1))
    for name in ("p.jsonl", "p.jsonl.gz"):
        found = npgpt_(f"generate {FLAGS} --jsonl --log-probs 2 --prompts {name}").out.splitlines()
        objects = list(map(json.loads, found))
        assert [one["prompt"] + one["text"] + "\n" for one in objects] == alone
        assert [one["index"] for one in objects] == [0, 1, 2, 3]
        for one in objects:
            assert one["finish_reason"] == "length"
            assert len(one["tokens"]) == len(one["log_probabilities"]) == 12
            assert [len(best) for best in one["most_likely"]] == [2] * 12
    single = npgpt_(f"generate {FLAGS} --jsonl --prompt Lamp").out
    assert json.loads(single)["text"] == objects[0]["text"]
    samples = npgpt_(f"generate {FLAGS} --prompts p.txt --num-samples 2").out
    assert samples.startswith(f"--- prompt 1, sample 1 of 2\n{alone[0]}--- prompt 1, sample 2")


def test_a_byte_order_mark_is_no_part_of_the_first_prompt(npgpt_, run):
    found = []
    for start in (b"", codecs.BOM_UTF8):
        Path("p.txt").write_bytes(start + b"Lamp\nsea\n")
        Path("p.jsonl").write_bytes(start + b'{"prompt": "Lamp"}\n')
        found.append([npgpt_(f"generate {FLAGS} --prompts {p}").out for p in ("p.txt", "p.jsonl")])
    assert found[0] == found[1]


def test_prompts_of_standard_input(npgpt_, run, monkeypatch):
    stdin = SimpleNamespace(buffer=io.BytesIO(b"Lamp\nsea"))
    monkeypatch.setattr(sys, "stdin", stdin)
    said = npgpt_(f"generate {FLAGS} --prompts -").out
    assert said.count("--- prompt") == 2


def test_a_cropped_prompt_and_a_full_context_are_said(npgpt_, run):
    long = "x" * 20
    said = npgpt_(f"generate {FLAGS} --prompt {long}").err
    assert "Of the 20 tokens of the prompt, only the last 16 are read" in said
    assert said.count("The context of 16 tokens was full") == 1
    Path("p.txt").write_text(f"a\n{long}\n{long}\n")
    said = npgpt_(f"generate {FLAGS} --prompts p.txt").err
    assert "Of the 20 tokens of prompt 2, only the last 16" in said
    assert "2 continuations of prompts that were cropped" in said
    assert said.count("The context of 16 tokens was full") == 1
    assert npgpt_(f"generate {FLAGS} --prompt abcd").err == ""
    kept = npgpt_("generate --model run --prompt abcd --max-new-tokens 30 --keep 2")
    assert kept.err == ""
    assert kept.out != npgpt_("generate --model run --prompt abcd --max-new-tokens 30").out


def test_a_stop_string_of_one_prompt(npgpt_, run):
    free = npgpt_(f"generate {FLAGS} --prompt Lamp").out
    stop = free[8:10]
    said = npgpt_(f"generate {FLAGS} --prompt Lamp", "--stop", "~~", "--stop", stop).out
    assert said == free[: 4 + free[4:].index(stop)] + "\n"
    two = npgpt_(f"generate {FLAGS} --prompt Lamp --num-samples 2", "--stop", stop).out
    assert two.startswith("--- sample 1 of 2\nLamp")
    assert stop not in two.replace("Lamp", "")


def test_filters_reach_the_model(npgpt_, run):
    flags = "generate --model run --prompt Lamp --max-new-tokens 8 --temperature 0"
    assert npgpt_(f"{flags} --logit-bias 122=99 --logit-bias 121=9").out == "Lamp" + "z" * 8 + "\n"
    assert len(set(npgpt_(f"{flags} --repetition-penalty 1000000").out[:-1])) == 12
    assert npgpt_(f"{flags} --temperature 1 --min-p 1").out == npgpt_(flags).out


def test_speculation_changes_no_text(npgpt_, refused, run, prompts, monkeypatch):
    expected = npgpt_(f"generate {FLAGS} --prompt Lamp").out
    monkeypatch.setenv("TERM", "dumb")
    with monkeypatch.context() as patched:
        patched.setattr(sys.stderr, "isatty", lambda: True, raising=False)
        for flags in ("--speculate", "--draft run", "--speculate --draft run"):
            said = npgpt_(f"generate {FLAGS} --prompt Lamp {flags}")
            assert said.out == expected
            assert re.search(r"tokens/s, \d+ of \d+ draft tokens? accepted\]", said.err)
        assert "accepted" not in npgpt_(f"generate {FLAGS} --prompt Lamp").err
    many = f"generate {FLAGS} --prompts p.txt --batch-size 1"
    assert npgpt_(f"{many} --draft run").out == npgpt_(many).out
    refused("generate --model run --prompt a --beams 2 --draft run", says="does not speculate")
    small = npgpt.GPT(npgpt.Config(vocab_size=99, n_layer=1, n_head=1, n_embd=8))
    write_huggingface("small", small.config, small.params, None, dtype="float32")
    says = "the draft model has 99 tokens, but must have the 257 of the model"
    refused(f"generate {FLAGS} --prompt Lamp --draft small", says=says)


def test_beams(npgpt_, run, prompts):
    """The first of several beams has the largest probability, and one beam is greedy."""
    flags = "generate --model run --max-new-tokens 6"
    greedy = npgpt_(f"{flags} --prompt Lamp --temperature 0").out
    assert npgpt_(f"{flags} --prompt Lamp --beams 1").out == greedy
    model, ids = npgpt.load("run"), npgpt.tokenizer("byte").encode("Lamp")
    best = npgpt.beam_search(model, ids, 6, 3, eos_id=256)
    said = npgpt_(f"{flags} --prompts p.txt --jsonl --num-samples 3 --beams 3").out.splitlines()
    assert [json.loads(line)["tokens"] for line in said[:3]] == [beam.tokens for beam in best]
    assert len(said) == 12


def test_beams_that_make_no_sense(refused, run):
    flags = "generate --model run --prompt Lamp --beams"
    refused(f"{flags} 2 --top-k 3", says="--beams does not sample: leave out --top-k")
    refused(f"{flags} 2 --temperature 0.5", says="--beams does not sample: leave out --temperature")
    refused(f"{flags} 2 --jsonl --log-probs 3", says="--log-probs is for --jsonl without --beams")
    refused(
        "generate --model run --prompt Lamp --log-probs 3",
        says="--log-probs is for --jsonl without",
    )
    refused(f"{flags} 2 --num-samples 3", says="2 beams have no 3 continuations")
    refused(f"{flags} 0", says="0 beams have no 1 continuations")
    refused(f"{flags} 200", says="beams is 200, but must be 1 to 128: half of the vocabulary")


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("p.txt", b"a\n\nb\n", "p.txt, line 2 is empty"),
        ("p.txt", b"a\n\xff\n", "p.txt, line 2 is not UTF-8"),
        (
            "p.txt",
            b"a\n" + b"x" * (MAX_LINE + 99999),
            "p.txt, line 2 has more than 1,048,576 bytes",
        ),
        ("p.jsonl", b'{"prompt": "a"}\nx\n', "p.jsonl, line 2 is no JSON object"),
        ("p.jsonl", b"[" * 99999, "p.jsonl, line 1 is no JSON object"),
        ("p.jsonl", b'{"prompt": 3}\n', 'line 1 must be a JSON object with "prompt", a string'),
        ("p.jsonl", b"[1]\n", 'line 1 must be a JSON object with "prompt", a string'),
        ("p.jsonl", b'{"prompt": "\\ud800"}\n', "line 1 has half of a surrogate pair"),
        ("p.jsonl", b'{"prompt": ""}\n', "line 1 is empty"),
        ("p.csv", b"a\n", "p.csv is not read"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_files_of_prompts_that_are_refused(refused, run, name, data, says):
    """Before anything is generated."""
    Path(name).write_bytes(data)
    refused(f"generate --model run --prompts {name}", says=says)


def test_no_file_of_prompts(refused, run):
    refused("generate --model run --prompts none.txt", says="there is no file none.txt")
    refused("generate --model run", says="one --prompt TEXT, or --prompts FILE: give one")
    Path("empty.txt").touch()
    refused("generate --model run --prompts empty.txt", says="empty.txt has no prompts")
