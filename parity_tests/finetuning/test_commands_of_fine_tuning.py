"""npgpt classify and npgpt instruct, in this process and on the NumPy backend."""

import errno
import hashlib
import io
import json
import os
import re
import signal
import sys
from pathlib import Path

import numpy as np
import pytest

import npgpt
from npgpt import ops
from npgpt.cli.main import main
from npgpt.download import instructions
from npgpt.errors import RunError
from npgpt.finetuning import curves
from npgpt.finetuning.instructions import format_prompt
from npgpt.system.files import file_lock
from npgpt.training.optim import AdamW
from npgpt.training.run_dir import LOCK
from npgpt.weights import checkpoint
from parity_tests.support.runs import lines, on_disk

TEXTS = "".join(
    f"ham\t{'see you' if i % 2 else 'on my way'} {i}\n" + f"spam\tWIN {i} NOW\n" * (i % 3 > 0)
    for i in range(40)
)
ENTRIES = [
    {"instruction": f"Add {i}.", "input": f"{i} + 1" * (i % 2), "output": f"{i + 1}"}
    for i in range(20)
]
TRAIN = "--ops numpy --model model.h5 --epochs 2 --batch-size 4 --eval-every 5 --lr 0.01"


@pytest.fixture(autouse=True)
def files(tmp_path, monkeypatch):
    """A small model and both kinds of data, in a directory of their own."""
    monkeypatch.chdir(tmp_path)
    config = npgpt.Config(vocab_size=257, context_length=200, n_layer=2, n_head=2, n_embd=16)
    npgpt.GPT(config, ops=ops, scheme="book", tokenizer="byte").save("model.h5")
    Path("texts.tsv").write_text(TEXTS)
    Path("entries.json").write_text(json.dumps(ENTRIES))


class Sketch:
    """A figure whose picture is the numbers of its panels."""

    def __init__(self, panels):
        self.panels = panels

    def savefig(self, file, format):
        file.write(repr(self.panels).encode())


@pytest.fixture
def sketch(monkeypatch):
    """Draw numbers in place of pictures, which take as long as all else in a run this small."""
    monkeypatch.setattr(curves, "draw", Sketch)


def test_a_classifier_is_trained_and_used(npgpt_):
    said = npgpt_(f"classify --data texts.tsv {TRAIN}").out
    pattern = r"""40 ham, 26 spam; 26 of each are used
36 training, 5 validation, 11 test texts of at most 12 tokens
3,346 of 13,938 parameters are trained; output in runs/classify-1
Before training: accuracy [\d.]+% training, [\d.]+% validation, [\d.]+% test; loss( \d\.\d{3},?){3}
(Ep 1 \(Step 00000[05]\): Train loss \d\.\d{3}, Val loss \d\.\d{3}
){2}Training accuracy: [\d.]+% \| Validation accuracy: [\d.]+%
(Ep 2 \(Step 00001[05]\): Train loss \d\.\d{3}, Val loss \d\.\d{3}
){2}Training accuracy: [\d.]+% \| Validation accuracy: [\d.]+%
After training, on all texts: accuracy 100.00% training, 100.00% validation, 100.00% test
runs/classify-1/classifier.h5  the model and its head, to classify texts
runs/classify-1/metrics.jsonl  losses and accuracies
runs/classify-1/loss.png       plot of both
Next: npgpt classify --model runs/classify-1 --predict '.*'
"""
    assert re.fullmatch(pattern, said), said
    run = Path("runs/classify-1")
    assert (run / "loss.png").read_bytes().startswith(b"\x89PNG")
    found = [tuple(line) for line in lines(run / "metrics.jsonl")]
    losses = ("step", "epoch", "examples_seen", "train_loss", "val_loss")
    accuracies = ("step", "epoch", "train_accuracy", "val_accuracy")
    assert found == [*[losses, losses, accuracies] * 2, ("accuracy",)]
    for model in (run, run / "classifier.h5"):
        said = npgpt_(
            "classify --ops numpy", "--model", str(model), "--predict", "WIN 7 NOW", "--predict",
            "see you\x1b 8",
        ).out  # fmt: skip
        assert re.fullmatch(r"spam  \d\d.\d\d%  WIN 7 NOW\nham  \d\d.\d\d%  see you\\x1b 8\n", said)
    said = npgpt_("generate --model runs/classify-1 --prompt a", code=2).err
    assert "npgpt classify --model runs/classify-1 --predict TEXT" in said
    assert "npgpt, 13,904 parameters" in npgpt_("inspect", str(run / "classifier.h5")).out
    config = checkpoint.read_checkpoint(run / "classifier.h5").config
    assert config.dropout == 0 and config.context_length == 200


