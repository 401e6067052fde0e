"""Read the losses of a run from its directory."""

import io
from array import array
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from npgpt.arrays import Array
from npgpt.errors import InputError, show
from npgpt.system.files import read_input
from npgpt.training.events import is_count, is_number
from npgpt.weights.strict_json import MAX_TEXT, parse_json

MAX_METRICS = 1 << 26  # bytes of metrics.jsonl: 400,000 evaluations
MAX_LINE = 4096  # bytes; an evaluation has 150


@dataclass(frozen=True)
class Curve:
    """The losses of one run."""

    path: Path
    tokens_per_epoch: int
    points: Array  # (n, 3): tokens_seen, train_loss, val_loss of each evaluation


def make_curve(path: Path, tokens_per_epoch: int, history: Iterable[Mapping[str, Any]]) -> Curve:
    """Return the curve of a run from the fields of its evaluations."""
    values = array("d")  # 24 bytes per evaluation, where a dict of them has 500
    for point in history:
        values.extend((point["tokens_seen"], point["train_loss"], point["val_loss"]))
    return Curve(path, tokens_per_epoch, np.array(values).reshape(-1, 3))


def read_curve(path: Path) -> Curve:
    """Read the losses of the run in a directory. Raise InputError for invalid files."""
    file = path / "config.json"
    config = parse_json(read_input(file, MAX_TEXT), str(file), any_text=True)
    scale = config.get("tokens_per_epoch") if isinstance(config, dict) else None
    if not is_count(scale) or scale == 0:
        raise InputError(f"{file} has no tokens_per_epoch: not the config of a run")
    file = path / "metrics.jsonl"
    lines = io.BytesIO(read_input(file, MAX_METRICS))
    points = (parse_point(line, f"{file}, line {i}") for i, line in enumerate(lines, 1))
    curve = make_curve(path, scale, points)
    if not curve.points.size:
        raise InputError(f"{file} is empty: the run has no evaluation yet")
    return curve


def parse_point(line: bytes, about: str) -> dict[str, Any]:
    """Return the evaluation in a line of metrics.jsonl. Raise InputError if it is invalid."""
    if len(line) > MAX_LINE:
        raise InputError(f"{about} has {len(line):,} bytes, but must have at most {MAX_LINE:,}")
    point = parse_json(line, about)
    if not isinstance(point, dict):
        raise InputError(f"{about} is {show(point)}, but must be a JSON object")
    for name in ("tokens_seen", "train_loss", "val_loss"):
        if name not in point:
            raise InputError(f"{about} has no {name}: not an evaluation of a run")
        is_valid, kind = (is_count, "a count") if name == "tokens_seen" else (is_number, "a number")
        if not is_valid(point[name]):
            raise InputError(f"{about}: {name} is {show(point[name])}, but must be {kind}")
    return point
