"""Pictures of the backward pass: gradients per token, per parameter, and of one number."""

from typing import Any

import numpy as np

from npgpt.explain import backward as steps
from npgpt.explain import blocks
from npgpt.explain import gradients as parameters
from npgpt.explain import nudge as slope
from npgpt.gpt import GPT
from npgpt.show import canvas
from npgpt.show.canvas import Picture


@canvas.in_default_style
def backward(model: GPT, tokens: Any) -> Picture:
    """Draw the size of the loss's gradient with respect to the residual stream.

    Parameters
    ----------
    model : GPT
        The model.
    tokens : str or (T + 1,) int
        A text, which the model's tokenizer encodes, or token ids. Each token but the last predicts
        the next one.

    Returns
    -------
    Figure
        The loss of each token, and below it, from the last layer to the embedding, the Euclidean
        norm of the gradient.
    """
    ids = canvas.read_tokens(model, tokens, least=2, targeted=True)
    found = steps.run(model, ids)
    norms, names = found.stream.norms[::-1], found.stream.names[::-1]
    figure = canvas.make(2.5 + max(6, 0.2 * len(found.tokens)), 2.2 + 0.28 * len(names))
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[1.4, 0.28 * len(names)])
    with canvas.plain_grid(above):
        above.bar(range(len(found.losses)), found.losses, color=canvas.BLUE)
        above.set_ylabel("loss (nats)")
        above.set_title(f"mean loss {found.loss:.4f}", fontsize=10)
    image = canvas.heat(below, norms, norm=canvas.log_norm(norms))
    below.set_yticks(range(len(names)), names, fontsize=8)
    canvas.label_tokens(below, canvas.labels(model, found.tokens))
    below.set(xlabel="token", ylabel="residual stream")
    bar = figure.colorbar(image, ax=below, pad=0.01)
    bar.set_label("norm of d(loss)/d(stream)")
    canvas.label_powers(bar.ax.yaxis)
    return figure


@canvas.in_default_style
def gradients(model: GPT, tokens: Any) -> Picture:
    """Draw the size of every parameter's gradient, and its ratio to the parameter.

    Parameters
    ----------
    model : GPT
        The model.
    tokens : str or (T + 1,) int
        A text, which the model's tokenizer encodes, or token ids. Each token but the last predicts
        the next one.

    Returns
    -------
    Figure
        Root mean squares, on logarithmic axes, in the order of the checkpoint.
    """
    ids = canvas.read_tokens(model, tokens, least=2, targeted=True)
    found = list(parameters.sizes(model.params, steps.run(model, ids).gradients))
    names, rows = [one.name for one in found], range(len(found))
    figure = canvas.make(10, 1.2 + 0.17 * len(found))
    left, right = figure.subplots(1, 2, sharey=True)
    with canvas.plain_grid(left):
        left.plot([one.gradient or np.nan for one in found], rows, "o", color=canvas.ORANGE,
                  label="gradient")  # fmt: skip
        left.plot([one.weight or np.nan for one in found], rows, "s", color=canvas.BLUE,
                  markersize=4, label="parameter")  # fmt: skip
        left.set(xscale="log", xlabel="root mean square")
        left.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)
    with canvas.plain_grid(right):
        right.plot([one.ratio or np.nan for one in found], rows, "o", color=canvas.ORANGE)
        right.set(xscale="log", xlabel="gradient / parameter")
    for axes in (left, right):
        canvas.label_powers(axes.xaxis)
    left.set_yticks(rows, names, fontsize=7, family="monospace")
    left.set(ylabel="parameter", ylim=(len(found) - 0.5, -0.5))
    return figure


