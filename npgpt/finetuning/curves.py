"""Plot the losses of a fine-tuning run, and a classifier's accuracy, over its epochs."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from npgpt.finetuning.loop import Evaluation
from npgpt.training.plot import SPLITS, marker_of, write

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Point = tuple[float, float, float]  # the epoch, and the values of training and validation


def plot(
    path: Path,
    evaluations: Sequence[Evaluation],
    accuracies: Sequence[tuple[float, float]],
    examples_per_epoch: int,
) -> None:
    """Write a PNG: losses after the examples seen, accuracies after each epoch (none: no panel).

    Raises RunError if it cannot be drawn or written.
    """
    losses = [(e.examples_seen / examples_per_epoch, e.train_loss, e.val_loss) for e in evaluations]
    panels = {"loss (nats)": losses}
    if accuracies:
        panels["accuracy"] = [(float(i), *pair) for i, pair in enumerate(accuracies, 1)]
    write(path, lambda: draw(panels))


def draw(panels: dict[str, list[Point]]) -> "Figure":
    """Return a figure with one panel below another, each with two lines."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 1.5 + 3 * len(panels)), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes: list[Axes] = figure.subplots(len(panels), sharex=True, squeeze=False)[:, 0].tolist()
    for panel, (label, points) in zip(axes, panels.items(), strict=True):
        epochs, *both = zip(*points, strict=True)
        for (name, (_, line)), values in zip(SPLITS.items(), both, strict=True):
            panel.plot(epochs, values, line + marker_of(epochs), color="C0", label=name)
        panel.set_ylabel(label)
        panel.grid(alpha=0.25)
    axes[0].legend(frameon=False)
    axes[-1].set_xlabel("epochs")
    return figure