@pytest.mark.parametrize(
    ("command", "steps"), [("classify --data texts.tsv", 9), ("instruct --data entries.json", 4)]
)
def test_weights_that_are_not_finite_are_neither_trained_nor_saved(
    npgpt_, monkeypatch, command, steps
):
    """`steps`: of an epoch. The last one overflows, whose result no loss tells."""
    model = npgpt.load("model.h5", ops=ops)
    model.params.ln_f.bias[3] = np.nan
    model.save("nan.h5")
    said = npgpt_(f"{command} {TRAIN} --model nan.h5 --out run", code=1)
    assert said.err == (
        "npgpt: nan.h5 cannot be trained: ln_f.bias holds nan or infinite numbers. "
        "See npgpt inspect nan.h5\n"
    )
    assert not Path("run").exists()
    step = AdamW.step

    def overflowing(self, gradients):
        step(self, gradients)
        if self.steps == steps:
            self.parameters.ln_f.bias[3] = np.inf

    monkeypatch.setattr(AdamW, "step", overflowing)
    said = npgpt_(f"{command} {TRAIN} --out run", code=1)
    assert said.err == (
        f"npgpt: ln_f.bias is no longer finite after step {steps - 1}. Try a lower --lr\n"
    )
    (file,) = Path("run").glob("*.h5")  # the one of the start
    assert np.isfinite(npgpt.load(file, ops=ops).params.ln_f.bias).all()


@pytest.mark.usefixtures("sketch")
def test_a_model_is_trained_on_instructions_and_answers(npgpt_, monkeypatch):
    """On those of the book by default, which are in the cache here."""
    data = Path("cache/instruction-data.json")
    data.parent.mkdir()
    data.write_bytes(Path("entries.json").read_bytes())
    monkeypatch.setenv("NPGPT_CACHE", "cache")
    digest = hashlib.sha256(data.read_bytes()).hexdigest()
    monkeypatch.setattr(instructions, "INSTRUCTIONS_SHA256", digest)
    said = npgpt_(f"instruct --max-new-tokens 8 --out tuned {TRAIN}").out
    pattern = r"""17 training, 1 validation, 2 test entries; output in tuned
Before training: loss \d+\.\d{3} training, \d+\.\d{3} validation
Ep 1 \(Step 000000\): Train loss \d+\.\d{3}, Val loss \d+\.\d{3}
Add 19. 19 \+ 1 -> .*
Ep 2 \(Step 000005\): Train loss \d+\.\d{3}, Val loss \d+\.\d{3}
Add 19. 19 \+ 1 -> .*
tuned/checkpoint.h5  the model, to generate with
tuned/answers.json   the test entries with the model's answers
tuned/metrics.jsonl  losses
tuned/loss.png       plot of the losses
Next: npgpt generate --model tuned --prompt .*
"""
    assert re.fullmatch(pattern, said), said
    answers = json.loads(Path("tuned/answers.json").read_text())
    model = npgpt.load("tuned", ops=ops)
    byte = npgpt.tokenizer("byte")
    for entry, answered in zip(ENTRIES[17:19], answers, strict=True):
        new = list(npgpt.generate(model, byte.encode(format_prompt(entry)), 8, eos_id=256))
        text = byte.decode([token for token in new if token != 256], unknown="")
        assert answered == entry | {"model_response": text.replace("### Response:", "").strip()}
    losses = [line["train_loss"] for line in lines("tuned/metrics.jsonl")]
    assert len(losses) == 2 and losses[1] < losses[0]
    assert npgpt_("instruct --resume tuned").out.startswith("Resuming tuned after step 7\n")
    assert json.loads(Path("tuned/answers.json").read_text()) == answers


RESUMED = {
    "classify": "classify --data texts.tsv",
    "classify with adapters": "classify --data texts.tsv --dropout 0.1 --position last-token "
    "--lora-rank 2 --trainable wpe",
    "instruct": "instruct --data entries.json --max-new-tokens 2 --trainable h.1 ln_f "
    "--max-length 60",
}


