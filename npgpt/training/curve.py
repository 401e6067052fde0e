"""Read the losses, the learning rate and the gradient norm of a run from its directory."""

import os
from array import array
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from npgpt.arrays import Array
from npgpt.errors import InputError
from npgpt.system.files import open_regular, os_error, read_input
from npgpt.training.events import is_count, is_number
from npgpt.training.metrics import parse_line, read_lines
from npgpt.weights.strict_json import MAX_TEXT, parse_json

MAX_METRICS = 1 << 30  # bytes of metrics.jsonl: 4 million steps
COLUMNS = ("tokens_seen", "train_loss", "val_loss", "loss", "lr", "norm")


@dataclass(frozen=True)
class Curve:
    """The numbers of one run."""

    path: Path
    tokens_per_epoch: int
    points: Array  # (n, 6): COLUMNS of each line of metrics.jsonl; nan if a line lacks a number

    def series(self, name: str) -> tuple[Array, Array]:
        """Return the epochs and the values of a column, without the lines that lack it."""
        values = self.points[:, COLUMNS.index(name)]
        known = ~np.isnan(values)
        return self.points[known, 0] / self.tokens_per_epoch, values[known]


def make_curve(path: Path, tokens_per_epoch: int, lines: Iterable[Mapping[str, Any]]) -> Curve:
    """Return the curve of a run from the lines of its metrics."""
    values = array("d")  # 48 bytes per line, where a dict of them has 700
    for line in lines:
        found = (line.get(name) for name in COLUMNS)
        values.extend(value if is_number(value) else np.nan for value in found)
    return Curve(path, tokens_per_epoch, np.array(values).reshape(-1, len(COLUMNS)))


def read_curve(path: Path) -> Curve:
    """Read the numbers of the run in a directory. Raise InputError for invalid files."""
    file = path / "config.json"
    config = parse_json(read_input(file, MAX_TEXT), str(file), any_text=True)
    scale = config.get("tokens_per_epoch") if isinstance(config, dict) else None
    if not is_count(scale) or scale == 0:
        raise InputError(f"{file} has no tokens_per_epoch: not the config of a run")
    file = path / "metrics.jsonl"
    try:
        with open_regular(file) as lines:
            if (size := os.fstat(lines.fileno()).st_size) > MAX_METRICS:
                raise InputError(
                    f"{file} cannot be read: it has {size:,} bytes; at most {MAX_METRICS:,} are "
                    "read. A larger --log-every writes fewer lines"
                )
            parsed = (
                parse_line(line, f"{file}, line {i}") for i, line in enumerate(read_lines(lines), 1)
            )
            curve = make_curve(path, scale, parsed)
    except OSError as error:
        raise os_error(f"{file} cannot be read", error) from None
    if not curve.points.size:
        raise InputError(f"{file} is empty: the run has no evaluation yet")
    return curve
