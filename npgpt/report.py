"""What a person sees of a run: the progress, the lines, the samples, the picture."""

import math
import sys
from pathlib import Path
from typing import Any, NamedTuple

from npgpt.files import replacing
from npgpt.tokens import decode
from npgpt.train import Evaluation, Event, Sample, Step


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


def perplexity(loss: float) -> float:
    """exp(loss): between how many equally likely tokens the model hesitates."""
    return math.exp(loss) if loss < 700 else math.inf


class Curve(NamedTuple):
    """What is plotted of one run."""

    name: str
    history: list[dict[str, Any]]  # its evaluations, as in metrics.jsonl
    tokens_per_epoch: int


def plot(curves: list[Curve], path: Path) -> None:
    """Training and validation loss of one run or several, over epochs (below) and tokens (above).

    The picture replaces `path` whole.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(7, 4.5), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for i, (name, history, tokens_per_epoch) in enumerate(curves):
        epochs = [point["tokens_seen"] / tokens_per_epoch for point in history]
        label = f"{name}: " if len(curves) > 1 else ""
        for key, what, line in (("train_loss", "training", "-"), ("val_loss", "validation", "--")):
            values = [point[key] for point in history]
            marker = "o" if len(history) < 3 else None  # one point makes no line
            axes.plot(epochs, values, line, color=f"C{i}", label=label + what, marker=marker)
    axes.set_xlabel("epochs")
    axes.set_ylabel("loss (nats per token)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)

    # The axis above is the one below, relabelled: only where one scale fits all runs.
    scales = {curve.tokens_per_epoch for curve in curves}
    if len(scales) == 1:
        scale = scales.pop()
        above = axes.secondary_xaxis("top", functions=(lambda e: e * scale, lambda t: t / scale))
        above.set_xlabel("tokens seen")
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png")
