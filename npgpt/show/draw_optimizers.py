"""Pictures of optimizers: one step, a race on a ravine, and Muon's five steps."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.colors import LogNorm

from npgpt.arrays import Array
from npgpt.config import TrainingConfig
from npgpt.explain import muon_steps, precision
from npgpt.explain import ravine as race
from npgpt.explain import step as one_step
from npgpt.gpt import GPT
from npgpt.show import canvas
from npgpt.show.canvas import Picture

RACERS = {
    "SGD": TrainingConfig(optimizer="sgd", lr=0.35, weight_decay=0),
    "momentum": TrainingConfig(optimizer="sgd", lr=0.1, momentum=0.9, weight_decay=0),
    "RMSprop": TrainingConfig(optimizer="rmsprop", lr=0.08, beta2=0.9, weight_decay=0),
    "Adam": TrainingConfig(optimizer="adam", lr=0.15, weight_decay=0),
    "Muon": TrainingConfig(optimizer="muon", lr=0.6, weight_decay=0),
}


@canvas.in_default_style
def step(
    model: GPT, tokens: Any, training: TrainingConfig | None = None, *, earlier: int = 0
) -> Picture:
    """Draw one step of an optimizer: the loss along the update, and the targets' probabilities.

    Parameters
    ----------
    model : GPT
        The model, which is not changed.
    tokens : str or (T + 1,) int
        A text, which the model's tokenizer encodes, or token ids. Each token but the last predicts
        the next one.
    training : TrainingConfig or None, default None
        Optimizer and learning rate. None: the defaults, AdamW and 4e-4.
    earlier : int, default 0
        Number of steps made on this text before.

    Returns
    -------
    Figure
        Losses are measured in float64.
    """
    ids = canvas.read_tokens(model, tokens, least=2, targeted=True)
    twin = precision.cast(model)
    found = one_step.take(twin, ids, training or TrainingConfig(), earlier=earlier)
    figure = canvas.make(11, 4.2)
    left, right = figure.subplots(1, 2)
    with canvas.plain_grid(left):
        line = found.loss + found.fractions * found.predicted
        left.plot(found.fractions, found.losses, "o-", color=canvas.BLUE, label="measured")
        left.plot(found.fractions, line, "--", color=canvas.ORANGE, label="<gradient, update>")
        left.axvline(1, color=canvas.GREY, linewidth=0.8, linestyle=":")
        left.set(xlabel="fraction of the update", ylabel="loss (nats per token)")
        left.set_title(found.optimizer.replace(", npgpt.ops", ""), fontsize=8, wrap=True)
        left.legend(frameon=False)
    with canvas.plain_grid(right):
        rows = np.arange(len(found.targets))
        before, after = found.before[rows, found.targets], found.after[rows, found.targets]
        right.vlines(rows, before, after, color=canvas.GREY, linewidth=1)
        right.plot(rows, before, "o", color=canvas.BLUE, markersize=4, label="before")
        right.plot(rows, after, "o", color=canvas.ORANGE, markersize=4, label="after")
        right.set(xlabel="target", ylabel="probability", yscale="log")
        canvas.label_powers(right.yaxis)
        canvas.label_tokens(right, canvas.labels(model, found.targets))
        right.legend(frameon=False)
    return figure


@canvas.in_default_style
def ravine(racers: Mapping[str, TrainingConfig] = RACERS, *, steps: int = 60) -> Picture:
    """Draw the paths of optimizers on a long and narrow ravine.

    Parameters
    ----------
    racers : dict of str to TrainingConfig
        Optimizers and their learning rates, by the names in the legend.
    steps : int, default 60
        Number of steps.

    Returns
    -------
    Figure
        The paths on the contour lines of the ravine, and the losses of all steps.
    """
    found = {name: race.race(training, steps) for name, training in racers.items()}
    figure = canvas.make(11, 4.6)
    left, right = figure.subplots(1, 2, width_ratios=[1.5, 1])
    x, y = np.meshgrid(np.linspace(-5, 2, 200), np.linspace(-2.5, 2.5, 200))
    values = race.loss(race.RAVINE, np.stack([x, y], -1))
    levels = np.geomspace(0.01, 40, 14)
    left.contour(x, y, values, levels, cmap="Greys_r", norm=LogNorm(0.003, 400), linewidths=0.8)
    colors = [canvas.COLORS[i % len(canvas.COLORS)] for i in range(len(found))]
    for (name, one), color in zip(found.items(), colors, strict=True):
        left.plot(*one.path.T, ".-", color=color, markersize=4, linewidth=1, label=name)
        right.plot(one.losses, color=color, label=name)
    left.plot(0, 0, "*", color="black", markersize=10)
    left.set(xlabel="first parameter", ylabel="second parameter", xlim=(-5, 2), ylim=(-2.5, 2.5))
    left.set_aspect("equal")
    with canvas.plain_grid(right):
        right.set(xlabel="step", ylabel="loss", yscale="log")
        canvas.label_powers(right.yaxis)
        right.legend(frameon=False)
    return figure


@canvas.in_default_style
def muon(matrix: Array) -> Picture:
    """Draw the singular values of a matrix after each of Muon's five steps.

    Parameters
    ----------
    matrix : (I, O) float
        A gradient, or another matrix.

    Returns
    -------
    Figure
        Left: all singular values, before and after each step. Right: the curve that each step
        applies to every singular value.
    """
    found = muon_steps.steps(np.asarray(matrix))
    count, r = found.singular.shape
    figure = canvas.make(10, 4.2)
    left, right = figure.subplots(1, 2, width_ratios=[1.4, 1])
    colors = canvas.colormap(canvas.SEQUENTIAL)(np.linspace(0, 0.95, r))
    with canvas.plain_grid(left):
        for values, color in zip(found.singular.T, colors, strict=True):
            left.plot(range(count), values, "o-", color=color, markersize=3, linewidth=0.7)
        left.axhline(1, color=canvas.ORANGE, linestyle="--", linewidth=1)
        left.set(xlabel="steps", ylabel="singular value")
        left.set_title(f"{r} singular values; the lightest line is the smallest", fontsize=10)
    with canvas.plain_grid(right):
        s = np.linspace(0, 1.25, 300)
        right.plot(s, muon_steps.curve(s), color=canvas.BLUE, label="after one step")
        right.plot(s, s, ":", color=canvas.GREY, label="unchanged")
        right.axhline(1, color=canvas.ORANGE, linestyle="--", linewidth=1)
        right.set(xlabel="singular value", ylabel="singular value after the step")
        right.legend(frameon=False, loc="lower right")
    return figure
