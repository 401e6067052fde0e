"""A small training run, and what it leaves on the disk."""

import json
import re
import sys
from pathlib import Path

import pytest

from npgpt.cli.common import COMPILING
from npgpt.model.params import named
from npgpt.training.metrics import CLOCK_KEYS
from npgpt.weights import checkpoint, formats

TINY = (
    "--n-layer 1 --n-embd 16 --n-head 2 --context-length 16 --batch-size 4 --stride 16 "
    "--eval-every 2 --sample-tokens 3 --warmup-steps 1"
).split()
FILES = {"config.json", "metrics.jsonl", "samples.txt", "loss.png", "checkpoint.h5", "best.h5"}
TEXT = "The lamp is lit at dusk, and the keeper writes the hour in the book. " * 12  # 828 bytes


POSIX_ONLY = pytest.mark.skipif(
    sys.platform == "win32", reason="signals, file size limits and arguments of bytes are POSIX"
)


def unannounced(stderr: str) -> str:
    """Return the messages of a command, without the line about compiling kernels."""
    return re.sub(rf"{COMPILING}.*\n", "", stderr)


def on_disk():
    return {str(p): p.read_bytes() for p in Path().rglob("*") if p.is_file()}


def lines(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def without_clock(line):
    """Return the fields of a line of metrics.jsonl that are equal in two equal runs."""
    return {name: value for name, value in line.items() if name not in CLOCK_KEYS}


def metrics(path):
    """Return the lines of a run's metrics.jsonl, without what the clock decides."""
    return [without_clock(line) for line in lines(Path(path) / "metrics.jsonl")]


def evaluations(path):
    """Return the evaluations in a run's metrics.jsonl."""
    return [line for line in lines(Path(path) / "metrics.jsonl") if "val_loss" in line]


def final(path):
    """The state of a run in its directory or checkpoint, but for how fast it was."""
    model, saved = checkpoint.read_training(formats.checkpoint_file(Path(path)))
    progress = saved.state["progress"]
    progress["history"] = [without_clock(line) for line in progress["history"]]
    trees = (model.params, *saved.moments.values())
    arrays = [(name, a.tobytes()) for tree in trees for name, a in named(tree)]
    return arrays, progress, saved.random_state.tobytes(), saved.order.tolist()