@pytest.mark.usefixtures("sketch")
@pytest.mark.parametrize("name", RESUMED)
def test_a_run_that_was_stopped_is_resumed_bit_for_bit(npgpt_, monkeypatch, name):
    command, file = name.split()[0], "checkpoint.h5" if name == "instruct" else "classifier.h5"
    npgpt_(f"{RESUMED[name]} {TRAIN} --out whole")
    step, count = AdamW.step, 0

    def stop(optimizer, *args, **options):
        nonlocal count
        count += 1
        step(optimizer, *args, **options)
        if count == 6:
            os.kill(os.getpid(), signal.SIGTERM)
            assert is_locked("run")

    with monkeypatch.context() as patch:
        patch.setattr(AdamW, "step", stop)
        said = npgpt_(f"{RESUMED[name]} {TRAIN} --out run", code=128 + signal.SIGTERM).out
    assert said.endswith(f"is saved in run\nResume with: npgpt {command} --resume run\n")
    assert "Stopped after step 5;" in said
    assert not is_locked("run")
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    said = npgpt_(f"{command} --resume ../run").out
    assert "Resuming ../run after step 5\n" in said and "Before training" not in said
    for one in (file, "metrics.jsonl", "loss.png", *["answers.json"] * (name == "instruct")):
        assert Path("../run", one).read_bytes() == Path("../whole", one).read_bytes(), one
    before = on_disk()
    for flags, says in (
        ("--lr 0.1", "--lr does not fit: the run in ../run has its own"),
        ("--epochs 1", "epochs is 1, but epoch 2 of the run in ../run has started"),
        ("--model ../model.h5", "--model does not fit"),
    ):
        assert says in npgpt_(f"{command} --resume ../run {flags}", code=2).err
    assert on_disk() == before


class Gone(io.StringIO):
    """A stream whose reader has gone."""

    def write(self, text):
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")


@pytest.mark.usefixtures("sketch")
@pytest.mark.parametrize(
    "command, last",
    [("classify --data texts.tsv", "After training"), (RESUMED["instruct"], "run/answers.json")],
)
def test_a_run_continues_without_its_reader(monkeypatch, command, last):
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", Gone())
        assert main(f"{command} {TRAIN} --epochs 1 --out run".split()) == 0
    said = Path("run/train.log").read_text()
    assert said.startswith("[standard output could not be written: Broken pipe.") and last in said


def is_locked(run):
    """Return True if a process holds the lock of a run."""
    try:
        with file_lock(Path(run, LOCK), "it is held"):
            return False
    except RunError:
        return True


@pytest.mark.usefixtures("sketch")
def test_a_run_that_failed_in_its_first_epoch_is_resumed_from_its_start(npgpt_, monkeypatch):
    command = f"classify --data texts.tsv {TRAIN} --epochs 1"
    npgpt_(f"{command} --out whole")
    step = AdamW.step

    def fail(optimizer, *args, **options):
        step(optimizer, *args, **options)
        raise RunError("the power is gone")

    with monkeypatch.context() as patch:
        patch.setattr(AdamW, "step", fail)
        npgpt_(f"{command} --out run", code=1)
    left = Path("run", f".classifier.h5.{'0' * 32}.part")  # of a process that was killed
    left.touch()
    before = on_disk()
    with file_lock(Path("run", LOCK), "it is held"):
        for line in ("classify --resume run", f"{command} --out run"):
            said = npgpt_(line, code=1).err
            assert "another process is training in run: wait for its end" in said
    assert on_disk() == before
    assert "Resuming run from its start\n" in npgpt_("classify --resume run").out
    assert not left.exists() and not is_locked("run")
    for one in ("classifier.h5", "metrics.jsonl", "loss.png"):
        assert Path("run", one).read_bytes() == Path("whole", one).read_bytes(), one


@pytest.mark.usefixtures("sketch")
def test_a_run_that_has_ended_is_made_longer(npgpt_):
    npgpt_(f"classify --data texts.tsv {TRAIN} --out run")
    npgpt_(f"classify --data texts.tsv {TRAIN} --out whole --epochs 3")
    npgpt_("classify --resume run --epochs 3")
    assert lines("run/metrics.jsonl") == lines("whole/metrics.jsonl")
    Path("texts.tsv").write_text(TEXTS.replace("NOW", "now"))
    said = npgpt_("classify --resume run --epochs 4", code=2).err
    assert "the data is not what the run in run was started with" in said
    for line, says in (
        ("classify --resume .", ". has no classifier.h5, which is written when a run starts"),
        ("instruct --resume run/classifier.h5", "has no run of npgpt instruct"),
        ("classify --resume model.h5", "model.h5 has no run of npgpt classify or npgpt instruct"),
        ("train --resume run", "checkpoint.h5"),
    ):
        assert says in npgpt_(line, code=2).err


