"""The output directory of a fine-tuning run."""

import json
from pathlib import Path
from typing import Any

from npgpt.errors import InputError
from npgpt.system import atomic
from npgpt.system.files import os_error
from npgpt.training.run_dir import create_numbered

METRICS = "metrics.jsonl"


class Output:
    """A new directory, and its metrics.jsonl: one JSON object per line."""

    def __init__(self, path: Path | None, name: str):
        """`path`: by default runs/NAME-1, then -2, ... Raises InputError if it holds files."""
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

    def record(self, fields: dict[str, Any]) -> None:
        """Append a line to metrics.jsonl."""
        atomic.append(self.path / METRICS, json.dumps(fields) + "\n")

    def write(self, name: str, text: str) -> None:
        """Write a text file."""
        with atomic.atomic_write(self.path / name) as file:
            file.write(text.encode())
