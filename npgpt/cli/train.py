"""npgpt train."""

import contextlib
import functools
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from npgpt.cli import fine_tuning, train_flags, train_ranks
from npgpt.cli.common import announce_compilation, default, say
from npgpt.cli.signals import StopRequest, status_of
from npgpt.cli.time_left import TimeLeft
from npgpt.cli.train_flags import RunFlags
from npgpt.cli.train_ranks import Silent
from npgpt.config import RunConfig
from npgpt.distributed import collectives, world
from npgpt.distributed.launcher import find_launcher
from npgpt.distributed.world import World
from npgpt.errors import InputError, RunError
from npgpt.preset import FINE_TUNING
from npgpt.system import memory
from npgpt.system.shell import npgpt_command, option
from npgpt.system.streams import keep_unshown
from npgpt.system.terminal import MAX_ERROR, printable_line

if TYPE_CHECKING:
    from npgpt.data.dataset import Tokens
    from npgpt.data.tokenizer import Tokenizer
    from npgpt.training.progress_bar import ProgressBar
    from npgpt.training.run_dir import RunDir
    from npgpt.training.trainer import Trainer


@dataclass(kw_only=True)
class Train:
    """Train a model on a text. Defaults of a preset: npgpt train --preset book --help.

    Parameters
    ----------
    config
        Read settings from this file, in YAML or JSON. The config.json of a run is one. Flags
        override it, and it overrides the preset.
    out
        Directory for the files of the run.
    resume
        Resume the run in this directory. Its length, evaluations, checkpoints, prompt and learning
        rate may change, and --data if the text is the same.
    """

    flags: Annotated[tyro.conf.OmitArgPrefixes[RunFlags], tyro.conf.arg(name="")]
    config: Annotated[Path | None, default("the preset's settings", "FILE")] = None
    out: Annotated[Path | None, default("runs/PRESET-1, then -2, ...", "PATH")] = None
    resume: Annotated[Path | None, default("a new run", "PATH")] = None

    given = frozenset[str]()  # no field and no flag: settings that are given, of those to be fitted

    @functools.cached_property
    def settings(self) -> RunConfig:
        """The settings of the run. Raises ConfigError if they are invalid."""
        return self.flags.validated()

    def run(self) -> int:
        """Train, alone or on all ranks of a launcher, and return the exit status."""
        return world.run_launched(self.train_in)

    def train_in(self, here: World) -> int:
        """Train on one rank. The run continues if its output cannot be shown."""
        self.world = here
        if not here.is_first:
            with train_ranks.silence():
                return self.train_along()
        if find_launcher(os.environ):
            train_ranks.follow_launcher()
        self.unshown = keep_unshown()
        with announce_compilation(self.settings.ops):
            status = self.train()
            sys.stdout.flush()
        collectives.wait_for_all(here)
        return status

    def train(self) -> int:
        """Start or resume a run; train to its end or to a signal. Return the exit status."""
        from npgpt.performance import system_info
        from npgpt.training import event_file, run_dir

        if self.settings.dtype == "bfloat16" and not system_info.multiplies_bfloat16():
            print(f"{system_info.NO_BFLOAT16}: bfloat16 saves memory, but no time", file=sys.stderr)
        if self.settings.training.tensorboard:
            event_file.import_protocol()  # if it is missing, before the data is read
        resumed = self.resume and run_dir.run_dir_of(self.resume)
        with contextlib.ExitStack() as lock:
            if resumed and self.out in (None, resumed):
                directory = lock.enter_context(run_dir.RunDir(resumed).locked())
                tokens, trainer = self.start()
            else:
                if self.out:
                    run_dir.RunDir(self.out).require_unused()
                tokens, trainer = self.start()  # an error in the settings leaves no directory
                new = run_dir.new_run_dir(self.out, self.settings.preset)
                directory = lock.enter_context(new)
            self.unshown.write_to(directory.log)
            directory.open(self.settings, tokens, trainer, resumed=resumed)
            if self.must_save:
                directory.checkpoints(trainer).save(last=True)
            self.compile()
            with StopRequest(self.world.size > 1) as stop:
                return self.finish(directory, tokens, trainer, stop)

    def train_along(self) -> int:
        """Train on a rank that is not the first. Return the exit status."""
        with collectives.first_reports(self.world, InputError, RunError):
            _, trainer = self.start()
        silent = Silent(trainer)
        if self.must_save:
            silent.save()
        self.compile()
        with StopRequest(self.world.size > 1) as stop:
            signal = self.follow(trainer, silent, silent, stop)
        collectives.wait_for_all(self.world)  # or the first one could be ended before its last line
        return status_of(signal) if signal else 0

    @property
    def must_save(self) -> bool:
        """True if a resumed run has other settings or another directory: a kill would lose them."""
        from npgpt.training import run_dir

        if self.saved is None or self.resume is None:
            return False
        directory = run_dir.run_dir_of(self.resume)
        in_place = directory is not None and self.out in (None, directory)
        return self.saved != self.settings or not in_place

    def start(self) -> "tuple[Tokens, Trainer]":
        """Read the text and draw, load or resume the model."""
        from npgpt.data.tokenizer import tokenizer_of
        from npgpt.training import run, run_dir, run_state

        self.saved: RunConfig | None = None  # of the checkpoint to resume
        resumed = self.resume and run_dir.run_dir_of(self.resume)
        if self.resume and (not resumed or run_dir.RunDir(resumed).has_checkpoint):
            self.saved, model, saved = run_state.read(self.resume)
            tokens = self.read_tokens(tokenizer_of(model))
            kind = train_ranks.trainer_kind(self.settings, self.world)
            return tokens, run.resume(self.settings, tokens, model, saved, kind)
        tokens = self.read_tokens()
        if self.settings.preset == FINE_TUNING.preset and not self.resume:
            fitted = fine_tuning.fit(self.settings, tokens, self.given)
            self.settings = train_ranks.agree_on_fit(fitted, self.world)
        if resumed:
            run.require_same_text(self.settings, tokens, run_state.read_data_sha256(resumed))
        if self.settings.init_from is None:  # the first kernels to run draw the parameters
            self.compile(self.settings.init)
        if resumed:
            name = printable_line(str(resumed))
            print(f"{name} has no checkpoint: its run starts from the beginning")
        kind = train_ranks.trainer_kind(self.settings, self.world)
        return tokens, run.start(self.settings, tokens, kind=kind)

    def read_tokens(self, tokenizer: "Tokenizer | None" = None) -> "Tokens":
        """Read the text. One rank of each machine encodes it, and the others find it encoded."""
        from npgpt.data import dataset

        show = say if self.world.is_first else dataset.silent
        return world.once_per_machine(
            self.world, lambda: dataset.read_tokens(self.settings, tokenizer, show)
        )

    def finish(
        self, directory: "RunDir", tokens: "Tokens", trainer: "Trainer", stop: StopRequest
    ) -> int:
        """Train to the end or to a signal, and say where the files are. Return the exit status."""
        from npgpt.training import run, run_dir
        from npgpt.training.progress_bar import ProgressBar

        path = directory.path
        name = printable_line(str(path))
        progress = trainer.progress
        with ProgressBar(trainer.total_steps, tokens.tokenizer, done=progress.step) as bar:
            bar.print(describe(trainer, tokens, name))
            if line := train_ranks.describe(trainer, self.world):
                bar.print(line)
            if self.settings.preset == FINE_TUNING.preset:
                bar.print(fine_tuning.describe(self.settings))
            if progress.step >= trainer.total_steps:
                length = train_flags.length_of(self.settings.training)
                flag, unit = length.replace("_", "-"), length.removeprefix("max_")
                more = npgpt_command("train", resume=path, **{flag: "N"})
                bar.print(f"This run is finished. To train for more {unit}: {more}")
            if self.saved and (line := run.describe_new_rate(self.saved.training, trainer)):
                bar.print(line)
            try:
                signal = self.follow(trainer, directory, bar, stop)
            except (RunError, MemoryError) as error:
                with contextlib.suppress(RunError, MemoryError):  # one error is enough
                    directory.plot(trainer)
                said = memory.describe(error) if isinstance(error, MemoryError) else error
                raise RunError(f"{said}{last_checkpoint(path)}") from None
        plot(directory, trainer)
        if signal:
            print(f"Stopped after step {progress.step - 1}; the checkpoint is saved in {name}")
            print("Resume with:", npgpt_command("train", resume=path))
            return status_of(signal)
        contents = run_dir.CONTENTS | directory.describe_best(progress.history)
        if not progress.samples:
            contents["samples.txt"] = "empty: text is generated after an epoch, and none has ended"
        files = {printable_line(str(path / file)): text for file, text in contents.items()}
        width = max(map(len, files))
        for file, content in files.items():
            print(f"{file:<{width}}  {content}")
        if self.settings.training.tensorboard:
            print("To see its curves:", f"tensorboard {option('logdir', path)}")
        prompt = self.settings.training.prompt
        print("Next:", npgpt_command("generate", model=path, prompt=prompt))
        return 0

    def compile(self, scheme: str | None = None) -> None:
        """Compile the kernels of training in two processes if none is in Numba's cache."""
        from npgpt.performance import precompile

        if self.settings.ops == "fused":
            dropout, training = self.settings.config.dropout, self.settings.training
            work = "train" if training.lora_rank is None else "fine-tune"
            given: Any = (work, self.settings.dtype, scheme, dropout, training.optimizer)
            world.once_per_machine(self.world, lambda: precompile.compile_kernels(*given))

    def follow(
        self,
        trainer: "Trainer",
        directory: "RunDir | Silent",
        bar: "ProgressBar | Silent",
        stop: StopRequest,
    ) -> int:
        """Show and store every event. Return the number of the signal that asked to stop, or 0."""
        from npgpt.training.checkpoints import is_due
        from npgpt.training.events import Evaluation, Step

        time_left = TimeLeft(trainer)
        with directory.checkpoints(trainer) as checkpoints:
            ask = train_ranks.ask(trainer, stop, checkpoints)
            for event in trainer.events():
                bar.show(event)
                if line := time_left.make_line(event):
                    bar.print(line)
                directory.record(event)
                match event:
                    case Evaluation():
                        checkpoints.add_evaluation(event)
                    case Step():
                        checkpoints.check()
                        checkpoints.prepare()
                        done, asked = trainer.progress.step, ask()  # once: it may change meanwhile
                        is_last = asked.signal > 0 or done >= trainer.total_steps
                        if (
                            is_last
                            or asked.save
                            or is_due(trainer.training, done, event.ends_epoch)
                        ):
                            checkpoints.save(last=is_last)
                        if asked.signal:
                            return asked.signal
            checkpoints.finish()
        return 0


