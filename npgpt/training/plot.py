"""Plot the losses of one run or several."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from npgpt.errors import InputError
from npgpt.system.files import atomic_write, read_regular
from npgpt.training.events import is_count, is_number

MAX_TEXT = 1 << 26  # bytes: a million evaluations


@dataclass(frozen=True)
class Curve:
    """The losses of one run."""

    name: str
    history: list[dict[str, Any]]  # its evaluations, as in metrics.jsonl
    tokens_per_epoch: int


def read_curve(path: Path) -> Curve:
    """Read the losses of the run in a directory. Raise InputError for invalid files."""
    config = parse(path / "config.json", json.loads)
    scale = config.get("tokens_per_epoch") if isinstance(config, dict) else None
    if not is_count(scale) or scale == 0:
        raise InputError(f"{path / 'config.json'} has no tokens_per_epoch: not the config of a run")
    file = path / "metrics.jsonl"
    history = parse(file, lambda text: [json.loads(line) for line in text.splitlines()])
    needed = ("tokens_seen", "train_loss", "val_loss")
    for number, point in enumerate(history, 1):
        if not isinstance(point, dict) or any(not is_number(point.get(key)) for key in needed):
            raise InputError(f"{file}, line {number}: expected numbers for {', '.join(needed)}")
    if not history:
        raise InputError(f"{file} is empty: the run has no evaluation yet")
    return Curve(path.name, history, scale)


def parse(file: Path, parser: Callable[[str], Any]) -> Any:
    """Return `parser` of a file's text. Raise InputError if it cannot be read or parsed."""
    try:
        return parser(read_regular(file, MAX_TEXT).decode())
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file} is not JSON: {error}") from None


def plot(curves: list[Curve], path: Path) -> None:
    """Write a PNG of training and validation losses over epochs (below) and tokens (above).

    The file is replaced atomically.
    """
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(7, 4.5), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for i, curve in enumerate(curves):
        epochs = [point["tokens_seen"] / curve.tokens_per_epoch for point in curve.history]
        label = f"{curve.name}: " if len(curves) > 1 else ""
        for key, split, line in (("train_loss", "training", "-"), ("val_loss", "validation", "--")):
            values = [float(point[key]) for point in curve.history]
            marker = "o" if len(curve.history) < 3 else None  # one point makes no line
            axes.plot(epochs, values, line, color=f"C{i}", label=label + split, marker=marker)
    axes.set_xlabel("epochs")
    axes.set_ylabel("loss (nats per token)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)

    # The upper axis is the lower one, relabelled: only if all runs share the scale.
    scales = {curve.tokens_per_epoch for curve in curves}
    if len(scales) == 1:
        scale = scales.pop()
        functions = (lambda e: np.multiply(e, scale)), (lambda t: np.divide(t, scale))
        above = axes.secondary_xaxis("top", functions=functions)
        above.set_xlabel("tokens seen")
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png")
