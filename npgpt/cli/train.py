"""npgpt train."""

import contextlib
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from npgpt.cli.common import announce_compilation
from npgpt.config import RunConfig
from npgpt.errors import RunError

INTERRUPTED = 130  # 128 + SIGINT, as shells report it


@dataclass(kw_only=True)
class Train:
    """Train a model on a text. The defaults are the preset's: npgpt train --preset book --help."""

    settings: tyro.conf.OmitArgPrefixes[RunConfig]
    out: Path | None = None
    """The folder for everything the run makes [default: runs/PRESET-1, -2, ...]."""
    resume: Path | None = None
    """Go on with the run in this folder. Only --epochs, --steps and --checkpoint-every may change,
    and --data if it is the same text."""

    def run(self) -> int:
        """The exit code."""
        with announce_compilation(self.settings.ops):
            return self.train()

    def train(self) -> int:
        """Begins or goes on with a run, to its end or a Ctrl-C; the exit code."""
        from npgpt.data import dataset
        from npgpt.data.tokenizer import tokenizer
        from npgpt.performance import system_info
        from npgpt.training import run, run_dir, run_state
        from npgpt.training.progress_bar import Report

        if self.settings.dtype == "bfloat16" and not system_info.multiplies_bfloat16():
            print(f"{system_info.NO_BFLOAT16}: training in bfloat16 will be slow", file=sys.stderr)
        home = self.resume and run_dir.run_dir_of(self.resume)
        path = self.out or home or run_dir.next_run_dir(self.settings.preset)
        place = run_dir.RunDir(path)
        if path != home:
            place.vacant()
        if self.resume is None:
            tokens = dataset.read_tokens(self.settings)
            if self.settings.init_from is None:  # the first kernels are those that draw
                self.compile(self.settings.init)
            trainer = run.start(self.settings, tokens)
        else:
            _, model, saved = run_state.read_saved(self.resume)
            tokens = dataset.read_tokens(self.settings)
            trainer = run.resume(self.settings, tokens, model, saved)
        place.open(self.settings, tokens, trainer)
        self.compile()

        encoding = tokenizer(self.settings.tokenizer)
        progress = trainer.progress
        with Report(trainer.total_steps, encoding, done=progress.step) as report, Stop() as stop:
            report.say(describe(trainer, tokens, path))
            try:
                interrupted = self.follow(trainer, place, report, stop)
            except RunError as error:
                with contextlib.suppress(RunError):
                    place.plot(trainer)
                raise RunError(f"{error}{kept(path)}") from None
        place.plot(trainer)
        if interrupted:
            print(f"Stopped after step {progress.step - 1}; everything is saved in {path}")
            print(f"Go on with: npgpt train --resume {path}")
            return INTERRUPTED
        for name, what in run_dir.CONTENTS.items():
            print(f"{path / name!s:<32} {what}")
        print(
            f'Go on with: npgpt generate --model {path} --prompt "{self.settings.training.prompt}"'
        )
        return 0

    def compile(self, scheme: str | None = None) -> None:
        """What training needs compiled, before it does: nothing where some of it is already."""
        from npgpt.performance import precompile

        if self.settings.ops == "fused":
            dropout = self.settings.config.dropout
            precompile.compile_kernels("train", self.settings.dtype, scheme, dropout)

    def follow(self, trainer, folder, report, stop) -> bool:
        """Trains to the end, or to the step in which somebody pressed Ctrl-C (then True)."""
        from npgpt.training.trainer import Evaluation, Sample, Step

        every, saved_at = self.settings.training.checkpoint_every, None
        for event in trainer.events():
            report.show(event)
            match event:
                case Evaluation():
                    folder.add_evaluation(event)
                case Sample():
                    folder.add_sample(event)
                case Step(step=step, ends_epoch=ends_epoch):
                    due = (step + 1) % every == 0 if every else ends_epoch
                    if due or stop.asked:
                        folder.save(trainer)
                        saved_at = step
                    if stop.asked:
                        return True
        if saved_at != trainer.progress.step - 1 and trainer.progress.step:
            folder.save(trainer)
        return False


class Stop:
    """`with Stop() as stop`: the first Ctrl-C sets `stop.asked`, the second interrupts."""

    asked = False

    def __enter__(self):
        self.before = {s: signal.signal(s, self.ask) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def ask(self, number, frame):
        """What a signal does."""
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        print("\nFinishing this step, then saving ...", file=sys.stderr)

    def __exit__(self, *error):
        for number, handler in self.before.items():
            signal.signal(number, handler)


def describe(trainer, tokens, path: Path) -> str:
    """The first line of a run."""
    model, c = trainer.model, trainer.model.config
    return (
        f"{model.size:,} parameters ({c.n_layer} layers, {c.n_head} heads, {c.n_embd} wide, "
        f"context {c.context_length}), {len(tokens.train):,} tokens to train on, "
        f"{len(tokens.val):,} to validate, {trainer.total_steps} steps -> {path}"
    )


def kept(path: Path) -> str:
    """Where what a failed run has made so far is to be found."""
    from npgpt.weights.formats import CHECKPOINT

    where = path / CHECKPOINT
    return f". The last good checkpoint is {where}" if where.exists() else ""