@pytest.mark.parametrize(
    "line, says",
    [
        ("classify --data ham.tsv --lora-alpha 3", "--lora-alpha and --lora-targets are for"),
        ("classify", "give --data to train a classifier, or --predict TEXT to use one"),
        (
            "classify --data texts.tsv --predict x",
            "give --data to train a classifier, or --predict",
        ),
        ("classify --predict x", "give --model, the directory of a classifier"),
        ("classify --predict x --model model.h5", "model.h5 has no classification head"),
        ("classify --data gone.tsv --model model.h5", "gone.tsv cannot be read"),
        ("classify --data texts.tsv --model model.h5 --epochs 0", "epochs is 0, but must be"),
        ("classify --data texts.tsv --model model.h5 --trainable h.5", "the pattern 'h.5' matches"),
        ("classify --data texts.tsv --model model.h5 --max-length 201", "max_length is 201, but"),
        ("classify --data texts.tsv --model model.h5 --dropout 2", "dropout"),
        (
            "classify --data texts.tsv --model model.h5 --seed -1",
            "seed is -1, but must be at least",
        ),
        ("instruct --data texts.tsv --model model.h5", "texts.tsv, line 1: it has 2 columns, but"),
        ("instruct --data entries.json --model model.h5 --out .", ". already holds files: choose"),
    ],
)
def test_what_is_refused_leaves_no_file(npgpt_, line, says):
    before = on_disk()
    said = npgpt_(f"{line} --ops numpy", code=2)
    assert said.err.startswith("npgpt: ") and says in said.err and said.err.count("\n") == 1
    assert on_disk() == before and not Path("runs").exists()


def test_a_run_that_fails_is_reported(npgpt_):
    said = npgpt_(f"classify --data texts.tsv {TRAIN} --lr 1e30 --no-balance", code=1)
    assert "npgpt: the training loss became nan at step 0. Try a lower --lr" in said.err
    assert "26 of each" not in said.out and "46 training, 6 validation, 14 test" in said.out


@pytest.mark.usefixtures("sketch")
def test_adapters_alone_are_trained_and_are_merged_when_the_file_is_read(npgpt_):
    adapters = "--lora-rank 2 --lora-alpha 8 --lora-targets c_attn --lora-targets mlp"
    more = "--trainable ln_f --trainable h.0.ln_1 --epochs 3"
    told = npgpt_(f"classify --data texts.tsv {TRAIN} --out run {adapters} {more} --max-length 10")
    said = told.out
    assert re.search(r"^Cropped after 10 tokens: \d+ texts$", told.err, re.MULTILINE)
    # the head, two LayerNorms, and two of (16 + 48), (16 + 64) and (64 + 16) times the rank
    assert f"{34 + 64 + 2 * 2 * (64 + 80 + 80):,} of 14,834 parameters are trained" in said
    right = float(re.search(r"After training.* ([\d.]+)% test", said)[1])
    lines = TEXTS.splitlines()[::4]
    options = [part for line in lines for part in ("--predict", line.split("\t")[1])]
    predicted = npgpt_("classify --ops numpy --model run", *options)
    found, longer = predicted.out.splitlines(), sum(len(one) > 10 for one in options[1::2])
    assert f"Cropped after 10 tokens: {longer} texts\n" in predicted.err
    hits = [a.split()[0] == b.split()[0] for a, b in zip(found, lines, strict=True)]
    assert sum(hits) / len(hits) > 0.8 and right > 80
    said = npgpt_(
        f"instruct --data entries.json --max-new-tokens 2 --out tuned {TRAIN} {adapters} --epochs 1"
        " --max-length 160"
    ).err
    assert re.search(r"^Cropped after 160 tokens: \d+ texts$", said, re.MULTILINE)
    before, after = (
        dict(npgpt.named(npgpt.load(p, ops=ops).params)) for p in ("model.h5", "tuned")
    )
    changed = {name for name in before if (before[name] != after[name]).any()}
    assert changed == {
        f"h.{i}.{layer}.weight"
        for i in (0, 1)
        for layer in ("attn.c_attn", "mlp.c_fc", "mlp.c_proj")
    }


def test_quantized_weights_are_not_trained(npgpt_):
    npgpt_("quantize model.h5 --to small --weights int8")
    said = npgpt_(f"classify --data texts.tsv {TRAIN} --model small", code=2)
    assert "quantized matrices" in said.err
