"""npgpt export --to huggingface: transformers opens what it wrote, tokenizer included."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import yaml

import npgpt
from npgpt import ops
from npgpt.cli.main import main
from npgpt.data import text
from npgpt.export import tokenizer_files
from npgpt.export.tokenizer_files import HARD_TEXTS
from npgpt.model.params import named
from npgpt.weights import huggingface
from parity_tests.support.run_transformers import ask, available
from parity_tests.support.tokenizers_of import bpe, metaspace, write, write_pair

STORY = text.read("bundled")
BPE = bpe(STORY)  # 300 tokens
PROMPT = "The lighthouse"
OPENAI = "encoder.json", "vocab.bpe"
SOURCES = {  # a name, or what writes the files
    "byte": "byte",
    "gpt2": "gpt2",
    "tokenizer.json": lambda folder: write(folder, BPE),
    "SentencePiece's kind": lambda folder: write(folder, metaspace(STORY)),
    "OpenAI's pair": lambda folder: write_pair(folder, BPE, names=OPENAI),
}
GENERATE = "byte", "tokenizer.json"  # pipelines take time


def save(source, folder):
    """Save a small model with this tokenizer as model.h5, and return both."""
    if callable(source):
        source(folder / "tokenizer")
        source = folder / "tokenizer"
    found = npgpt.tokenizer(source)
    config = npgpt.Config(
        vocab_size=found.n_vocab, context_length=48, n_layer=2, n_head=2, n_embd=16
    )
    model = npgpt.GPT(config, seed=3, ops=ops, tokenizer=found.origin)
    rng = np.random.default_rng(3)
    for _, array in named(model.params):  # so that greedy does not repeat one token
        array += rng.normal(scale=0.4, size=array.shape).astype(np.float32)
    model.save(folder / "model.h5")
    return model, found


@pytest.fixture
def byte(tmp_path, monkeypatch):
    """A byte model in ./model.h5."""
    monkeypatch.chdir(tmp_path)
    return save("byte", tmp_path)[0]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """For each tokenizer the model, its tokenizer, and the answers of transformers."""
    if not available():
        pytest.skip("no transformers here")
    found, jobs = {}, []
    for name, source in SOURCES.items():
        if name == "gpt2" and not os.environ.get("TIKTOKEN_CACHE_DIR"):
            continue
        folder = tmp_path_factory.mktemp("exported")
        found[name] = folder, *save(source, folder)
        assert main(["export", "--model", f"{folder}/model.h5", "--out", f"{folder}/out"]) == 0
        texts = [*HARD_TEXTS, STORY]
        jobs.append(["encode", folder / "out", texts, folder / "ids.json"])
        if name in GENERATE:
            jobs.append(["generate", folder / "out", PROMPT, 24, folder / "text.json"])
    ask(jobs)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", SOURCES)
def test_transformers_has_the_ids_of_npgpt(exported, name):
    if name not in exported:
        pytest.skip("TIKTOKEN_CACHE_DIR does not name a folder with GPT-2's byte-pair files")
    folder, _, found = exported[name]
    theirs = json.loads((folder / "ids.json").read_text())
    ids = [found.encode(one) for one in (*HARD_TEXTS, STORY)]
    assert theirs["ids"] == ids
    assert theirs["texts"] == [found.decode(one) for one in ids]
    assert theirs["eos"] == found.eot_token


@pytest.mark.slow
@pytest.mark.parametrize("name", GENERATE)
def test_a_pipeline_writes_the_text_of_npgpt(exported, name):
    """A number of tokens, and as many as the context has."""
    folder, model, found = exported[name]
    prompt = found.encode(PROMPT)
    few, all_ = json.loads((folder / "text.json").read_text())
    for said, count in ((few, 24), (all_, model.config.context_length - len(prompt))):
        new = [int(i) for i in npgpt.generate(model, prompt, count, temperature=0)]
        if found.eot_token in new:
            new = new[: new.index(found.eot_token)]
        assert said == found.decode([*prompt, *new])


def test_the_card_and_the_lengths(npgpt_, byte):
    npgpt_("export --model model.h5 --out out --dtype bfloat16")
    head, body = Path("out/README.md").read_text().removeprefix("---\n").split("---\n", 1)
    assert yaml.safe_load(head)["library_name"] == "transformers"
    assert f"{byte.size:,} parameters" in body and "| numbers | bfloat16 |" in body
    values = json.loads(Path("out/generation_config.json").read_text())
    numbers = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), 256)
    assert values == {"max_length": 48, **numbers}


def test_a_model_without_a_tokenizer_says_so(npgpt_, byte):
    byte.tokenizer = None
    byte.save("bare.h5")
    said = npgpt_("export --model bare.h5 --out out")
    assert said.err.startswith("The tokenizer of this model is unknown, so none is written")
    assert not [name for name in os.listdir("out") if "token" in name]
    assert "| tokenizer | not included |" in Path("out/README.md").read_text()


def a_flipped_bit(write):
    def tensors(file, tensors):
        write(file, tensors)
        file.seek(-3, os.SEEK_END)
        last = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([last[0] ^ 4]))

    return tensors


def a_merge_less(make):
    def backend(files, vocabulary, merges):
        return make(files, vocabulary, merges[1:])

    return backend


@pytest.mark.parametrize(
    "room, name, break_it, says",
    [
        (huggingface, "write_tensors", a_flipped_bit,
         "npgpt: transformer.ln_f.bias was read back with other numbers than were written\n"),
        (tokenizer_files, "make_backend", a_merge_less, " other ids than the tokenizer "),
    ],
    ids=["a flipped bit", "a merge less"],
)  # fmt: skip
def test_what_is_read_back_otherwise_is_not_written(
    npgpt_, tmp_path, monkeypatch, room, name, break_it, says
):
    monkeypatch.chdir(tmp_path)
    save(SOURCES["OpenAI's pair"], Path())
    monkeypatch.setattr(room, name, break_it(getattr(room, name)))
    assert says in npgpt_("export --model model.h5 --out out", code=1).err
    assert not Path("out").exists()
