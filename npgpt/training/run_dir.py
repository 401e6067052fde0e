"""The folder of a run: what it leaves there, and where to find it again."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from npgpt.config import RunConfig
from npgpt.data.dataset import Tokens
from npgpt.data.tokenizer import decode, tokenizer
from npgpt.errors import InputError, RunError
from npgpt.model.params import named
from npgpt.system.files import atomic_write
from npgpt.training.plot import Curve, plot
from npgpt.training.trainer import Evaluation, Sample, Trainer
from npgpt.weights import checkpoint
from npgpt.weights.formats import CHECKPOINT

CONTENTS = {
    "config.json": "the settings",
    "metrics.jsonl": "losses, one object per evaluation",
    "samples.txt": "the text after every epoch",
    "loss.png": "both losses as a picture",
    CHECKPOINT: "the model, and all it takes to go on",
}


class RunDir:
    """Where a run leaves what it makes."""

    def __init__(self, path: Path):
        self.path = path

    def vacant(self) -> None:
        """Raises InputError if the folder holds a run already."""
        if any((self.path / name).exists() for name in ("config.json", CHECKPOINT)):
            raise InputError(
                f"{self.path} already holds a run: choose another --out, "
                f"or go on with it by --resume {self.path}"
            )

    def open(self, settings: RunConfig, tokens: Tokens, run: Trainer) -> None:
        """Makes the folder and what goes into it so far. In a run that goes on, what was written
        after its last checkpoint is taken back."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            for part in self.path.glob(".*.part"):  # what a killed run was about to write
                part.unlink(missing_ok=True)
        except OSError as error:
            raise InputError(f"the folder {self.path} cannot be made: {error.strerror}") from None
        self.settings, self.tokens = settings, tokens
        derived = {
            "parameters": run.model.size,
            "tokens_per_epoch": run.tokens_per_epoch,
            "total_steps": run.total_steps,
            "data_sha256": tokens.sha256,
        }
        self.write("config.json", json.dumps(asdict(settings) | derived, indent=2) + "\n")
        done = run.progress
        self.write("metrics.jsonl", "".join(json.dumps(line) + "\n" for line in done.history))
        self.write("samples.txt", "".join(self.sample_text(**sample) for sample in done.samples))

    def sample_text(self, step: int, epoch: int, tokens: list[int]) -> str:
        """One entry of samples.txt."""
        decoded = decode(tokenizer(self.settings.tokenizer), tokens)
        return f"--- epoch {epoch}, step {step}\n{decoded}\n"

    def add_evaluation(self, seen: Evaluation) -> None:
        """One more line of metrics.jsonl."""
        self.append("metrics.jsonl", json.dumps(vars(seen)) + "\n")

    def add_sample(self, sample: Sample) -> None:
        """One more entry of samples.txt."""
        self.append("samples.txt", self.sample_text(**vars(sample)))

    def save(self, run: Trainer) -> None:
        """The checkpoint. Raises RunError for parameters that are not numbers."""
        for name, array in named(run.model.params):
            if not (np.isfinite(array.min()) and np.isfinite(array.max())):
                raise RunError(
                    f"{name} is no longer finite after step {run.progress.step - 1}; the "
                    "checkpoint before it is kept. Try a lower --lr, or --grad-clip 1"
                )
        progress = dict(vars(run.progress))
        order = progress.pop("order")
        state: dict[str, Any] = {
            "settings": asdict(self.settings),
            "progress": progress,
            "data_sha256": self.tokens.sha256,
        }
        saved = checkpoint.TrainingState(
            state=state,
            random_state=run.rng.state,
            order=np.empty(0, np.int64) if order is None else order,
            m=run.optimizer.m,
            v=run.optimizer.v,
        )
        checkpoint.write(self.path / CHECKPOINT, run.model, saved)

    def plot(self, run: Trainer) -> None:
        """loss.png, once there is something to see."""
        curve = Curve(self.path.name, run.progress.history, run.tokens_per_epoch)
        if curve.history:
            self.guard(lambda: plot([curve], self.path / "loss.png"), "loss.png")

    def write(self, name: str, content: str) -> None:
        """A whole file, in place of the one before."""

        def whole():
            with atomic_write(self.path / name) as temporary:
                temporary.write_text(content, "utf-8")

        self.guard(whole, name)

    def append(self, name: str, content: str) -> None:
        """More at the end of a file."""

        def more():
            with open(self.path / name, "a", encoding="utf-8") as file:
                file.write(content)

        self.guard(more, name)

    def guard(self, write, name: str) -> None:
        """`write()`, and a RunError that names the file if it fails."""
        try:
            write()
        except OSError as error:
            what = error.strerror or error
            raise RunError(f"{self.path / name} could not be written: {what}") from None


def next_run_dir(preset: str, *, parent: Path = Path("runs")) -> Path:
    """The first of runs/PRESET-1, runs/PRESET-2, ... that is not there yet."""
    number = 1
    while (parent / f"{preset}-{number}").exists():
        number += 1
    return parent / f"{preset}-{number}"


def latest(parent: Path = Path("runs")) -> Path:
    """The checkpoint written last under `runs`. Raises InputError when there is none."""
    found = sorted(parent.glob(f"*/{CHECKPOINT}"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise InputError("there is no run under ./runs yet: train one, or name one with --model")
    return found[-1]


def run_dir_of(path: Path) -> Path | None:
    """The folder of the run that a path names, by itself or by its checkpoint."""
    if path.name == CHECKPOINT and path.is_file():
        return path.parent
    return path if path.is_dir() else None
