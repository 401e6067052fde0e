"""The output directory of a fine-tuning run, locked while the run is under way."""

import json
from collections.abc import Container, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from npgpt.errors import InputError, RunError
from npgpt.system import atomic
from npgpt.training.run_dir import LOCK, LOG, lock_run, new_directory

METRICS = "metrics.jsonl"


class Output:
    """A directory, and its metrics.jsonl: one JSON object per line, also in `metrics`."""

    def __init__(self, path: Path, metrics: list[dict[str, Any]]):
        self.path, self.metrics = path, metrics

    def record(self, fields: dict[str, Any]) -> None:
        """Append a line to metrics.jsonl."""
        self.metrics.append(fields)
        atomic.append(self.path / METRICS, json.dumps(fields) + "\n")

    def log(self, text: str) -> None:
        """Append a text that could not be shown to train.log. A failure is ignored."""
        with suppress(RunError):
            atomic.append(self.path / LOG, text)

    def write(self, name: str, text: str) -> None:
        """Write a text file."""
        with atomic.atomic_write(self.path / name) as file:
            file.write(text.encode())


@contextmanager
def create(path: Path | None, name: str, files: Container[str]) -> Iterator[Output]:
    """Make the directory of a new run, by default runs/NAME-1, ..., and hold its lock.

    `files`: the names of the run's own files. Raises InputError if the directory holds any file,
    RunError if another process holds its lock.
    """
    with new_directory(path, name) as path, lock_run(path, lambda name: name in files):
        if any(file.name != LOCK for file in path.iterdir()):
            raise InputError(f"{path} already holds files: choose another --out")
        yield Output(path, [])


def reopen(path: Path, metrics: list[dict[str, Any]]) -> Output:
    """Return the directory of a run whose lock is held, without the lines that follow these."""
    output = Output(path, metrics)
    output.write(METRICS, "".join(json.dumps(line) + "\n" for line in metrics))
    return output
