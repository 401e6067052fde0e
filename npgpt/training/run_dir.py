"""Read and write the output directory of a training run."""

import io
import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from npgpt.config import RunConfig
from npgpt.data.dataset import Tokens
from npgpt.data.tokenizer import REPLACEMENT, Tokenizer
from npgpt.errors import InputError, RunError
from npgpt.system.atomic import TEMPORARY, append, atomic_write, make_directory, remove, sync_file
from npgpt.system.files import file_lock, open_regular, os_error
from npgpt.system.shell import option
from npgpt.training import run_state
from npgpt.training.checkpoints import (
    BEST,
    Checkpoints,
    best_evaluation,
    delete_older,
    is_own,
    settle_best,
)
from npgpt.training.curve import read_curve
from npgpt.training.event_file import EventFile
from npgpt.training.events import Evaluation, Event, Progress, Sample, Step
from npgpt.training.metrics import evaluation_line, lines_before, step_line
from npgpt.training.plot import plot
from npgpt.training.run_paths import absolute_paths
from npgpt.training.trainer import Trainer
from npgpt.weights.formats import CHECKPOINT

CONTENTS = {
    "config.json": "settings",
    "metrics.jsonl": "losses and speed: one JSON object per evaluation, and per step",
    "samples.txt": "text generated after each epoch",
    "loss.png": "plot of the losses, learning rate and gradient norm",
    CHECKPOINT: "model and training state, to generate or to resume",
}
LOG = "train.log"  # only in a run whose output could not be shown
LOCK = ".npgpt.lock"  # held while the run is under way


class RunDir:
    """The output directory of one run.

    Attributes
    ----------
    path : Path
    settings : RunConfig
        Set by `open`, as are the other two.
    data_sha256 : str
        Digest of the tokens.
    tokenizer : Tokenizer
    """

    settings: RunConfig
    data_sha256: str
    tokenizer: Tokenizer

    def __init__(self, path: Path):
        self.path = path
        self.event_file: EventFile | None = None  # with --tensorboard

    def require_unused(self) -> None:
        """Raise InputError if the directory has a run, or another file that a run would replace."""
        if self.holds_run:
            raise InputError(
                f"{self.path} already holds a run: choose another --out, "
                f"or resume it with {option('resume', self.path)}"
            )
        for name in sorted(os.listdir(self.path)) if self.path.is_dir() else []:
            if name in CONTENTS or is_own(name):
                raise InputError(f"{self.path / name} already exists: choose another --out")

    @property
    def holds_run(self) -> bool:
        """Return True if the directory has the settings or the checkpoint of a run."""
        return any(os.path.lexists(self.path / name) for name in ("config.json", CHECKPOINT))

    @property
    def absolute_path(self) -> str:
        """The path of the directory, from which its data is found if both are moved."""
        return os.path.abspath(self.path)

    @property
    def has_checkpoint(self) -> bool:
        """Return True if the run has been saved."""
        return (self.path / CHECKPOINT).exists()

    @contextmanager
    def locked(self) -> Iterator["RunDir"]:
        """Hold the lock of the directory. Raise RunError if another process holds it."""
        with lock_run(self.path, lambda name: name in CONTENTS or is_own(name)):
            try:
                yield self
            finally:
                self.close()

    def open(
        self,
        settings: RunConfig,
        tokens: Tokens,
        trainer: Trainer,
        *,
        resumed: Path | None = None,
    ) -> None:
        """Write the files as of the trainer's progress.

        For a resumed run this removes lines that were written after its last checkpoint. `resumed`:
        its directory, if it is another one. If a file of a new run cannot be written, none is left.
        """
        self.settings = settings = absolute_paths(settings)
        self.data_sha256 = tokens.sha256
        self.tokenizer = tokens.tokenizer
        # A kill may have come between checkpoint.h5 and the files that follow it.
        settle_best(self.path, trainer.progress.history)
        delete_older(self.path, trainer.progress.step, settings.training.keep)
        derived: dict[str, Any] = {
            "parameters": trainer.model.size,
            "tokens_per_epoch": trainer.tokens_per_epoch,
            "total_steps": trainer.total_steps,
            "data_sha256": tokens.sha256,
            "directory": self.absolute_path,
        }
        done = trainer.progress
        samples = (self.sample_text(**sample) for sample in done.samples)
        contents: dict[str, Iterable[bytes]] = {
            "metrics.jsonl": metrics_of(resumed or self.path, done),
            "samples.txt": (text.encode() for text in samples),
            # The last one is renamed first: with its settings, a run can be resumed.
            "config.json": [json.dumps(asdict(settings) | derived, indent=2).encode(), b"\n"],
        }
        is_new = not self.holds_run
        try:
            with ExitStack() as stack:  # every file is on the disk before one is renamed
                for name, parts in contents.items():
                    file = stack.enter_context(atomic_write(self.path / name))
                    file.writelines(parts)
                    sync_file(file)
        except BaseException as error:
            if is_new:
                for name in contents:
                    remove(self.path / name)
                left = any(os.path.lexists(self.path / name) for name in contents)
                if isinstance(error, RunError) and not left:
                    raise RunError(f"{error}; the new run was removed") from None
            raise
        if settings.training.tensorboard:
            self.event_file = EventFile(self.path, first_step=done.step)

    def sample_text(self, step: int, epoch: int, tokens: list[int]) -> str:
        """Return one entry of samples.txt."""
        decoded = self.tokenizer.decode(tokens, unknown=REPLACEMENT)
        return f"--- epoch {epoch}, step {step}\n{decoded}\n"

    def record(self, event: Event) -> None:
        """Append an event to metrics.jsonl or samples.txt, and to TensorBoard's file."""
        match event:
            case Step(step=step) if step % self.settings.training.log_every:
                return
            case Step():
                append(self.path / "metrics.jsonl", step_line(event))
            case Evaluation():
                append(self.path / "metrics.jsonl", evaluation_line(event))
            case Sample():
                append(self.path / "samples.txt", self.sample_text(**vars(event)))
        if self.event_file:
            self.event_file.add(event, self.tokenizer)

    def close(self) -> None:
        """Close TensorBoard's file, if one is open."""
        if self.event_file:
            self.event_file.close()

    def log(self, text: str) -> None:
        """Append a text that could not be shown to train.log. A failure is ignored."""
        with suppress(RunError):
            append(self.path / LOG, text)

    def checkpoints(self, trainer: Trainer) -> Checkpoints:
        """Return the writer of the run's checkpoints, a context manager."""
        record = run_state.Record(self.settings, self.data_sha256, self.absolute_path)
        return Checkpoints(self.path, trainer, record)

    def describe_best(self, history: list[dict[str, Any]]) -> dict[str, str]:
        """Return the name of the best model with its description, if the run has one."""
        best = best_evaluation(history)
        if best is None or not (self.path / BEST).exists():
            return {}
        loss, step = best["val_loss"], best["step"]
        return {BEST: f"model with the lowest validation loss, {loss:.3f} after step {step}"}

    def plot(self, trainer: Trainer) -> None:
        """Write loss.png if the run has been evaluated at least once. Raise RunError on failure."""
        if trainer.progress.history:
            try:
                curve = read_curve(self.path)
            except InputError as error:  # another program has changed the files
                raise RunError(f"{self.path / 'loss.png'} could not be drawn: {error}") from None
            plot([curve], self.path / "loss.png")