@canvas.in_default_style
def outer(model: GPT, tokens: Any, name: str = "h.0.mlp.c_fc.weight") -> Picture:
    """Draw the gradient of a matrix as the sum over tokens of outer(x, dy).

    Parameters
    ----------
    model : GPT
        The model.
    tokens : str or (T + 1,) int
        A text, which the model's tokenizer encodes, or token ids. Each token but the last predicts
        the next one.
    name : str, default "h.0.mlp.c_fc.weight"
        A matrix. The gradient of wte.weight in a tied model has two products per token: one of the
        output head, and one of the embedding.

    Returns
    -------
    Figure
        The share of each token in the gradient, and means of blocks of three matrices: the outer
        product of the token with the largest share, that of the second, and the gradient.
    """
    ids = canvas.read_tokens(model, tokens, least=2, targeted=True)
    found = parameters.outer(steps.run(model, ids), name)
    T, words = len(ids) - 1, canvas.labels(model, ids[:-1])
    names = words * len(found.parts)
    first, second = np.argsort(-found.shares)[[0, min(1, len(found.shares) - 1)]]
    figure = canvas.make(11, 6.2)
    halves: Any = figure.subfigures(2, 1, height_ratios=[1, 1.7])
    above, below = halves
    bars = above.subplots()
    title = name if len(found.parts) == 1 else f"{name}: {', then '.join(found.parts)}"
    with canvas.plain_grid(bars):
        colors = [canvas.ORANGE if t in (first, second) else canvas.BLUE for t in range(len(names))]
        bars.bar(range(len(names)), found.shares, color=colors)
        bars.axhline(0, color=canvas.GREY, linewidth=0.8)
        bars.set(ylabel="share of the gradient", title=title)
        canvas.label_tokens(bars, names)
    parts = [
        (f"token {n % T}: {names[n]}", np.outer(found.x[n], found.dy[n])) for n in (first, second)
    ]
    parts.append((f"gradient: sum of {len(names)}", found.gradient))
    norm, image = canvas.symmetric(blocks.means(found.gradient, 96, 128)), None
    panels = below.subplots(1, 3, sharey=True)
    I, O = found.gradient.shape
    for axes, (title, values) in zip(panels, parts, strict=True):
        image = canvas.heat(axes, blocks.means(values, 96, 128), cmap=canvas.DIVERGING, norm=norm)
        image.set_extent((0, O, I, 0))
        axes.set_title(title, fontsize=10)
        axes.set_xlabel(found.axes[1])
    panels[0].set_ylabel(found.axes[0])
    below.colorbar(image, ax=panels, label="gradient", extend="both")
    return figure


@canvas.in_default_style
def nudge(model: GPT, tokens: Any, name: str, index: tuple[int, ...]) -> Picture:
    """Draw the loss while one number of a parameter is moved, and the gradient as its tangent.

    Parameters
    ----------
    model : GPT
        The model, which is not changed.
    tokens : str or (T + 1,) int
        A text, which the model's tokenizer encodes, or token ids. Each token but the last predicts
        the next one.
    name : str
        A parameter, such as "ln_f.weight".
    index : tuple of int
        Index of the number.

    Returns
    -------
    Figure
        Losses are measured in float64.
    """
    ids = canvas.read_tokens(model, tokens, least=2, targeted=True)
    found = slope.measure(model, ids, name, index, points=17)
    figure = canvas.make(7, 4.2)
    axes = figure.subplots()
    with canvas.plain_grid(axes):
        tangent = found.loss + found.gradient * found.offsets
        axes.plot(found.value + found.offsets, found.losses, "o-", color=canvas.BLUE, label="loss")
        label = f"gradient {found.gradient:.9g}"
        axes.plot(found.value + found.offsets, tangent, "--", color=canvas.ORANGE, label=label)
        axes.plot(found.value, found.loss, "o", markersize=9, color=canvas.ORANGE)
        at = ", ".join(map(str, found.where))
        axes.set(xlabel=f"{name}[{at}]", ylabel="loss (nats per token)")
        axes.set_title(f"slope measured {found.slope:.9g}", fontsize=10)
        axes.legend(frameon=False)
        axes.ticklabel_format(useOffset=False)
    return figure