def plot(directory: "RunDir", trainer: "Trainer") -> None:
    """Write loss.png. A failure is printed and written to the run's log, and costs no run."""
    try:
        directory.plot(trainer)
    except RunError as error:
        line = printable_line(f"npgpt: {error}", MAX_ERROR)
        print(line, file=sys.stderr)
        directory.log(f"{line}\n")


def describe(trainer: "Trainer", tokens: "Tokens", name: str) -> str:
    """Return the first line of a run's output."""
    from npgpt.model import params, trainable

    model, c = trainer.model, trainer.model.config
    total = trainer.total_steps * trainer.tokens_per_step
    trained = params.total(trainable.only(model.params, trainer.training.trainable))
    some = "" if trained == model.size else f", {trained:,} of them trained"
    return (
        f"{model.size:,} parameters{some} (layers {c.n_layer}, heads {c.n_head}, embedding "
        f"{c.n_embd}, context {c.context_length}); {len(tokens.train):,} training tokens, "
        f"{len(tokens.val):,} validation tokens; {trainer.total_steps:,} steps "
        f"of {trainer.tokens_per_step:,} tokens, {total:,} in all; output in {name}"
    )


def last_checkpoint(path: Path) -> str:
    """Return a sentence that names the last checkpoint of a failed run, or nothing."""
    from npgpt.weights.formats import CHECKPOINT

    file = path / CHECKPOINT
    return f". The last good checkpoint is {file}" if file.exists() else ""