def metrics_of(path: Path, done: Progress) -> Iterator[bytes]:
    """Yield the lines of metrics.jsonl up to a position, for a run whose files are in `path`."""
    name = path / "metrics.jsonl"
    try:
        with open_regular(name) if done.step and name.exists() else io.BytesIO() as file:
            yield from lines_before(done.step, done.history, file)
    except OSError as error:
        raise os_error(f"{name} cannot be read", error) from None


@contextmanager
def new_run_dir(path: Path | None, preset: str, *, parent: Path = Path("runs")) -> Iterator[RunDir]:
    """Create the directory of a new run and hold its lock.

    Without `path`, it is the first of runs/PRESET-1, runs/PRESET-2, ... that does not exist.
    Raises InputError if `path` already holds a run.
    """
    with new_directory(path, preset, parent) as path, RunDir(path).locked() as directory:
        directory.require_unused()
        yield directory


@contextmanager
def new_directory(path: Path | None, name: str, parent: Path = Path("runs")) -> Iterator[Path]:
    """Create a directory, by default the next of parent/NAME-1, ... An empty one is removed again.

    Raises InputError if it cannot be created.
    """
    try:
        if path is None:
            path, created = create_numbered(parent, name), True
        else:
            created = make_directory(path)
    except OSError as error:
        text = f"the run directory {path or parent} cannot be created"
        raise os_error(text, error) from None
    try:
        yield path
    finally:
        if created:
            with suppress(OSError):  # it has files, unless the run has failed before its first one
                path.rmdir()


@contextmanager
def lock_run(path: Path, is_own: Callable[[str], bool]) -> Iterator[None]:
    """Hold the lock of a run's directory. Raise RunError if another process holds it.

    The temporary files that a killed run left of its own files are deleted, if possible. Only the
    holder of the lock writes them, but loss.png's: npgpt plot may be writing it.
    """
    busy = f"another process is training in {path}: wait for its end, or choose another --out"
    with ExitStack() as stack:
        try:
            stack.enter_context(file_lock(path / LOCK, busy))
        except OSError as error:
            raise os_error(f"{path / LOCK} cannot be locked", error) from None
        with suppress(OSError):
            for found in filter(None, map(TEMPORARY.fullmatch, os.listdir(path))):
                if found[1] != "loss.png" and is_own(found[1]):
                    remove(path / found[0])
        yield


def create_numbered(parent: Path, preset: str) -> Path:
    """Create the first directory of parent/PRESET-1, parent/PRESET-2, ... that does not exist."""
    for number in itertools.count(1):
        path = parent / f"{preset}-{number}"
        # Looking and creating are one step: another run may be looking for a name, too.
        with suppress(FileExistsError):  # it is a file
            if make_directory(path):
                return path
    raise AssertionError("there is always a next number")


def latest_checkpoint(parent: Path = Path("runs")) -> Path:
    """Return the newest checkpoint under `parent`. Raise InputError if it has none."""
    found = latest_checkpoints(parent)
    if not found:
        raise InputError(
            "./runs has no checkpoint: train a model with npgpt train, or name one with --model"
        )
    return found[0]


def latest_checkpoints(parent: Path = Path("runs")) -> list[Path]:
    """Return the checkpoints of all runs under `parent`, the newest first."""
    found = []
    for path in parent.glob(f"*/{CHECKPOINT}"):
        with suppress(FileNotFoundError):  # deleted meanwhile, or a link to no file
            found.append((path.stat().st_mtime, path))
    return [path for _, path in sorted(found, reverse=True)]


def run_dir_of(path: Path) -> Path | None:
    """Return the run directory that `path` names directly or by its checkpoint, else None."""
    if path.name == CHECKPOINT and path.is_file():
        return path.parent
    return path if path.is_dir() else None
