"""Plot the losses, the learning rate and the gradient norm of one run or several."""

import io
import itertools
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PurePath
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from npgpt.arrays import Array
from npgpt.errors import RunError
from npgpt.system import memory
from npgpt.system.atomic import atomic_write
from npgpt.system.terminal import escape, shorten
from npgpt.training.curve import Curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FONT = "DejaVu Sans"  # comes with matplotlib
# Fonts for the characters that it lacks, as systems name them. Without any, they are escaped.
MORE_FONTS = (
    "Noto Sans CJK SC", "Noto Sans CJK JP", "Source Han Sans SC", "WenQuanYi Micro Hei",
    "WenQuanYi Zen Hei", "PingFang SC", "Hiragino Sans", "Microsoft YaHei", "SimHei", "Yu Gothic",
    "Malgun Gothic", "Apple SD Gothic Neo", "Arial Unicode MS",
)  # fmt: skip
MAX_WIDTH = 72  # characters in one line of the figure
MAX_NAME = 54  # of a run; its best loss follows
MAX_POINTS = 4000  # of a line, which has 900 pixels
# What is said of a line -> its column in a curve, and how it is drawn
SPLITS: dict[str, tuple[str, Any]] = {
    "training": ("train_loss", "-"),
    "validation": ("val_loss", "--"),
}
FAINT: dict[str, Any] = {"alpha": 0.3, "linewidth": 0.7, "zorder": 1}
BEST: dict[str, Any] = {"marker": "*", "markersize": 10, "linestyle": "none", "zorder": 3}
# Panels below the losses: the column, its label and its scale
PANELS = (("lr", "learning rate", "linear"), ("norm", "gradient norm", "log"))


def plot(curves: Sequence[Curve], path: Path) -> None:
    """Write a PNG of losses, learning rate and norm over epochs (below) and tokens (above).

    Raises RunError as `write`.
    """
    write(path, lambda: draw(curves))


def write(path: Path, draw: Callable[[], "Figure"]) -> None:
    """Write the figure that `draw` returns as a PNG, which is replaced atomically.

    Raises RunError if it cannot be drawn or written.
    """
    png = io.BytesIO()
    try:
        memory.require(memory.TO_DRAW, "draw")  # OpenBLAS would end the process
        with default_style():
            draw().savefig(png, format="png")
    except Exception as error:  # matplotlib's own, which depends on the user's settings
        raise RunError(f"{path} could not be drawn: {error or type(error).__name__}") from None
    with atomic_write(path) as file:
        file.write(png.getbuffer())


@contextmanager
def default_style() -> Iterator[None]:
    """Use matplotlib with its own defaults and without its messages.

    A user's matplotlibrc may ask for LaTeX, or for an interactive backend.
    """
    logger = logging.getLogger("matplotlib")
    level = logger.level
    try:
        logger.setLevel(logging.CRITICAL)  # font caches, directories, lines of matplotlibrc
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the imported modules, under python -W error
            matplotlib = import_matplotlib()
            style = dict(matplotlib.rcParamsDefault) | {"text.parse_math": False}
            with matplotlib.rc_context(style | {"font.family": installed_fonts()}):
                yield
    finally:
        logger.setLevel(level)


def import_matplotlib() -> ModuleType:
    """Return matplotlib. By itself, it could not be imported if MPLBACKEND is invalid.

    In a process that a notebook has started, it may name a backend of another environment.
    """
    first = "matplotlib" not in sys.modules
    backend = os.environ.pop("MPLBACKEND", None)
    try:
        import matplotlib
    finally:
        if backend is not None:
            os.environ["MPLBACKEND"] = backend
    if first and backend:
        with suppress(ValueError):
            matplotlib.rcParams["backend"] = backend  # for other users of matplotlib
    return matplotlib


