"""The tokenizer of a model: every command selects the same one, wherever the model's files are."""

import dataclasses
import json
import os
import shutil
from pathlib import Path

import pytest

import npgpt
from npgpt import ops
from npgpt.data import text
from npgpt.data.tokenizer_choice import choose
from npgpt.errors import InputError
from npgpt.preset import PRESETS
from npgpt.weights import formats
from npgpt.weights.tokenizer_files import TokenizerFiles
from parity_tests.support.bundles import write_gpt2
from parity_tests.support.checkpoints import with_new_footer
from parity_tests.support.runs import TINY, final
from parity_tests.support.tokenizers_of import bpe, write, write_pair
from parity_tests.support.weight_files import CONFIG, llmc, numbers, write_huggingface

BPE = bpe(text.read("bundled"))  # 300 tokens
WIDE = npgpt.Config(**vars(CONFIG) | {"vocab_size": 304})  # padded to a multiple of 16
WORDS = "The lighthouse"
IDS = BPE.encode(WORDS).ids


@pytest.fixture
def folder():
    """Hugging Face's directory of a model with a tokenizer of its own."""
    write_huggingface("own", WIDE, numbers(WIDE))
    write("own", BPE)
    return Path("own")


def ids(path, **options):
    """Return the ids of a text under the tokenizer of the model at `path`."""
    model = npgpt.load(path, ops=ops, weights="float32", **options)
    return npgpt.tokenizer(model.tokenizer).encode(WORDS)


# The order of the evidence


def test_files_beside_the_weights(folder):
    assert ids(folder) == ids(folder / "model.safetensors") == IDS
    (folder / "tokenizer.json").unlink()
    write_pair(folder, BPE)
    assert ids(folder) == IDS
    write_gpt2("openai", WIDE, numbers(WIDE))
    write_pair("openai", BPE, names=("encoder.json", "vocab.bpe"))
    assert ids("openai") == IDS
    Path("own/llmc.bin").write_bytes(llmc(WIDE, numbers(WIDE)))
    assert ids("own/llmc.bin") == IDS


def test_what_the_file_records_comes_first(folder):
    write_huggingface("own", WIDE, numbers(WIDE), npgpt_tokenizer="byte")
    assert npgpt.load(folder).tokenizer == "byte"
    npgpt.GPT(CONFIG, ops=ops, tokenizer="byte").save("own/model.h5")
    assert npgpt.load("own/model.h5").tokenizer == "byte"
    with pytest.raises(InputError, match=r"gpt2 does not fit: .*model.h5 was made with byte"):
        npgpt.load("own/model.h5", tokenizer="gpt2")
    assert npgpt.load("own/model.h5", tokenizer="byte").tokenizer == "byte"


def test_the_flag_comes_before_files_beside_the_weights(folder):
    assert npgpt.load(folder, tokenizer="byte").tokenizer == "byte"
    shutil.move("own/tokenizer.json", "other.json")
    assert ids(folder, tokenizer="other.json") == IDS


def source(**changes):
    """Return a model without a tokenizer, with another config or other fields."""
    config = npgpt.Config(**vars(CONFIG))
    write_huggingface("bare", config, numbers(config))
    return dataclasses.replace(formats.open_weights("bare"), **changes)


GPT2 = PRESETS["gpt2-medium"].config


@pytest.mark.parametrize("form", ["openai", "huggingface", "llm.c"])
def test_a_released_gpt2_is_recognized_by_its_whole_shape(form):
    assert choose(source(format=form, config=GPT2)).tokenizer == "gpt2"
    for changes in (
        {"vocab_size": 50304},
        {"n_layer": 6},
        {"context_length": 512},
        {"tied": False},
    ):
        other = dataclasses.replace(GPT2, **changes)
        assert choose(source(format=form, config=other)).tokenizer is None, changes


