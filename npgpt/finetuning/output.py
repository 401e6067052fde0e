"""The output directory of a fine-tuning run."""

import json
from pathlib import Path
from typing import Any, Self

from npgpt.errors import InputError
from npgpt.system import atomic
from npgpt.system.files import os_error
from npgpt.training.run_dir import create_numbered

METRICS = "metrics.jsonl"


class Output:
    """A directory, and its metrics.jsonl: one JSON object per line, also in `metrics`."""

    def __init__(self, path: Path | None, name: str):
        """Make a directory: by default runs/NAME-1, ... Raises InputError if it holds files."""
        self.metrics = list[dict[str, Any]]()
        try:
            if path is None:
                path = create_numbered(Path("runs"), name)
            elif path.is_dir() and any(path.iterdir()):
                raise InputError(f"{path} already holds files: choose another --out")
            else:
                atomic.make_directory(path)
        except OSError as error:
            text = f"the directory {path or 'runs'} cannot be created"
            raise os_error(text, error) from None
        self.path = path

    @classmethod
    def resume(cls, path: Path, metrics: list[dict[str, Any]]) -> Self:
        """Return the directory of a run, without the lines that follow these."""
        self = cls.__new__(cls)
        self.path, self.metrics = path, metrics
        self.write(METRICS, "".join(json.dumps(line) + "\n" for line in metrics))
        return self

    def record(self, fields: dict[str, Any]) -> None:
        """Append a line to metrics.jsonl."""
        self.metrics.append(fields)
        atomic.append(self.path / METRICS, json.dumps(fields) + "\n")

    def write(self, name: str, text: str) -> None:
        """Write a text file."""
        with atomic.atomic_write(self.path / name) as file:
            file.write(text.encode())
