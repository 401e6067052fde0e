"""Read and write the output directory of a training run."""

import itertools
import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from npgpt.config import RunConfig
from npgpt.data.dataset import Tokens
from npgpt.data.tokenizer import decode, tokenizer
from npgpt.errors import InputError, RunError
from npgpt.model.params import named
from npgpt.system.files import TEMPORARY, atomic_write, file_lock
from npgpt.training import run_state
from npgpt.training.curve import make_curve
from npgpt.training.events import Evaluation, Sample
from npgpt.training.plot import plot
from npgpt.training.trainer import Trainer
from npgpt.weights.formats import CHECKPOINT

CONTENTS = {
    "config.json": "settings",
    "metrics.jsonl": "losses: one JSON object per evaluation",
    "samples.txt": "text generated after each epoch",
    "loss.png": "plot of both losses",
    CHECKPOINT: "model and training state, to generate or to resume",
}
LOG = "train.log"  # only in a run whose output could not be shown
LOCK = ".npgpt.lock"  # held while the run is under way


class RunDir:
    """The output directory of one run."""

    def __init__(self, path: Path):
        self.path = path

    def require_unused(self) -> None:
        """Raise InputError if the directory already holds a run."""
        if any((self.path / name).exists() for name in ("config.json", CHECKPOINT)):
            raise InputError(
                f"{self.path} already holds a run: choose another --out, "
                f"or resume it with --resume {self.path}"
            )

    @property
    def has_checkpoint(self) -> bool:
        """Return True if the run has been saved."""
        return (self.path / CHECKPOINT).exists()

    @contextmanager
    def locked(self) -> Iterator["RunDir"]:
        """Hold the lock of the directory. Raise RunError if another process holds it."""
        busy = (
            f"another process is training in {self.path}: wait for its end, or choose another --out"
        )
        with ExitStack() as stack:
            with creation_errors(self.path):
                stack.enter_context(file_lock(self.path / LOCK, busy))
                for part in self.path.glob(".*.part"):
                    found = TEMPORARY.fullmatch(part.name)
                    # Only the holder of the lock writes these: a process that was killed left it.
                    if found and found[1] in CONTENTS:
                        part.unlink(missing_ok=True)
            yield self

    def open(self, settings: RunConfig, tokens: Tokens, trainer: Trainer) -> None:
        """Write the files as of the trainer's progress.

        For a resumed run this removes lines that were written after its last checkpoint.
        """
        self.settings, self.tokens = settings, tokens
        derived: dict[str, Any] = {
            "parameters": trainer.model.size,
            "tokens_per_epoch": trainer.tokens_per_epoch,
            "total_steps": trainer.total_steps,
            "data_sha256": tokens.sha256,
        }
        self._replace("config.json", json.dumps(asdict(settings) | derived, indent=2) + "\n")
        done = trainer.progress
        self._replace("metrics.jsonl", "".join(json.dumps(line) + "\n" for line in done.history))
        self._replace("samples.txt", "".join(self.sample_text(**sample) for sample in done.samples))

    def sample_text(self, step: int, epoch: int, tokens: list[int]) -> str:
        """Return one entry of samples.txt."""
        decoded = decode(tokenizer(self.settings.tokenizer), tokens)
        return f"--- epoch {epoch}, step {step}\n{decoded}\n"

    def add_evaluation(self, evaluation: Evaluation) -> None:
        """Append a line to metrics.jsonl."""
        self._append("metrics.jsonl", json.dumps(vars(evaluation)) + "\n")

    def add_sample(self, sample: Sample) -> None:
        """Append an entry to samples.txt."""
        self._append("samples.txt", self.sample_text(**vars(sample)))

    def log(self, text: str) -> None:
        """Append a text that could not be shown to train.log. Nothing is raised."""
        with suppress(OSError), open(self.path / LOG, "a", encoding="utf-8") as file:
            file.write(text)

    def save(self, trainer: Trainer) -> None:
        """Write the checkpoint. Raise RunError if a parameter is not finite."""
        for name, array in named(trainer.model.params):
            if not (np.isfinite(array.min()) and np.isfinite(array.max())):
                raise RunError(
                    f"{name} is no longer finite after step {trainer.progress.step - 1}; the "
                    "checkpoint before it is kept. Try a lower --lr, or --grad-clip 1"
                )
        run_state.write(self.path / CHECKPOINT, trainer, self.settings, self.tokens.sha256)

    def plot(self, trainer: Trainer) -> None:
        """Write loss.png if the run has been evaluated at least once. Raise RunError on failure."""
        if history := trainer.progress.history:
            curve = make_curve(self.path, trainer.tokens_per_epoch, history)
            plot([curve], self.path / "loss.png")

    def _replace(self, name: str, content: str) -> None:
        with self._named_errors(name), atomic_write(self.path / name) as temporary:
            temporary.write_text(content, "utf-8")

    def _append(self, name: str, content: str) -> None:
        with self._named_errors(name), open(self.path / name, "a", encoding="utf-8") as file:
            file.write(content)

    @contextmanager
    def _named_errors(self, name: str) -> Iterator[None]:
        """Turn an OSError into a RunError that names the file."""
        try:
            yield
        except OSError as error:
            reason = error.strerror or error
            raise RunError(f"{self.path / name} could not be written: {reason}") from None


@contextmanager
def new_run_dir(path: Path | None, preset: str, *, parent: Path = Path("runs")) -> Iterator[RunDir]:
    """Create the directory of a new run and hold its lock.

    Without `path`, it is the first of runs/PRESET-1, runs/PRESET-2, ... that does not exist.
    Raises InputError if `path` already holds a run.
    """
    with creation_errors(path or parent):
        if path is None:
            path = create_numbered(parent, preset)
        path.mkdir(parents=True, exist_ok=True)
    with RunDir(path).locked() as directory:
        directory.require_unused()
        yield directory


def create_numbered(parent: Path, preset: str) -> Path:
    """Create the first directory of parent/PRESET-1, parent/PRESET-2, ... that does not exist."""
    for number in itertools.count(1):
        path = parent / f"{preset}-{number}"
        # Looking and creating are one step: another run may be looking for a name, too.
        with suppress(FileExistsError):
            path.mkdir(parents=True)
            return path
    raise AssertionError("there is always a next number")


@contextmanager
def creation_errors(path: Path) -> Iterator[None]:
    """Turn an OSError into an InputError that names the directory."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"the run directory {path} cannot be created: {error.strerror or error}"
        ) from None


def latest_checkpoint(parent: Path = Path("runs")) -> Path:
    """Return the newest checkpoint under `parent`. Raise InputError if it has none."""
    found = sorted(parent.glob(f"*/{CHECKPOINT}"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise InputError(
            "./runs has no checkpoint: train a model with npgpt train, or name one with --model"
        )
    return found[-1]


def run_dir_of(path: Path) -> Path | None:
    """Return the run directory that `path` names directly or by its checkpoint, else None."""
    if path.name == CHECKPOINT and path.is_file():
        return path.parent
    return path if path.is_dir() else None