def test_what_speaks_against_gpt2s():
    assert choose(source(format="npgpt", config=GPT2)).tokenizer is None
    other = source(config=GPT2, other_tokenizer="BertTokenizer")
    assert choose(other) == (None, "config.json names 'BertTokenizer'")
    Path("bare/vocab.txt").write_text("[PAD]\n")
    found = choose(source(config=GPT2))
    assert found == (None, "vocab.txt beside the weights, which npgpt does not read")


def test_the_class_that_the_config_names():
    for name, other in {"GPT2TokenizerFast": None, "BertTokenizer": "BertTokenizer"}.items():
        write_huggingface("bare", CONFIG, numbers(), tokenizer_class=name)
        assert formats.open_weights("bare").other_tokenizer == other


def test_a_name_in_a_file_is_never_a_path(folder):
    """A forged checkpoint must not choose a file to read."""
    for name in ("own", os.path.abspath("own"), "gpt3"):
        npgpt.GPT(WIDE, ops=ops, tokenizer=name).save("model.h5")
        model = npgpt.load("model.h5", ops=ops)
        assert model.tokenizer is None
        model.tokenizer = name
        with pytest.raises(InputError, match=r"the tokenizer of model\.h5 is unknown"):
            npgpt.evaluate(model, WORDS)


def test_paths_that_npgpt_tokenizer_takes(folder):
    npgpt.load(folder, ops=ops).save("model.h5")
    for path in (folder, folder / "tokenizer.json", "own", "model.h5"):
        assert npgpt.tokenizer(path).encode(WORDS) == IDS
    source()
    with pytest.raises(InputError, match=r"tokenizer of bare is unknown \(neither recorded"):
        npgpt.tokenizer("bare")


# What is written


def test_a_checkpoint_has_the_files_of_its_tokenizer(folder):
    model = npgpt.load(folder, ops=ops)
    model.save("model.h5")
    shutil.rmtree(folder)
    found = npgpt.load("model.h5", ops=ops)
    assert found.tokenizer.contents == model.tokenizer.contents
    assert ids("model.h5") == IDS
    found.save("again.h5")
    assert Path("again.h5").read_bytes() == Path("model.h5").read_bytes()


def test_every_format_that_npgpt_writes_keeps_the_tokenizer(npgpt_, folder):
    npgpt_("quantize own --to own.int8")
    npgpt_("export --model own --to npgpt --out model.h5")
    npgpt_("export --model model.h5 --out there")
    shutil.rmtree(folder)
    assert ids("own.int8") == ids("model.h5") == ids("there") == IDS
    assert json.loads(Path("there/config.json").read_text())["eos_token_id"] == 0
    npgpt_("export --model there --to llm.c --out l.bin")
    assert ids("l.bin", tokenizer="there") == IDS
    npgpt_("quantize l.bin --to named --tokenizer byte")
    assert formats.open_weights("named").tokenizer == "byte"


def forge_files(file):
    del file["tokenizer"]["tokenizer.json"]


def forge_name(file):
    data = file["tokenizer"]["tokenizer.json"][:]
    del file["tokenizer"]["tokenizer.json"]
    file["tokenizer"]["run.py"] = data


@pytest.mark.parametrize(
    "change, says",
    [(forge_files, "has no files of its tokenizer"),
     (forge_name, "has 'tokenizer/run.py', which is no file of a tokenizer")],
)  # fmt: skip
def test_a_checkpoint_without_the_files_it_promises(folder, change, says):
    npgpt.load(folder, ops=ops).save("model.h5")
    with_new_footer(Path("model.h5"), change)
    with pytest.raises(InputError, match=says):
        npgpt.load("model.h5")


# Commands


