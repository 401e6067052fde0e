"""The checkpoints of a run under way: when they are due, and how they are written.

checkpoint.h5         the newest
checkpoint-000500.h5  an older one, of the run after 500 steps, with --keep
best.h5               the model with the lowest validation loss, as of checkpoint.h5

They are written behind: training waits only for a copy in memory.

best.h5 must not be ahead of checkpoint.h5. A run that is killed and resumed with another learning
rate would otherwise have a best model from steps that it no longer makes. Therefore a model is
written to .best-000123.h5, the number of its step, and renamed once checkpoint.h5 names that step.
"""

import math
import os
import re
import time
from pathlib import Path
from typing import Any, NamedTuple

from npgpt.config import TrainingConfig
from npgpt.model import finite
from npgpt.model.params import named
from npgpt.system.atomic import link_or_copy, remove, replace
from npgpt.training import run_state, snapshot
from npgpt.training.background import Background
from npgpt.training.events import Evaluation
from npgpt.training.trainer import Trainer
from npgpt.weights import checkpoint
from npgpt.weights.formats import CHECKPOINT

BEST = "best.h5"
OLDER = re.compile(r"checkpoint-(\d{6,})\.h5")
CANDIDATE = re.compile(r"\.best-(\d{6,})\.h5")
NEVER = -1


class Candidate(NamedTuple):
    """The best model since the last checkpoint, and the step of its evaluation."""

    step: int
    model: checkpoint.Contents


class Checkpoints:
    """Write the checkpoints of a run; at the end of the block, wait for the last one.

    Parameters
    ----------
    path : Path
        The run directory.
    trainer : Trainer
    record : run_state.Record
        The settings and the digest of the data, which are part of every checkpoint.
    """

    def __init__(self, path: Path, trainer: Trainer, record: run_state.Record) -> None:
        self.path, self.trainer, self.record = path, trainer, record
        self.training = record.settings.training
        progress = trainer.progress
        self.saved = progress.step if (path / CHECKPOINT).exists() else NEVER
        self.saved_at = time.monotonic()
        self.lowest = min((line["val_loss"] for line in progress.history), default=math.inf)
        self.candidate: Candidate | None = None
        self.copied: tuple[checkpoint.Contents, checkpoint.TrainingState] | None = None
        self.background, self.is_prepared = Background(), False

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        try:
            self.background.wait()
        except BaseException:
            if error is None:  # one error is enough
                raise

    def is_due_by_clock(self) -> bool:
        """Return True if `checkpoint_minutes` have passed. It waits for no earlier checkpoint."""
        minutes, elapsed = self.training.checkpoint_minutes, time.monotonic() - self.saved_at
        return minutes is not None and elapsed >= 60 * minutes and not self.background.busy

    def check(self) -> None:
        """Raise the error of a checkpoint that could not be written behind."""
        self.background.check()

    def prepare(self) -> None:
        """Take the memory of the copy behind, once: pages new to a process take seconds.

        Not before the first step, which shows how much memory training needs.
        """
        left = self.trainer.total_steps - self.trainer.progress.step
        if not self.is_prepared and left > 1:
            self.is_prepared = True
            moments = self.trainer.moments_to_copy()
            run = run_state.capture(self.trainer, self.record, moments)
            model = run_state.contents(self.trainer)
            self.background.start(lambda: self.copy(model, run))

    def copy(self, model: checkpoint.Contents, run: checkpoint.TrainingState) -> None:
        """Copy the run into the memory of the last copy. Keep None if it does not fit."""
        self.copied = snapshot.copy_run(model, run, self.copied)

    def add_evaluation(self, evaluation: Evaluation) -> None:
        """Copy the model if its validation loss is the lowest so far."""
        if not evaluation.val_loss < self.lowest:
            return
        self.lowest, self.candidate = evaluation.val_loss, None
        model = run_state.contents(self.trainer)
        if (copied := snapshot.copy_model(model)) is not None:
            self.candidate = Candidate(evaluation.step, copied)
        else:
            checkpoint.write(self.path / candidate_name(evaluation.step), model)

    def save(self, *, last: bool = False) -> None:
        """Write a checkpoint behind; the `last` one in the foreground, which takes no copy.

        Waits for the previous one. Raises RunError if a parameter is not finite.
        """
        done = self.trainer.progress.step
        finite.check_step(
            named(self.trainer.model.params), done - 1, "a lower --lr, or --grad-clip 1"
        )
        self.background.wait()  # before the copy, so that there are never two
        run = run_state.contents(self.trainer), run_state.capture(self.trainer, self.record)
        if last:
            self.copied = None
        else:
            self.copy(*run)
        candidate, self.candidate = self.candidate, None
        before, self.saved, self.saved_at = self.saved, done, time.monotonic()
        if (copied := self.copied) is None:
            self.write(*run, candidate, before)
        else:
            self.background.start(lambda: self.write(*copied, candidate, before))

    def finish(self) -> None:
        """Save the run unless that is done, and wait until it is on the disk."""
        self.background.wait()
        if self.saved != self.trainer.progress.step > 0:
            self.save(last=True)

    def write(
        self,
        model: checkpoint.Contents,
        run: checkpoint.TrainingState,
        candidate: Candidate | None,
        before: int,
    ) -> None:
        """Write the files of a checkpoint. `before`: the steps of the previous one."""
        if candidate is not None:
            checkpoint.write(self.path / candidate_name(candidate.step), candidate.model)
        newest, keep = self.path / CHECKPOINT, self.training.keep
        if keep and before not in (NEVER, run.state["progress"]["step"]):
            link_or_copy(newest, self.path / f"checkpoint-{before:06d}.h5")
        replaced = inode(newest)
        try:
            checkpoint.write(newest, model, run)
        except BaseException:
            if inode(newest) == replaced:  # the file that was there before
                settle_best(self.path, [])
            raise
        settle_best(self.path, run.state["progress"]["history"])
        delete_older(self.path, run.state["progress"]["step"], keep)


