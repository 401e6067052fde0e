"""Plot the losses of a fine-tuning run, and a classifier's accuracy, over its epochs."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from npgpt.training.plot import SPLITS, marker_of, write

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Point = tuple[float, float, float]  # the epoch, and the values of training and validation


def plot(
    path: Path,
    metrics: Sequence[dict[str, Any]],
    examples_per_epoch: int,
) -> None:
    """Write a PNG: losses after the examples seen, accuracies after each epoch (none: no panel).

    `metrics`: the lines of metrics.jsonl. Raises RunError if it cannot be drawn or written.
    """
    losses = [
        (line["examples_seen"] / examples_per_epoch, line["train_loss"], line["val_loss"])
        for line in metrics
        if "train_loss" in line
    ]
    accuracies = [
        (float(line["epoch"]), line["train_accuracy"], line["val_accuracy"])
        for line in metrics
        if "train_accuracy" in line
    ]
    panels = {"loss (nats)": losses} | ({"accuracy": accuracies} if accuracies else {})
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
