"""npgpt download."""

import functools
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from npgpt.cli.common import default
from npgpt.system.console import make_bar
from npgpt.system.shell import npgpt_command
from npgpt.system.terminal import printable_line


@dataclass(kw_only=True)
class Download:
    """Download OpenAI's GPT-2 weights once; --model and --init-from then accept their name.

    Parameters
    ----------
    name
        124, 355, 774 or 1,558 million parameters: 0.5, 1.4, 3.1 or 6.2 GB.
    source
        Hugging Face's safetensors, or OpenAI's own TensorFlow checkpoint.
    to
        Directory to write to. npgpt info shows the cache directory.
    """

    name: tyro.conf.Positional[Literal["gpt2-small", "gpt2-medium", "gpt2-large", "gpt2-xl"]]
    source: Literal["huggingface", "openai"] = "huggingface"
    to: Annotated[Path | None, default("npgpt's cache directory", "PATH")] = None

    def run(self) -> int:
        """Download the model; return the exit status."""
        from npgpt.download import gpt2
        from npgpt.weights import formats

        check = functools.partial(formats.open_weights, verify=True)
        with DownloadBar() as bar:
            directory = gpt2.download_model(
                self.name, source=self.source, to=self.to, check=check, progress=bar.show
            )
        print(printable_line(str(directory)))
        model = self.name if self.to is None else directory
        print("Next:", npgpt_command("generate", model=model, prompt="Every effort moves you"))
        return 0


class DownloadBar:
    """The progress of each file: a live bar on a terminal, a line per file elsewhere."""

    def __enter__(self) -> "DownloadBar":
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            TaskID,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        self.tasks: dict[str, TaskID] = {}
        self.bar = make_bar(
            sys.stderr,
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
        )
        self.bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.stop()

    def show(self, file: str, done: int, total: int) -> None:
        """Show that `done` of `total` bytes have been received; a total of 0 is unknown."""
        if file not in self.tasks:
            self.tasks[file] = self.bar.add_task(file, total=total or None)
            if self.bar.disable:
                print(f"{file} ({total / 1e6:,.1f} MB)" if total else file, flush=True)
        self.bar.update(self.tasks[file], completed=done, total=total or None)
