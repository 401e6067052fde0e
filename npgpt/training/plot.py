"""Plot the losses of one run or several."""

import io
import logging
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PurePath
from types import ModuleType
from typing import TYPE_CHECKING, Literal

import numpy as np

from npgpt.errors import RunError
from npgpt.system import memory
from npgpt.system.atomic import atomic_write
from npgpt.system.terminal import escape, shorten
from npgpt.training.curve import Curve

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FONT = "DejaVu Sans"  # comes with matplotlib
# Fonts for the characters that it lacks, as systems name them. Without any, they are escaped.
MORE_FONTS = (
    "Noto Sans CJK SC", "Noto Sans CJK JP", "Source Han Sans SC", "WenQuanYi Micro Hei",
    "WenQuanYi Zen Hei", "PingFang SC", "Hiragino Sans", "Microsoft YaHei", "SimHei", "Yu Gothic",
    "Malgun Gothic", "Apple SD Gothic Neo", "Arial Unicode MS",
)  # fmt: skip
MAX_NAME = 72  # characters in one line of the figure
SPLITS: tuple[tuple[str, Literal["-", "--"]], ...] = (("training", "-"), ("validation", "--"))


def plot(curves: Sequence[Curve], path: Path) -> None:
    """Write a PNG of training and validation losses over epochs (below) and tokens (above).

    The file is replaced atomically. Raises RunError if it cannot be drawn or written.
    """
    png = io.BytesIO()
    try:
        memory.require(memory.TO_DRAW, "draw")  # OpenBLAS would end the process
        with default_style():
            draw(curves).savefig(png, format="png")
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
    """Return the figure. With several runs, each has a colour and its name in the legend."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(7, 4.5), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for curve, color in zip(curves, colors(len(curves)), strict=True):
        epochs = curve.points[:, 0] / curve.tokens_per_epoch
        marker = "o" if len(epochs) < 3 else None  # one point makes no line
        for losses, (_, line) in zip(curve.points[:, 1:].T, SPLITS, strict=True):
            axes.plot(epochs, losses, line, color=color, marker=marker)
    axes.set_xlabel("epochs")
    axes.set_ylabel("loss (nats per token)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.25)

    styles = list(axes.lines)
    if len(curves) > 1:
        styles = [Line2D([], [], linestyle=line, color="black") for _, line in SPLITS]
        names = run_names([curve.path for curve in curves])
        columns = min(4, max(1, MAX_NAME // (8 + max(map(len, names)))))
        figure.set_figheight(4.5 + 0.22 * -(-len(names) // columns))
        legend = figure.legend(
            axes.lines[::2],
            ["-"] * len(names),
            loc="outside lower left",
            ncols=columns,
            frameon=False,
        )
        for text, name in zip(legend.get_texts(), names, strict=True):
            text.set_text(name)  # here, because a legend leaves out names that begin with _
    axes.legend(styles, [split for split, _ in SPLITS], frameon=False)

    # The upper axis is the lower one, relabelled: only if all runs share the scale.
    scales = {curve.tokens_per_epoch for curve in curves}
    if len(scales) == 1:
        scale = scales.pop()
        functions = (lambda e: np.multiply(e, scale)), (lambda t: np.divide(t, scale))
        above = axes.secondary_xaxis("top", functions=functions)
        above.set_xlabel("tokens seen")
    return figure


def colors(count: int) -> Sequence[object]:
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
