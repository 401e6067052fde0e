"""npgpt download."""

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro


@dataclass(kw_only=True)
class Download:
    """Fetch OpenAI's GPT-2 weights once; --model and --init-from then know them by their name."""

    name: tyro.conf.Positional[Literal["gpt2-small", "gpt2-medium", "gpt2-large", "gpt2-xl"]]
    """124, 355, 774 or 1,558 million parameters: 0.5, 1.4, 3.1 or 6.2 GB."""
    source: Literal["huggingface", "openai"] = "huggingface"
    """Hugging Face's safetensors, or OpenAI's own TensorFlow checkpoint."""
    to: Path | None = None
    """The folder for it [default: npgpt's cache folder; npgpt info names it]."""

    def run(self) -> int:
        """The exit code."""
        from npgpt.download import gpt2
        from npgpt.weights import formats

        check = functools.partial(formats.open_weights, verify=True)
        with Bar() as bar:
            folder = gpt2.download_model(
                self.name, source=self.source, to=self.to, check=check, progress=bar.show
            )
        print(folder)
        known = self.name if self.to is None else folder
        print(f'Go on with: npgpt generate --model {known} --prompt "Every effort moves you"')
        return 0


class Bar:
    """How far each file is: a live bar on a terminal, a line per file elsewhere."""

    def __enter__(self):
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        console = Console(stderr=True)
        self.live, self.tasks = console.is_terminal, {}
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not self.live,
        )
        self.bar.start()
        return self

    def __exit__(self, *error):
        self.bar.stop()

    def show(self, file: str, done: int, total: int) -> None:
        """`done` bytes of `total` are there; a total of 0 is not known."""
        if file not in self.tasks:
            self.tasks[file] = self.bar.add_task(file, total=total or None)
            if not self.live:
                print(f"{file} ({total / 1e6:,.1f} MB)" if total else file, flush=True)
        self.bar.update(self.tasks[file], completed=done, total=total or None)
