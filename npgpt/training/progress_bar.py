"""Progress bar and log lines of a training run."""

import sys
import time
from collections.abc import Callable
from typing import TextIO

from npgpt.data.tokenizer import REPLACEMENT, Tokenizer
from npgpt.system.console import make_bar
from npgpt.system.terminal import printable_text
from npgpt.system.units import duration
from npgpt.training.events import Evaluation, Event, Sample, Step

INTERVAL = 60.0  # seconds between two lines that stand for the bar, at most


class ProgressBar:
    """Shows events as they come: a live bar on a terminal, plain lines elsewhere.

    `total_steps`: steps of the run, of which `done` were made before. `encoding`: the tokenizer
    that decodes samples. `file`: the stream to write to, standard output by default. `clock`:
    returns the time in seconds.
    """

    def __init__(
        self,
        total_steps: int,
        encoding: Tokenizer,
        *,
        done: int = 0,
        file: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

        self.encoding, self.total_steps, self.clock = encoding, total_steps, clock
        self.done, self.started = done, clock()
        self.shown = self.last = self.started  # times of the last line and of the last step
        self.bar = make_bar(
            file or sys.stdout,
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(elapsed_when_finished=True),
        )
        self.console = self.bar.console
        self.task = self.bar.add_task("first step", total=total_steps, completed=done)

    def __enter__(self) -> "ProgressBar":
        self.bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.stop()

    def print(self, line: str) -> None:
        """Print a line above the bar."""
        if self.console.is_terminal:
            self.console.print(printable_text(line), soft_wrap=True)
            if self.console.is_terminal:
                return
            # The terminal was closed meanwhile: the line goes where unshown lines are kept.
        print(line, file=self.console.file, flush=True)

    def show(self, event: Event) -> None:
        """Print the line of an Evaluation or a Sample; move the bar after a Step."""
        match event:
            case Evaluation(step=step, epoch=epoch, train_loss=train, val_loss=val):
                self.print(
                    f"Ep {epoch} (Step {step:06d}): Train loss {train:.3f}, Val loss {val:.3f}"
                )
            case Sample(tokens=tokens):
                text = self.encoding.decode(tokens, unknown=REPLACEMENT)
                self.print(text.replace("\n", " "))
            case Step(step=step, loss=loss, tokens_per_s=speed):
                description = f"loss {loss:.3f}  {speed:,.0f} tokens/s"
                self.bar.update(self.task, completed=step + 1, description=description)
                if not self.console.is_terminal:
                    self.show_line(event)

    def show_line(self, step: Step) -> None:
        """Print the line of a step if the next step may end too late to be in time."""
        now = self.clock()
        next_step, self.last = now + (now - self.last), now
        left = self.total_steps - step.step - 1
        if left and next_step - self.shown > INTERVAL:
            seconds = left * (now - self.started) / (step.step + 1 - self.done)
            self.print(
                f"Ep {step.epoch} (Step {step.step:06d}): loss {step.loss:.3f}, lr {step.lr:.2e}, "
                f"{step.tokens_per_s:,.0f} tokens/s, {duration(seconds)} left"
            )
            self.shown = now