def draw(curves: Sequence[Curve]) -> "Figure":
    """Return the figure: losses above, learning rate and gradient norm below if they are known.

    With several runs, each has a colour and its name in the legend.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator

    below = [panel for panel in PANELS if any(curve.series(panel[0])[0].size for curve in curves)]
    figure = Figure(figsize=(7, 4.5 + 1.3 * len(below)), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(
        1 + len(below), sharex=True, squeeze=False, height_ratios=[3.5] + [1] * len(below)
    )[:, 0]
    chosen = colors(len(curves))
    for curve, color in zip(curves, chosen, strict=True):
        draw_losses(panels[0], curve, color)
    for axes, (name, label, scale) in zip(panels[1:], below, strict=True):
        for curve, color in zip(curves, chosen, strict=True):
            epochs, values = thin(*curve.series(name))
            style = {"color": color, "alpha": 0.8, "linewidth": 0.8}
            axes.plot(epochs, values, "-" + marker_of(epochs), **style)
        axes.set_ylabel(label)
        if scale == "log":
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter("{x:g}")  # matplotlib's own is in TeX
            axes.yaxis.set_minor_formatter("")
    panels[0].set_ylabel("loss (nats per token)")
    panels[-1].set_xlabel("epochs")
    panels[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    for axes in panels:
        axes.grid(alpha=0.25)
    figure.align_ylabels(panels)
    add_legends(figure, panels[0], curves, chosen)

    # The upper axis is the lower one, relabelled: only if all runs share the scale.
    scales = {curve.tokens_per_epoch for curve in curves}
    if len(scales) == 1:
        tokens = scales.pop()
        functions = (lambda e: np.multiply(e, tokens)), (lambda t: np.divide(t, tokens))
        above = panels[0].secondary_xaxis("top", functions=functions)
        above.set_xlabel("tokens seen")
        above.xaxis.set_major_formatter(EngFormatter(sep=""))
    return figure


def draw_losses(axes: "Axes", curve: Curve, color: Any) -> None:
    """Draw both losses of a run, faintly those of its steps, and its best validation loss."""
    axes.plot(*thin(*curve.series("loss")), color=color, **FAINT)
    for name, line in SPLITS.values():
        epochs, losses = curve.series(name)
        axes.plot(epochs, losses, line + marker_of(epochs), color=color)
    if losses.size:
        best = np.argmin(losses)
        axes.plot(epochs[best], losses[best], color=color, **BEST)


def add_legends(
    figure: "Figure", axes: "Axes", curves: Sequence[Curve], chosen: Sequence[Any]
) -> None:
    """Explain the lines in the panel of losses. Name several runs, and their best, below."""
    from matplotlib.lines import Line2D

    color = chosen[0] if len(curves) == 1 else "black"
    handles = [Line2D([], [], linestyle=line, color=color) for _, line in SPLITS.values()]
    labels = list(SPLITS)
    if any(curve.series("loss")[0].size for curve in curves):
        handles.insert(0, Line2D([], [], color=color, **FAINT))
        labels.insert(0, "each step")
    bests = [best_loss(curve) for curve in curves]
    if any(bests):
        handles.append(Line2D([], [], color=color, **BEST))
        labels.append("best validation" + (f": {bests[0]}" if len(curves) == 1 else ""))
    axes.legend(handles, labels, frameon=False)
    if len(curves) == 1:
        return
    names = run_names([curve.path for curve in curves])
    entries = [
        f"{name} (best {best})" if best else name for name, best in zip(names, bests, strict=True)
    ]
    columns = min(4, max(1, MAX_WIDTH // (8 + max(map(len, entries)))))
    figure.set_figheight(figure.get_figheight() + 0.22 * -(-len(entries) // columns))
    legend = figure.legend(
        [Line2D([], [], color=color) for color in chosen],
        ["-"] * len(entries),
        loc="outside lower left",
        ncols=columns,
        frameon=False,
    )
    for text, entry in zip(legend.get_texts(), entries, strict=True):
        text.set_text(entry)  # here, because a legend leaves out names that begin with _


def best_loss(curve: Curve) -> str:
    """Return the lowest validation loss of a run as text, "" if it has none."""
    _, losses = curve.series("val_loss")
    return f"{losses.min():.4g}" if losses.size else ""


def marker_of(epochs: Sequence[float] | Array) -> str:
    """Return the marker of a line: one point makes no line."""
    return "o" if len(epochs) < 3 else ""


def thin(x: Array, y: Array) -> tuple[Array, Array]:
    """Return a line with at most MAX_POINTS points: the lowest and highest of each part of it."""
    if len(x) <= MAX_POINTS:
        return x, y
    bounds = np.linspace(0, len(x), MAX_POINTS // 2 + 1).astype(int)
    kept = sorted(
        first + extreme(y[first:end])
        for first, end in itertools.pairwise(bounds)
        for extreme in (np.argmin, np.argmax)
    )
    return x[kept], y[kept]


def colors(count: int) -> Sequence[Any]:
    """Return a colour for each run."""
    import matplotlib

    if count <= 10:
        return [f"C{i}" for i in range(count)]
    return list(matplotlib.colormaps["turbo"](np.linspace(0, 1, count)))


def run_names(paths: Sequence[Path]) -> list[str]:
    """Return a printable name for each run: the last parts of its path that tell it apart."""
    parts = [Path(os.path.abspath(path)).parts for path in paths]  # the name of "." too
    known, names = known_characters(), []
    for own in parts:
        count = 1
        while count < len(own) and sum(other[-count:] == own[-count:] for other in parts) > 1:
            count += 1
        name = PurePath(*own[-count:]).as_posix()
        shown = (
            char if char.isprintable() and ord(char) in known else escape(char) for char in name
        )
        names.append(shorten("".join(shown), MAX_NAME))
    # Two names may be equal now, if they were long or had escape sequences of their own.
    return [f"{i}: {name}" if names.count(name) > 1 else name for i, name in enumerate(names, 1)]


def installed_fonts() -> list[str]:
    """Return the names of the fonts to draw with."""
    from matplotlib.font_manager import fontManager

    found = {font.name for font in fontManager.ttflist}
    return [FONT, *(name for name in MORE_FONTS if name in found)]


def known_characters() -> set[int]:
    """Return the code points of the printable characters that these fonts have."""
    from matplotlib.font_manager import findfont, get_font

    fonts = (get_font(findfont(name)) for name in installed_fonts())
    return {code for font in fonts for code in font.get_charmap() if chr(code).isprintable()}
