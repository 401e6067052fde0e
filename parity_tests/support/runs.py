"""A small training run, and what it leaves on the disk."""

import json
import re
import sys
from pathlib import Path

import pytest

from npgpt.cli.common import COMPILING
from npgpt.model.params import named
from npgpt.weights import checkpoint

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


def final(path):
    """The state of a run, but for how fast it was."""
    model, saved = checkpoint.read_training(Path(path) / "checkpoint.h5")
    for point in saved.state["progress"]["history"]:
        del point["tokens_per_s"]
    trees = (model.params, *saved.moments.values())
    arrays = [(name, a.tobytes()) for tree in trees for name, a in named(tree)]
    return arrays, saved.state["progress"], saved.random_state.tobytes(), saved.order.tolist()
