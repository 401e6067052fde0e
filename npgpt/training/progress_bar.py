"""What a person sees of a run: the progress, the lines, the samples, the picture."""

import sys

from npgpt.data.tokenizer import decode
from npgpt.training.trainer import Evaluation, Event, Sample, Step


class Report:
    """Shows events as they come: a live bar on a terminal, plain lines elsewhere."""

    def __init__(self, total_steps: int, encoding, *, done: int = 0, file=None):
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        self.encoding = encoding
        self.console = Console(file=file or sys.stdout, highlight=False, markup=False)
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self.task = self.bar.add_task("first step", total=total_steps, completed=done)

    def __enter__(self):
        self.bar.start()
        return self

    def __exit__(self, *error):
        self.bar.stop()

    def say(self, line: str) -> None:
        """A line above the bar, or on its own."""
        if self.console.is_terminal:
            self.console.print(line, soft_wrap=True)
        else:
            print(line, file=self.console.file, flush=True)

    def show(self, event: Event) -> None:
        """What there is to see of an event."""
        match event:
            case Evaluation(step=step, epoch=epoch, train_loss=train, val_loss=val):
                self.say(
                    f"Ep {epoch} (Step {step:06d}): Train loss {train:.3f}, Val loss {val:.3f}"
                )
            case Sample(tokens=tokens):
                self.say(decode(self.encoding, tokens).replace("\n", " "))
            case Step(step=step, loss=loss, tokens_per_s=speed):
                described = f"loss {loss:.3f}  {speed:,.0f} tokens/s"
                self.bar.update(self.task, completed=step + 1, description=described)
