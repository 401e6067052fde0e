"""Invalid options, texts and checkpoints: one line on stderr, exit status 2."""

import json
from dataclasses import asdict
from pathlib import Path

import h5py
import numpy as np
import pytest

import npgpt
from npgpt import ops
from parity_tests.support.checkpoints import add_footer, without_footer
from parity_tests.support.runs import TEXT, TINY

# Bad input


BAD_TEXTS = {
    "missing.txt": (None, "there is no text file missing.txt"),
    "empty.txt": (b"", "empty.txt is empty"),
    "blank.txt": (b" \n\t\n", "blank.txt is empty"),
    "binary.txt": (b"ab\0cd" * 99, "binary.txt is not text: byte 2 is zero"),
    "latin.txt": (b"caf\xe9 " * 99, "latin.txt is not UTF-8: byte 3 is 0xe9"),
    "short.txt": (b"The keeper", "the training split has 9 tokens, but one window of context "
                  "length 16 needs 17"),
}  # fmt: skip
BAD_FLAGS = {
    "--train-fraction 1": "the validation split has 0 tokens, but one window of context length 16",
    "--vocab-size 9": "the tokenizer byte has 257 tokens, more than the model's vocabulary of 9",
    "--n-head 3": "n_embd is 16 and n_head is 3",
    "--n-layer 0": "n_layer is 0, but must be at least 1",
    "--dropout 1": "dropout is 1.0, but must be in [0, 1)",
    "--batch-size 0": "batch_size is 0, but must be at least 1",
    "--batch-size 9999": "the training split makes 46 windows",
    "--stride 0": "stride is 0, but must be at least 1",
    "--lr -1": "lr is -1.0, but must be at least 0",
    "--lr nan": "lr is nan, but must be a number",
    "--grad-clip 0": "grad_clip is 0.0, but must be above 0",
    "--grad-clip nan": "grad_clip is nan, but must be a number",
    "--seed -1": "seed is -1, but must be in [0, 2**64)",
    "--epochs 0": "epochs is 0, but must be at least 1",
    "--steps 0": "steps is 0, but must be at least 1",
    "--prompt=": "the prompt is empty",
    "--init-from no.h5": "there is no file or directory no.h5",
    "--resume no": "there is no run directory or checkpoint no",
    "--out text.txt": "the run directory text.txt cannot be created: File exists",
    "--out text.txt/run": "the run directory text.txt/run cannot be created: Not a directory",
    "--data runs": "there is no text file runs",
}


@pytest.mark.parametrize("name", BAD_TEXTS)
def test_a_text_that_cannot_be_used(refused, name):
    content, says = BAD_TEXTS[name]
    if content is not None:
        Path(name).write_bytes(content)
    refused(f"train --out run --data {name}", *TINY, says=says)
    assert not Path("run").exists()
    if name != "short.txt":
        npgpt.GPT(npgpt.Config(vocab_size=257, context_length=8, n_layer=1, n_head=1, n_embd=4),
                  ops=ops, tokenizer="byte").save("model.h5")  # fmt: skip
        refused(f"evaluate --model model.h5 --data {name}", says=says)


@pytest.mark.parametrize("flag", BAD_FLAGS)
def test_a_flag_that_cannot_be_used(refused, flag):
    data = [] if "--data" in flag else ["--data", "text.txt"]
    refused("train", *data, *TINY, *flag.split(" "), says=BAD_FLAGS[flag])
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ("--temperature -0.1", "temperature is -0.1, but must be 0 (greedy) or above"),
        ("--temperature nan", "temperature is nan"),
        ("--top-k 0", "top_k is 0, but must be at least 1"),
        ("--top-p 0", "top_p is 0.0, but must be in (0, 1]"),
        ("--top-p 1.01", "top_p is 1.01, but must be in (0, 1]"),
        ("--num-samples 0", "num_samples is 0, but must be at least 1"),
        ("--max-new-tokens -1", "max_new_tokens is -1, but must be at least 0"),
        ("--seed -1", "seed = -1: it must lie between 0 and 18446744073709551615"),
        ("--prompt=", "the prompt is empty"),
        ("--prompts text.txt", "give one"),
        ("--min-p 2", "min_p is 2.0, but must be in [0, 1]"),
        ("--repetition-penalty 0", "repetition_penalty is 0.0, but must be above 0"),
        ("--logit-bias 3", "logit_bias is '3', but must be ID=NUMBER"),
        ("--logit-bias 257=1", "logit_bias: token id 257 is outside the vocabulary"),
        ("--keep 15", "keep is 15, but must be at most 14 in this context"),
        ("--stop=", "but must be strings that are not empty"),
        ("--jsonl --batch-size 0", "batch_size is 0, but must be at least 1"),
        ("--jsonl --log-probs -1", "log_probs is -1, but must be at least 0"),
        ("--jsonl --prompt=", "the prompt: the prompt is empty"),
    ],
)
def test_generate_refuses(refused, run, flags, says):
    refused("generate --model run --prompt The", *flags.split(" "), says=says)


