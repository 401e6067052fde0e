"""Pictures of forward passes: next token, surprise, attention, logit lens."""

from typing import Any

import numpy as np
from matplotlib.colors import Normalize

from npgpt.arrays import Array
from npgpt.explain import attention as weights
from npgpt.explain import logit_lens as lens
from npgpt.explain import next_token as distribution
from npgpt.explain import writing
from npgpt.gpt import GPT
from npgpt.rng import Generator
from npgpt.show import canvas
from npgpt.show.canvas import Picture


@canvas.in_default_style
def next_token(
    model: GPT,
    tokens: Any,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    count: int = 15,
    draws: int = 0,
    seed: int = 123,
) -> Picture:
    """Draw the distribution of the next token, before and after each filter.

    Parameters
    ----------
    model : GPT
        The model.
    tokens : str or (T,) int
        A text, which the model's tokenizer encodes, or token ids.
    temperature : float, default 1.0
        As for `npgpt.generate`; 0 is greedy.
    top_k : int or None, default None
        As for `npgpt.generate`.
    top_p : float or None, default None
        As for `npgpt.generate`.
    count : int, default 15
        Number of most likely tokens shown.
    draws : int, default 0
        Number of tokens drawn. Their share is drawn beside the last distribution.
    seed : int, default 123
        Seed of the draws.

    Returns
    -------
    Figure
        Four panels: all tokens, after top-k, after the temperature, after top-p.
    """
    ids = canvas.read_tokens(model, tokens)
    logits = distribution.logits(model, ids)
    found = distribution.filters(logits, temperature=temperature, top_k=top_k, top_p=top_p)
    shown = np.argsort(-logits, kind="stable")[:count]
    titles = (
        "softmax(logits)",
        "all tokens" if top_k is None else f"top-k {top_k}",
        f"temperature {temperature:g}",
        "all of these" if top_p is None else f"top-p {top_p:g}",
    )
    figure = canvas.make(11, 1 + 0.27 * len(shown))
    panels = figure.subplots(1, 4, sharey=True)
    for axes, probs, title in zip(panels, found, titles, strict=True):
        axes.barh(range(len(shown)), probs[shown], color=canvas.BLUE, height=0.75)
        axes.set(title=title, xlabel="probability", xlim=(0, None))
        axes.grid(alpha=0.25, axis="x")
    if draws:
        drawn = distribution.draws(found.top_p, draws, Generator(seed, ops=model.ops))
        shares = np.bincount(drawn, minlength=len(logits))[shown] / draws
        panels[-1].plot(
            shares, range(len(shown)), "o", color=canvas.ORANGE, label=f"{draws:,} draws"
        )
        panels[-1].legend(frameon=False, loc="lower right")
    panels[0].set_ylabel("next token")
    panels[0].invert_yaxis()
    canvas.label_tokens(panels[0], canvas.labels(model, shown), axis="y")
    return figure


@canvas.in_default_style
def surprise(model: GPT, tokens: Any) -> Picture:
    """Draw a text with the surprise of each token as its colour.

    Parameters
    ----------
    model : GPT
        The model.
    tokens : str or (T,) int
        A text, which the model's tokenizer encodes, or token ids.

    Returns
    -------
    Figure
        Surprise is -log(probability) in nats. The first token has none.
    """
    found = writing.reading(model, canvas.read_tokens(model, tokens), count=1)
    names = [name.replace("·", " ") for name in canvas.labels(model, found.tokens)]
    width = 10.0
    figure = canvas.make(width, 1)
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    probe = figure.text(0, 0, "", fontsize=12)
    positions, x, line = [], 0.0, 0
    for name in names:
        size, _, _ = renderer.get_text_width_height_descent(name, probe.get_fontproperties(), False)
        size /= canvas.DPI
        if x + size > width - 1.6 and x:
            x, line = 0.0, line + 1
        positions.append((x, line, size))
        x += size + 0.02
    probe.remove()
    figure.set_size_inches(width, 0.8 + 0.32 * (line + 1))
    axes = figure.subplots()
    largest = float(np.nanmax(found.surprise)) if len(names) > 1 else 1.0
    norm = Normalize(0, largest)
    scale = canvas.colormap(canvas.SEQUENTIAL)
    for name, (x, line, size), value in zip(names, positions, found.surprise, strict=True):
        first = np.isnan(value)
        color: Any = "#e5e7eb" if first else scale(norm(value))
        axes.add_patch(canvas.box(x, line, size + 0.02, 0.86, color))
        ink = "black" if first else canvas.text_color(norm(value))
        axes.text(x + 0.01, line + 0.43, name, fontsize=12, color=ink, va="center")
    axes.set(xlim=(-0.02, width - 1.5), ylim=(positions[-1][1] + 1, -0.1))
    axes.set_axis_off()
    bar = figure.colorbar(canvas.scalar(norm, canvas.SEQUENTIAL), ax=axes, pad=0.01)
    bar.set_label("surprise (nats)")
    return figure