def is_due(training: TrainingConfig, done: int, ends_epoch: bool) -> bool:
    """Return True if a checkpoint is due after `done` steps, by their number."""
    every = training.checkpoint_every
    return done % every == 0 if every else ends_epoch


def inode(path: Path) -> int | None:
    """Return the number of a file, None if it does not exist."""
    return os.stat(path).st_ino if path.exists() else None


def is_own(name: str) -> bool:
    """Return True for the names of the files that this module writes."""
    return name in (CHECKPOINT, BEST) or bool(OLDER.fullmatch(name) or CANDIDATE.fullmatch(name))


def candidate_name(step: int) -> str:
    """Return the name of the best model until checkpoint.h5 is written."""
    return f".best-{step:06d}.h5"


def best_evaluation(history: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Return the first evaluation with the lowest validation loss, None if there is none."""
    return min(history, key=lambda line: line["val_loss"], default=None)


def settle_best(path: Path, history: list[dict[str, Any]]) -> None:
    """Rename the candidate that is the best model of this history to best.h5; delete others."""
    best = best_evaluation(history)
    for name in os.listdir(path):
        if found := CANDIDATE.fullmatch(name):
            if best is not None and int(found[1]) == best["step"]:
                replace(path / name, path / BEST)
            else:
                remove(path / name)


def delete_older(path: Path, done: int, keep: int) -> None:
    """Delete all but the `keep` newest checkpoints of fewer than `done` steps; if 0, none."""
    if keep:
        names = filter(OLDER.fullmatch, os.listdir(path))
        older = {step: name for name in names if (step := steps_of(name)) < done}
        for step in sorted(older)[:-keep]:
            remove(path / older[step])


def steps_of(name: str) -> int:
    """Return the number of steps in the name of an older checkpoint."""
    return int(name.removeprefix("checkpoint-").removesuffix(".h5"))