@pytest.mark.parametrize("line", ["inspect a\0b", "train --out a\0b", "train --data=a\0b"])
def test_an_argument_with_a_nul(refused, line):
    refused(line, says="but must not contain NUL")


@pytest.mark.parametrize("name", ["data", "val_data", "tokenizer", "init_from"])
def test_settings_with_a_nul(refused, name):
    Path("other").mkdir()
    settings = asdict(npgpt.config.RunConfig()) | {name: "a\0b"}
    Path("other/config.json").write_text(json.dumps(settings))
    refused("train --resume other", says=f"{name} is 'a\\x00b', but must not contain NUL")


def test_a_vocabulary_smaller_than_the_tokenizers(refused):
    model = npgpt.GPT(npgpt.Config(vocab_size=100, context_length=8, n_layer=1, n_head=1, n_embd=4),
                      ops=ops, tokenizer="byte")  # fmt: skip
    model.save("model.h5")
    says = "the tokenizer byte has 257 tokens, more than the model's vocabulary of 100"
    refused("generate --model model.h5 --prompt z", says=says)
    Path("z.txt").write_text("zz")
    refused("evaluate --model model.h5 --data z.txt", says=says)


def broken(kind):
    """The checkpoint of the run, made bad."""
    path = Path("run/checkpoint.h5")
    raw = path.read_bytes()
    if kind == "cut":
        path.write_bytes(raw[: len(raw) // 2])
        return "is truncated, or not a checkpoint"
    if kind == "text":
        path.write_bytes(b"hello")
        return "begins with b'hello'"
    path.write_bytes(without_footer(raw))
    with h5py.File(path, "r+") as file:
        if kind == "version":
            file.attrs["version"] = 7
        else:
            del file["parameters/wpe.weight"]
            file["parameters/wpe.weight"] = np.zeros((2, 16), np.float32)
    add_footer(path)
    if kind == "version":
        return "has format version 7; this npgpt reads 1"
    return "wpe.weight has shape (2, 16), its config requires (16, 16)"


@pytest.mark.parametrize("kind", ["cut", "text", "version", "shape"])
def test_a_checkpoint_that_cannot_be_read(refused, run, kind):
    says = broken(kind)
    refused("generate --model run --prompt The", says=says)
    refused("generate --model run/checkpoint.h5 --prompt The", says=says)
    refused("evaluate --model run --data text.txt", says=says)
    refused("train --resume run", says=says)
    refused("train --init-from run --data text.txt", says=says)


def test_a_damaged_number_is_not_trained_on(npgpt_, refused, run):
    path = Path("run/checkpoint.h5")
    raw, number = path.read_bytes(), npgpt.load("run").params.wte.weight[3, 1]
    at = raw.index(number.tobytes())
    path.write_bytes(raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :])
    says = "is damaged: its bytes"
    refused("inspect run --verify", says=says)
    refused("train --resume run", says=says)
    refused("train --init-from run --data text.txt --out other", says=says)
    npgpt_("inspect run")  # which shows what can be shown
    path.write_bytes(raw)
    assert "parameters; checksums: verified\n" in npgpt_("inspect run --verify").out


def test_a_folder_without_a_run(refused):
    Path("none").mkdir()
    refused("generate --prompt The", says="./runs has no checkpoint")
    refused("generate --model none --prompt The", says="the directory none has no model")
    refused("train --resume none", says="there is no file none/checkpoint.h5")
    refused("plot none", says="none/config.json cannot be read: No such file or directory")
    refused("plot", says="name at least one run directory")


def test_a_folder_that_holds_a_run(refused, run):
    says = "run already holds a run: choose another --out, or resume it with --resume run"
    refused("train --data text.txt --out run", *TINY, says=says)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ("--eps 1", "--eps 1.0 does not fit: run was made with 1e-08"),
        ("--n-embd 32", "--n-embd 32 does not fit: run was made with 16"),
        ("--preset book", "--preset book does not fit: run was made with tiny"),
        ("--dtype float64", "--dtype float64 does not fit: run was made with float32"),
        ("--data other.txt", "the text other.txt is not the one this run was trained on"),
        ("--out taken", "taken already holds a run"),
    ],
)
def test_a_run_that_does_not_fit_is_not_resumed(refused, run, flags, says):
    Path("other.txt").write_text(TEXT.upper())
    Path("taken").mkdir()
    Path("taken/config.json").write_text("{}")
    refused("train --resume run", *flags.split(), says=says)


def test_weights_that_do_not_fit_are_not_started_from(refused, run):
    says = "--n-layer 4 does not fit: run was made with 1"
    refused("train --data text.txt --init-from run --n-layer 4", says=says)
    says = "--tokenizer gpt2 does not fit: run/checkpoint.h5 was made with byte"
    refused("train --data text.txt --init-from run --tokenizer gpt2", says=says)
    npgpt.load("run/checkpoint.h5").save("model.h5")
    says = "model.h5 has a model but no training run: use --init-from to start a run from it"
    refused("train --data text.txt --resume model.h5", says=says)