@canvas.in_default_style
def attention(
    model: GPT, tokens: Any, *, layer: int | None = None, head: int | None = None
) -> Picture:
    """Draw attention's weights: the positions that each position reads from.

    Parameters
    ----------
    model : GPT
        The model.
    tokens : str or (T,) int
        A text, which the model's tokenizer encodes, or token ids.
    layer : int or None, default None
        The layer, from 0. None: all layers.
    head : int or None, default None
        The head, from 0. None: all heads.

    Returns
    -------
    Figure
        A row for each layer and a column for each head. Each row of a panel sums to 1.
    """
    ids = canvas.read_tokens(model, tokens)
    if layer is None:
        layers, found = list(range(model.config.n_layer)), list(weights.every_layer(model, ids))
    else:
        layers, found = [layer], [weights.weights(model, ids, layer)]
    heads = list(range(model.config.n_head)) if head is None else [canvas.check_head(model, head)]
    single = len(layers) == len(heads) == 1
    side = 6.0 if single else max(1.2, min(3.2, 13 / len(heads)))
    figure = canvas.make(side * len(heads) + 1.2, side * len(layers) + 0.6)
    panels = figure.subplots(len(layers), len(heads), squeeze=False, sharex=True, sharey=True)
    image: Any = None
    for i, row in enumerate(panels):
        for j, axes in enumerate(row):
            norm = Normalize(0, 1)
            image = canvas.heat(axes, found[i][heads[j]], norm=norm)
            axes.set_aspect("equal")
            if single or side > 2:
                axes.set_title(f"layer {layers[i]}, head {heads[j]}", fontsize=10)
            else:
                axes.set_title(f"{layers[i]}.{heads[j]}", fontsize=8)
                axes.set(xticks=[], yticks=[])
    if single:
        names = canvas.labels(model, ids)
        canvas.label_tokens(panels[0, 0], names)
        canvas.label_tokens(panels[0, 0], names, axis="y")
    figure.supxlabel("position read from")
    figure.supylabel("position that reads")
    figure.colorbar(image, ax=panels, label="weight", shrink=0.8)
    return figure


@canvas.in_default_style
def logit_lens(model: GPT, tokens: Any) -> Picture:
    """Draw the next token that each layer would predict at each position.

    Parameters
    ----------
    model : GPT
        The model.
    tokens : str or (T,) int
        A text, which the model's tokenizer encodes, or token ids.

    Returns
    -------
    Figure
        The output of the model is on top. A cell's colour is the probability of its token.
    """
    found = lens.lens(model, canvas.read_tokens(model, tokens), count=1)
    ids, probs = found.ids[::-1, :, 0], found.probs[::-1, :, 0]
    rows, T = ids.shape
    texts: Array = np.array(canvas.labels(model, ids.ravel()), object).reshape(rows, T)
    longest = min(9, max(map(len, texts.ravel())))
    figure = canvas.make(2.2 + T * max(0.28, 0.1 * longest), 1.2 + 0.34 * rows)
    axes = figure.subplots()
    image = canvas.heat(axes, probs, norm=Normalize(0, 1))
    for i, j in np.ndindex(rows, T):
        text, ink = str(texts[i, j]), canvas.text_color(float(probs[i, j]))
        text = text if len(text) <= 9 else text[:8] + "…"
        axes.text(j, i, text, ha="center", va="center", fontsize=8, color=ink)
    names = ["embedding", *(f"after layer {i}" for i in range(rows - 1))]
    axes.set_yticks(range(rows), names[::-1])
    canvas.label_tokens(axes, canvas.labels(model, found.tokens))
    axes.set(xlabel="token", ylabel="layer")
    figure.colorbar(image, ax=axes, label="probability", pad=0.01)
    return figure