def test_inspect_names_the_tokenizer_and_where_it_was_found(npgpt_, folder):
    assert "tokenizer own (tokenizer.json beside the weights)\n" in npgpt_("inspect own").out
    found = json.loads(npgpt_("inspect own --json").out)
    assert (found["tokenizer"], found["tokenizer_found"]) == (
        "own", "tokenizer.json beside the weights",
    )  # fmt: skip
    npgpt.load(folder, ops=ops, tokenizer="byte").save("model.h5")
    assert "tokenizer byte (recorded in the file)\n" in npgpt_("inspect model.h5").out
    source()
    assert "tokenizer unknown (neither recorded in the file" in npgpt_("inspect bare").out
    Path("own/tokenizer.json").unlink()
    Path("own/tokenizer.json").mkdir()
    said = npgpt_("inspect own").out
    assert "tokenizer unknown (own/tokenizer.json cannot be read: it is a directory" in said


@pytest.mark.parametrize("command", ["generate --prompt x", "evaluate --data text.txt"])
def test_an_unknown_tokenizer_must_be_given(refused, command):
    source()
    refused(f"{command} --model bare", says="the tokenizer of bare is unknown: give --tokenizer")
    says = "unknown tokenizer 'gtp2'; expected gpt2, byte, a tokenizer.json, or a directory"
    refused(f"{command} --model bare --tokenizer gtp2", says=says)


def test_training_asks_for_an_unknown_tokenizer(refused):
    source()
    says = "the tokenizer of bare/model.safetensors is unknown (neither recorded in the file nor"
    refused("train --data text.txt --init-from bare", says=says)


def test_a_tokenizer_larger_than_the_vocabulary(refused, folder):
    source()
    says = "the tokenizer own has 300 tokens, more than the model's vocabulary of 257"
    for command in ("generate --prompt x", "evaluate --data text.txt"):
        refused(f"{command} --model bare --tokenizer own", says=says)
    refused("export --model bare --out there --tokenizer own", says=says)
    said = f"{os.path.abspath('own')} has 300 tokens, more than the model's vocabulary of 257"
    refused("train --data text.txt --init-from bare --tokenizer own", says=said)


@pytest.mark.slow
def test_generate_and_evaluate_use_the_models_own(npgpt_, folder):
    """Ids from 300 on are padding: none of them ends the text, or the command."""
    said = npgpt_("generate --model own --prompt The --max-new-tokens 60 --temperature 9").out
    assert said.startswith("The")
    assert "\ufffd" in said
    said = npgpt_("evaluate --model own --data text.txt --context-length 12").out
    count = len(BPE.encode(Path("text.txt").read_text()).ids) - 1
    assert f"over {count} tokens (own) in windows of 12\n" in said
    model = npgpt.load("own")
    loss = npgpt.evaluate(model, Path("text.txt").read_text())
    assert f"loss {loss:.4f} nats" in said


@pytest.mark.slow
def test_a_run_finds_its_tokenizer_wherever_it_is_moved(npgpt_, folder):
    npgpt_("train --data text.txt --tokenizer own --steps 2 --prompt The --out run", *TINY)
    config = json.loads(Path("run/config.json").read_text())
    assert config["tokenizer"] == os.path.abspath("own")
    assert config["config"]["vocab_size"] == 300
    shutil.rmtree(folder)
    Path("away").mkdir()
    shutil.move("run", "away/moved")
    assert ids("away/moved") == IDS
    npgpt_("generate --model away/moved --prompt The --max-new-tokens 3")
    npgpt_("train --resume away/moved --steps 4")
    assert final("away/moved")[1]["step"] == 4
    npgpt_("train --data text.txt --init-from away/moved --steps 1 --out tuned")
    assert ids("tuned") == IDS


@pytest.mark.slow
def test_training_from_a_model_with_its_own_tokenizer(npgpt_, folder):
    line = "train --data text.txt --init-from own --steps 1 --sample-tokens 2 --batch-size 1"
    npgpt_(f"{line} --out run --stride 12 --train-fraction 0.8")
    assert isinstance(npgpt.load("run").tokenizer, TokenizerFiles)
    assert ids("run") == IDS
